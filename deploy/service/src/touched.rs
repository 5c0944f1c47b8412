//! Touched days, told through Redis to every process that remembers answers about them.
//!
//! ```text
//! HSETNX  tallyhouse:days:{project} since ..  -> which hash it is: one that expired and began again counts from the start
//! HINCRBY tallyhouse:days:{project} {day} 1   -> what an answer about the day is compared with
//! PUBLISH tallyhouse:touched {project} {days} -> who listens reads those days again
//! ```
//!
//! Whoever changes what is stored tells it: the ingester after each insert, tools after they changed rollups. A day that
//! Redis did not take may be told again: versions only rise, and twice does no harm.

use std::collections::{BTreeMap, BTreeSet};
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

/// Tells Redis of days, within [`PATIENCE`].
pub async fn tell(pool: &Pool, days: &BTreeSet<Touched>) -> Result<(), TellError> {
    let write = async {
        let mut connection = pool.get().await?;
        Ok(commands(days).query_async::<()>(&mut connection).await?)
    };
    tokio::time::timeout(PATIENCE, write).await.unwrap_or(Err(TellError::NoAnswer))
}

/// What Redis is sent.
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

/// The project and the days of a message on [`CHANNEL`]. What is no day is left out.
pub fn heard(message: &str) -> Option<(&str, impl Iterator<Item = Day>)> {
    let mut words = message.split(' ');
    let project = words.next()?;
    Some((project, words.filter_map(|day| day.parse().ok())))
}
