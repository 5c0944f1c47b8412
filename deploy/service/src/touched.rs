//! What was changed, told through Redis to every process that remembers answers about it.
//!
//! ```text
//! days        HSETNX  tallyhouse:days:{project} since ..      -> which hash it is: one that expired and began again counts from the start
//!             HINCRBY tallyhouse:days:{project} {day} 1       -> what an answer about the day is compared with
//!             PUBLISH tallyhouse:touched {project} {days}     -> who listens reads those days again
//! everything, HINCRBY tallyhouse:cache:generations {field} 1  -> part of every answer's key: none from before is found
//! a project   PUBLISH tallyhouse:cleared {field}              -> who listens forgets what it holds
//! ```
//!
//! Whoever changes what is stored tells it: the ingester after each insert, tools after they changed rollups. Who cannot say
//! which days tells that everything may have changed: an operator, or an ingester whose predecessor was killed. What Redis
//! did not take may be told again: versions only rise, and twice does no harm.
//!
//! Days are told at most [`AT_ONCE`] at a time ([`next`]). Redis carries out what it was sent also when the answer comes too
//! late, so more than fits into [`PATIENCE`] would be sent again for ever, and hold up everybody else meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use deadpool_redis::redis::{self, Pipeline, RedisError};
use deadpool_redis::{Config, Pool, PoolConfig, PoolError, Runtime, Timeouts};

use crate::day_versions::{Day, Touched};

/// The hash of a project's days, by project.
pub const DAYS_KEY: &str = "tallyhouse:days:";

/// The field that makes the sums of two hashes of a project differ: a random number.
pub const SINCE: &str = "since";

/// The channel: a project, then days since 1970, blanks between.
pub const CHANNEL: &str = "tallyhouse:touched";

/// How often answers were forgotten: a hash by [`cleared_field`], and its own [`INCARNATION`].
pub const GENERATIONS: &str = "tallyhouse:cache:generations";

/// The field of [`GENERATIONS`] that counts for all projects.
pub const ALL: &str = "all";

/// The field of [`GENERATIONS`] that a Redis that lost its data does not have any more.
pub const INCARNATION: &str = "incarnation";

/// The channel on which is said what is to be forgotten: a [`cleared_field`].
pub const CLEARED: &str = "tallyhouse:cleared";

/// Before a project's name in a [`cleared_field`].
const PROJECT: &str = "project:";

/// Days that are told at a time: what Redis carries out in a small part of [`PATIENCE`].
pub const AT_ONCE: usize = 5_000;

/// Connections of who only tells.
pub const CONNECTIONS: usize = 2;

/// The longest wait for Redis.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Versions outlive every cached answer.
const KEPT_SECONDS: i64 = 8 * 24 * 3_600;

/// Why Redis did not take them.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// No connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// It refused.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// It hangs.
    #[error("no answer within {PATIENCE:?}")]
    NoAnswer,
}

/// At most so many connections to a Redis, each waited for no longer than [`PATIENCE`]. The error tells nothing of the URL, which
/// may hold a password.
pub fn pool(url: &str, connections: usize) -> Result<Pool, String> {
    let mut config = Config::from_url(url);
    let timeouts = Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
    config.pool = Some(PoolConfig { max_size: connections, timeouts, ..PoolConfig::default() });
    config
        .create_pool(Some(Runtime::Tokio1))
        .map_err(|_| "is not a Redis URL, such as redis://127.0.0.1:6379".to_owned())
}

/// The days to tell next, at most [`AT_ONCE`]: of those that wait, the first behind `after`.
pub fn next(waiting: &BTreeSet<Touched>, after: Option<&Touched>) -> BTreeSet<Touched> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    waiting.range((start, Bound::Unbounded)).take(AT_ONCE).cloned().collect()
}

/// Tells Redis of days, no more than [`AT_ONCE`], within [`PATIENCE`].
pub async fn tell(pool: &Pool, days: &BTreeSet<Touched>) -> Result<(), TellError> {
    send(pool, commands(days)).await
}

/// Tells Redis that anything may have changed, within [`PATIENCE`]: no answer from before is given again, of any project.
pub async fn tell_everything(pool: &Pool) -> Result<(), TellError> {
    send(pool, clearing(None)).await
}

async fn send(pool: &Pool, commands: Pipeline) -> Result<(), TellError> {
    let write = async {
        let mut connection = pool.get().await?;
        Ok(commands.query_async::<()>(&mut connection).await?)
    };
    tokio::time::timeout(PATIENCE, write).await.unwrap_or(Err(TellError::NoAnswer))
}

/// What Redis is sent of days.
pub fn commands(days: &BTreeSet<Touched>) -> Pipeline {
    let mut by_project: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut pipeline = redis::pipe();
    for Touched { project, day } in days {
        pipeline.hincr(format!("{DAYS_KEY}{project}"), day, 1).ignore();
        by_project.entry(project).or_default().push(day.to_string());
    }
    for (project, days) in by_project {
        pipeline.hset_nx(format!("{DAYS_KEY}{project}"), SINCE, rand::random::<u64>()).ignore();
        pipeline.expire(format!("{DAYS_KEY}{project}"), KEPT_SECONDS).ignore();
        // Last: who hears of it finds the new version.
        pipeline.publish(CHANNEL, format!("{project} {}", days.join(" "))).ignore();
    }
    pipeline
}

/// What Redis is sent so that a project's answers are forgotten, or all.
pub fn clearing(project: Option<&str>) -> Pipeline {
    let field = cleared_field(project);
    let mut pipeline = redis::pipe();
    // Last: who hears of it finds the new generation.
    pipeline.hincr(GENERATIONS, &field, 1).ignore().publish(CLEARED, &field).ignore();
    pipeline
}

/// How a project, or all of them, is named in [`GENERATIONS`] and on [`CLEARED`].
pub fn cleared_field(project: Option<&str>) -> String {
    project.map_or_else(|| ALL.to_owned(), |project| format!("{PROJECT}{project}"))
}

/// The project of a message on [`CLEARED`]; `None` is all of them.
pub fn heard_cleared(message: &str) -> Option<&str> {
    message.strip_prefix(PROJECT)
}

/// The project and the days of a message on [`CHANNEL`]. What is no day is left out.
pub fn heard(message: &str) -> Option<(&str, impl Iterator<Item = Day>)> {
    let mut words = message.split(' ');
    let project = words.next()?;
    Some((project, words.filter_map(|day| day.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_in_pieces_and_each_once() {
        let day = |day| Touched { project: "p".to_owned(), day };
        let waiting: BTreeSet<Touched> = (0..12_000).map(day).collect();
        let (mut told, mut pieces) = (BTreeSet::new(), Vec::new());
        loop {
            let some = next(&waiting, told.last());
            if some.is_empty() {
                break;
            }
            pieces.push(some.len());
            told.extend(some);
        }
        assert_eq!(pieces, [5_000, 5_000, 2_000]);
        assert_eq!(told, waiting);
    }

    #[test]
    fn what_is_cleared_is_named_as_it_is_understood() {
        for project in [None, Some("p"), Some("all"), Some("")] {
            assert_eq!(heard_cleared(&cleared_field(project)), project);
        }
    }
}
