//! Cache invalidation over Redis: which days changed, and the heartbeats which say that every change has been published.
//!
//! ```text
//! time        HSETNX  …:days:<project> since ..           -> which hash it is: one that was lost and began again counts from the start
//!             HINCRBY …:days:<project> <day> 1            -> what an answer about the day is compared with
//!             HINCRBY …:days:<project> h<hour> 1          -> of the newest days, about the hour; hours since 1970
//!             HINCRBY …:days:<project> w<day> 1           -> changes of the day that named hours: <day> - w<day> named none
//!             PUBLISH …:touched <project> <days> h<hours> -> who listens reads those again
//! everything, HINCRBY …:generations <field> 1             -> part of every answer's key: none from before is found
//! a project   PUBLISH …:cleared <field>                   -> who listens forgets what it holds
//! writers     HSETNX  …:writers since ..                  -> which list it is
//!             HSET    …:writers <id> <beat>               -> every change of what I stored before this beat is published
//!             HDEL    …:writers <id>                      -> I stopped, and every change is published
//! ```
//!
//! A project's name is percent-encoded where something follows it, so that any text is safe there; what a name consists of stays as it is, and
//! reads the same to peers that do not decode.
//!
//! `…` is `tallyhouse:{versions}`. The text in braces keeps all of them, channels too, in one slot of a Redis Cluster: transactions touch several of them, and
//! versions are compared with beats and with the name of the server that has them.
//!
//! Every process that changes stored data publishes the changed days: the ingester after each insert, commands after they changed
//! rollups. Without knowledge of the days everything is invalidated: by an operator, or by an ingester whose predecessor was killed.
//! What Redis did not take may be sent again: versions only rise, and twice does no harm.
//!
//! An unchanged version proves nothing by itself: an ingester may be unable to raise it. So every ingester beats, four times a second
//! and only after Redis took all its changes, and a reader believes versions only while every beat of the list goes on
//! (`query-api/src/cache/heartbeats.rs`). Failure cases:
//! * Redis takes no writes (full, a read-only replica, a failed save), hangs, or does not reach an ingester: its beat stands still;
//! * the ingester is killed: its beat stands still until its successor invalidated everything and removed it from the list, an operator
//!   cleared the cache, or the last answer from before is gone;
//! * Redis lost the list: another `since`, so that nothing from before is given; no list is *nobody knows*;
//! * Redis lost a project's hash: another `since`; no hash is *nobody knows* until one was begun;
//! * an old list came back: beats only rise, so an old one is none.
//!
//! No machine's clock is compared with another's. A list without writers is that of a system whose ingesters were all stopped in
//! order: nobody writes, and versions hold.
//!
//! Versions before `{versions}` have other names: they neither hear nor raise any of this, and must be stopped first. A change that names no
//! hour counts for all hours of the day.
//!
//! At most [`AT_ONCE`] days are sent at a time ([`next`]). Redis carries out what it was sent also when the answer comes too
//! late, so more than fits into [`TIME_BUDGET`] would be sent again for ever, and hold up everybody else meanwhile.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::day_versions::{Day, DayChange, Hour, Unit};
use crate::redis::{self, Pipeline, Pool, RedisError, Unavailable};

/// The hash of a project's days, by project.
pub const DAYS_KEY: &str = "tallyhouse:{versions}:days:";

/// The field that makes the sums of two hashes of a project differ: a random number.
pub const SINCE: &str = "since";

/// The channel: a project, percent-encoded, then days since 1970 and `h` with hours since 1970, blanks between.
pub const CHANNEL: &str = "tallyhouse:{versions}:touched";

/// How often answers were invalidated: a hash by [`cleared_field`], and its own [`INCARNATION`].
pub const GENERATIONS: &str = "tallyhouse:{versions}:generations";

/// The field of [`GENERATIONS`] that counts for all projects.
pub const ALL: &str = "all";

/// The field of [`GENERATIONS`] that a Redis that lost its data does not have any more.
pub const INCARNATION: &str = "incarnation";

/// The channel that names what is invalidated: a [`cleared_field`].
pub const CLEARED: &str = "tallyhouse:{versions}:cleared";

/// Before a project's name in a [`cleared_field`].
const PROJECT: &str = "project:";

/// The hash of who writes: by id the number of the last beat, and [`SINCE`].
pub const WRITERS: &str = "tallyhouse:{versions}:writers";

/// Between two beats of a writer.
pub const BEAT_EVERY: Duration = Duration::from_millis(250);

/// Days that are sent at a time: what Redis carries out in a small part of [`TIME_BUDGET`].
pub const AT_ONCE: usize = 5_000;

/// Connections of a process that only publishes.
pub const CONNECTIONS: usize = 2;

/// The longest wait for Redis.
pub const TIME_BUDGET: Duration = Duration::from_millis(100);

/// Versions outlive every cached answer.
const KEPT_SECONDS: i64 = 8 * 24 * 3_600;

/// Why Redis did not take them.
#[derive(Debug, thiserror::Error)]
pub enum InvalidateError {
    /// No connection.
    #[error("{0}")]
    Pool(#[from] Unavailable),
    /// It refused.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// It hangs.
    #[error("no answer within {TIME_BUDGET:?}")]
    NoAnswer,
}

/// The days to send next, at most [`AT_ONCE`]: the first pending ones behind `after`.
pub fn next(waiting: &BTreeSet<DayChange>, after: Option<&DayChange>) -> BTreeSet<DayChange> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    waiting.range((start, Bound::Unbounded)).take(AT_ONCE).cloned().collect()
}

/// Publishes changed days, no more than [`AT_ONCE`], within [`TIME_BUDGET`].
pub async fn invalidate(pool: &Pool, days: &BTreeSet<DayChange>) -> Result<(), InvalidateError> {
    send(pool, commands(days)).await
}

/// Invalidates every cached answer of all projects, within [`TIME_BUDGET`]. The heartbeats of writers that are `gone` are no longer expected.
pub async fn invalidate_everything(pool: &Pool, gone: &[String]) -> Result<(), InvalidateError> {
    let mut pipeline = clearing(None);
    without(&mut pipeline, gone);
    send(pool, pipeline).await
}

/// Sends a heartbeat, within [`TIME_BUDGET`]: this writer has published every change of what it stored before. `number` rises.
pub async fn beat(pool: &Pool, id: &str, number: u64) -> Result<(), InvalidateError> {
    let mut pipeline = redis::pipe();
    pipeline.hset_nx(WRITERS, SINCE, rand::random::<u64>()).ignore().hset(WRITERS, id, number).ignore();
    send(pool, pipeline).await
}

/// Removes this writer, which has published every change and writes no more.
pub async fn leave(pool: &Pool, id: &str) -> Result<(), InvalidateError> {
    let mut pipeline = redis::pipe();
    without(&mut pipeline, &[id.to_owned()]);
    send(pool, pipeline).await
}

/// Removes writers from the list.
pub fn without(pipeline: &mut Pipeline, ids: &[String]) {
    if !ids.is_empty() {
        pipeline.hdel(WRITERS, ids).ignore();
    }
}

/// An error of any command is returned: `ignore` drops its result only when it succeeded.
async fn send(pool: &Pool, commands: Pipeline) -> Result<(), InvalidateError> {
    let write = async {
        let mut connection = pool.get().await?;
        Ok(commands.query_async::<()>(&mut connection).await?)
    };
    tokio::time::timeout(TIME_BUDGET, write).await.unwrap_or(Err(InvalidateError::NoAnswer))
}

/// What Redis is sent of days, all of it or nothing: a reader compares the fields of a day with each other.
pub fn commands(days: &BTreeSet<DayChange>) -> Pipeline {
    let mut by_project: BTreeMap<&str, BTreeMap<Day, Option<BTreeSet<u8>>>> = BTreeMap::new();
    for DayChange { project, day, hour } in days {
        let hours = by_project.entry(project).or_default().entry(*day).or_insert_with(|| Some(BTreeSet::new()));
        // A change of any hour is one of all of them.
        *hours = hour.and_then(|hour| {
            hours.take().map(|mut hours| {
                hours.insert(hour);
                hours
            })
        });
    }
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for (project, days) in by_project {
        let key = format!("{DAYS_KEY}{project}");
        let mut message: String = form_urlencoded::byte_serialize(project.as_bytes()).collect();
        pipeline.hset_nx(&key, SINCE, rand::random::<u64>()).ignore();
        for (day, hours) in days {
            pipeline.hincr(&key, day, 1).ignore();
            message.push_str(&format!(" {day}"));
            let Some(hours) = hours else { continue };
            pipeline.hincr(&key, with_hours_field(day), 1).ignore();
            for hour in hours {
                let field = hour_field(day.saturating_mul(24).saturating_add(i32::from(hour)));
                message.push_str(&format!(" {field}"));
                pipeline.hincr(&key, field, 1).ignore();
            }
        }
        pipeline.expire(&key, KEPT_SECONDS).ignore();
        // Last: who hears of it finds the new version.
        pipeline.publish(CHANNEL, message).ignore();
    }
    pipeline
}

/// What Redis is sent so that a project has a hash, and tells which.
pub fn beginning(project: &str) -> Pipeline {
    let key = format!("{DAYS_KEY}{project}");
    let mut pipeline = redis::pipe();
    pipeline.atomic().hset_nx(&key, SINCE, rand::random::<u64>()).ignore().expire(&key, KEPT_SECONDS).ignore();
    pipeline
}

/// The field of an hour's version.
pub fn hour_field(hour: Hour) -> String {
    format!("h{hour}")
}

/// The field that counts the changes of a day which named hours.
pub fn with_hours_field(day: Day) -> String {
    format!("w{day}")
}

/// The hour of a field or a word of a message.
pub fn hour_of(word: &str) -> Option<Hour> {
    word.strip_prefix('h')?.parse().ok()
}

/// What Redis is sent so that a project's answers are forgotten, or all. All of it or nothing: a full Redis refuses `HINCRBY` and would
/// still take writers off the list, whose pending changes nobody would doubt any more.
pub fn clearing(project: Option<&str>) -> Pipeline {
    let field = cleared_field(project);
    let mut pipeline = redis::pipe();
    // `PUBLISH` last: who hears of it finds the new generation.
    pipeline.atomic().hincr(GENERATIONS, &field, 1).ignore().publish(CLEARED, &field).ignore();
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

/// The project of a message on [`CHANNEL`], and what changed of it. What is neither day nor hour is left out.
pub fn heard(message: &str) -> Option<(Cow<'_, str>, BTreeSet<Unit>)> {
    let mut words = message.split(' ');
    let encoded = words.next()?;
    // Encoded, it has neither `&` nor `=`: it is one name without a value, or nothing.
    let project = form_urlencoded::parse(encoded.as_bytes()).next().map_or(Cow::Borrowed(""), |(project, _)| project);
    let (mut days, mut units) = (BTreeSet::new(), BTreeSet::new());
    for word in words {
        if let Ok(day) = word.parse::<Day>() {
            days.insert(day);
        } else if let Some(hour) = hour_of(word) {
            units.insert(Unit::Hour(hour));
        }
    }
    let named: BTreeSet<Day> = units
        .iter()
        .filter_map(|unit| if let Unit::Hour(hour) = unit { Some(hour.div_euclid(24)) } else { None })
        .collect();
    for day in days {
        units.insert(Unit::Day(day));
        if !named.contains(&day) {
            units.insert(Unit::Whole(day));
        }
    }
    Some((project, units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_sent_in_chunks_and_each_once() {
        let day = |day| DayChange::day("p", day);
        let waiting: BTreeSet<DayChange> = (0..12_000).map(day).collect();
        let (mut sent, mut chunks) = (BTreeSet::new(), Vec::new());
        loop {
            let some = next(&waiting, sent.last());
            if some.is_empty() {
                break;
            }
            chunks.push(some.len());
            sent.extend(some);
        }
        assert_eq!(chunks, [5_000, 5_000, 2_000]);
        assert_eq!(sent, waiting);
    }

    fn text(pipeline: &Pipeline) -> String {
        String::from_utf8_lossy(&pipeline.get_packed_pipeline()).replace("\r\n", " ")
    }

    #[test]
    fn a_message_names_days_and_hours() {
        let at = |day, hour| DayChange { project: "p".to_owned(), day, hour };
        let sent = text(&commands(&BTreeSet::from([
            at(2, Some(3)),
            at(2, Some(4)),
            at(5, None),
            at(7, Some(1)),
            at(7, None),
        ])));
        assert!(sent.contains(" p 2 h51 h52 5 7 "), "{sent}");
        assert_eq!(sent.matches("HINCRBY").count(), 2 + 2 + 1 + 1, "{sent}");
        let units =
            [Unit::Day(2), Unit::Hour(51), Unit::Hour(52), Unit::Day(5), Unit::Whole(5), Unit::Day(7), Unit::Whole(7)];
        assert_eq!(heard("p 2 h51 h52 5 7 hx x"), Some((Cow::Borrowed("p"), BTreeSet::from(units))));
    }

    mod project_names {
        #![allow(dead_code, unreachable_pub, reason = "a part of another crate too")]
        include!("../../testkit/src/project_names.rs");
    }

    #[test]
    fn any_text_arrives_as_the_project_that_it_was_sent_for() {
        for project in project_names::NAMES.into_iter().chain(project_names::NO_NAMES).chain(["p 2 h51", "h7", "7"]) {
            let sent = commands(&BTreeSet::from([DayChange::day(project, 7)]));
            let arguments = sent.cmd_iter().last().unwrap().args_iter().collect::<Vec<_>>();
            let ::redis::Arg::Simple(message) = arguments.last().unwrap() else { panic!("{project:?}") };
            let message = str::from_utf8(message).unwrap();
            let units = BTreeSet::from([Unit::Day(7), Unit::Whole(7)]);
            assert_eq!(heard(message), Some((Cow::Borrowed(project), units)), "{message:?}");
            assert_eq!(heard_cleared(&cleared_field(Some(project))), Some(project));
            // Braces in a name are not the first ones, which choose the slot.
            assert!(format!("{DAYS_KEY}{project}").starts_with("tallyhouse:{versions}:"));
        }
        for name in project_names::NAMES {
            let sent = text(&commands(&BTreeSet::from([DayChange::day(name, 7)])));
            assert!(sent.contains(&format!(" {name} 7 ")), "older peers read it as it is: {sent}");
        }
    }

    #[test]
    fn what_is_cleared_is_named_as_it_is_understood() {
        for project in [None, Some("p"), Some("all"), Some("")] {
            assert_eq!(heard_cleared(&cleared_field(project)), project);
        }
    }
}
