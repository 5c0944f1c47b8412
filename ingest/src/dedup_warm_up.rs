//! Loads recent ids from ClickHouse to warm the deduplication window, before the first event is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tallyhouse_service::clock::{now_ms, steady_ms};
use tallyhouse_sql::clickhouse::query::Query;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::{StoreError, within};

use crate::limits::DedupLimits;
use crate::placement::HASH_SQL;

const HOUR_MS: i64 = 3_600_000;

/// A query, and each next row of one that is read in pieces.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Which ids belong into a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdFilter {
    /// All that clients gave: nothing repeats a generated one.
    Given,
    /// All that belong to a partition, generated ones too: Kafka may hold a record twice.
    Placed {
        /// The partition,
        partition: i32,
        /// of so many,
        partitions: i32,
        /// and, in a project's own topic, of this project only.
        project: Option<String>,
    },
}

/// An id that is in `events`.
#[derive(Debug, Row, Deserialize)]
pub struct RecentId {
    pub project_id: String,
    pub event_id: String,
    /// Its offset in Kafka; -1 without Kafka.
    pub source_offset: i64,
}

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmUp {
    pub ids: usize,
    /// Ids older than this time did not fit.
    pub cut: Option<i64>,
}

#[derive(Row, Deserialize)]
struct HourCount {
    hour: i64,
    ids: u64,
}

impl IdFilter {
    fn condition(&self) -> String {
        match self {
            Self::Given => "bitAnd(flags, 8) = 0".to_owned(),
            Self::Placed { project, .. } => {
                let project = if project.is_some() { " AND project_id = {project:String}" } else { "" };
                format!("{HASH_SQL} % {{partitions:UInt64}} = {{partition:UInt64}}{project}")
            }
        }
    }

    fn bind(&self, query: Query) -> Query {
        match self {
            Self::Given => query,
            Self::Placed { partition, partitions, project } => {
                let query = query.param("partition", *partition).param("partitions", *partitions);
                match project {
                    Some(project) => query.param("project", project),
                    None => query,
                }
            }
        }
    }
}

/// Passes the ids of events received within the window to `remember`, oldest hour first, at most `dedup.ids`. With each goes the end
/// of its hour: an id may be remembered for longer than the window, never for less.
pub async fn load(
    client: &Client,
    filter: &IdFilter,
    dedup: DedupLimits,
    mut remember: impl FnMut(RecentId, i64),
) -> Result<WarmUp, StoreError> {
    // After a restore, or while consumers were away for longer than the window: ids are as old as they were then.
    let window = i64::try_from(dedup.window.as_millis()).unwrap_or(i64::MAX);
    let away = away(client, window).await?;
    let since = now_ms() - away - window;
    let at = |hour: i64| (hour + HOUR_MS + away).min(steady_ms());
    let counts = counts(client, filter, since).await?;
    let (all, hours) = (counts.len(), hours_to_read(counts, dedup.ids as u64));
    let cut = hours.first().and_then(|(hour, older)| match older {
        0 => (hours.len() < all).then_some(*hour + away),
        _ => Some(at(*hour)),
    });
    let mut ids = 0;
    for (hour, older) in hours {
        // The window keeps what comes last: of an hour that does not fit, the newest.
        let newest = if older > 0 { " ORDER BY received_at LIMIT {most:UInt64} OFFSET {older:UInt64}" } else { "" };
        let query = client.query(&format!(
            "SELECT project_id, event_id, source_offset FROM events \
             WHERE received_at >= fromUnixTimestamp64Milli({{from:Int64}}) \
             AND received_at < fromUnixTimestamp64Milli({{to:Int64}}) AND {}{newest}",
            filter.condition()
        ));
        let query = query.param("older", older).param("most", dedup.ids as u64);
        let query = filter.bind(query.param("from", hour.max(since)).param("to", hour + HOUR_MS));
        let mut rows = query.fetch::<RecentId>()?;
        while let Some(id) = within(READ_WITHIN, rows.next()).await? {
            remember(id, at(hour));
            ids += 1;
        }
    }
    Ok(WarmUp { ids, cut })
}

/// The longest that raw events are kept, and more.
const OLDEST_MS: i64 = 10 * 365 * 86_400_000;

/// How long ago the newest event was received, of all partitions: one may be idle. Zero when any was within `window`. Looks back in spans that
/// double, each with two ends: the index of `received_at` leaves out everything else, and what is older than the newest event is never read.
async fn away(client: &Client, window: i64) -> Result<i64, StoreError> {
    let now = now_ms();
    let newest = async |from: i64, to: i64| {
        let sql = "SELECT toInt64(toUnixTimestamp64Milli(max(received_at))) AS newest FROM events \
             WHERE received_at >= fromUnixTimestamp64Milli({from:Int64}) AND received_at < fromUnixTimestamp64Milli({to:Int64}) \
             HAVING count() > 0";
        within(READ_WITHIN, client.query(sql).param("from", from).param("to", to).fetch_optional::<i64>()).await
    };
    // Clocks of others may be ahead.
    if newest(now.saturating_sub(window), i64::from(u32::MAX) * 1_000).await?.is_some() {
        return Ok(0);
    }
    if within(READ_WITHIN, client.query("SELECT 1 FROM events LIMIT 1").fetch_optional::<u8>()).await?.is_none() {
        return Ok(0);
    }
    let (mut age, mut end) = (window.max(HOUR_MS), window);
    while age < OLDEST_MS {
        let (from, to) = (now.saturating_sub(age.saturating_mul(2)).max(0), now.saturating_sub(end));
        if let Some(newest) = newest(from, to).await? {
            return Ok(now.saturating_sub(newest).max(0));
        }
        end = age.saturating_mul(2);
        age = end;
    }
    Ok(0)
}

/// Ids received per hour since `since`, by the hour's start in milliseconds.
async fn counts(client: &Client, filter: &IdFilter, since: i64) -> Result<BTreeMap<i64, u64>, StoreError> {
    let query = client.query(&format!(
        "SELECT toInt64(toUnixTimestamp(toStartOfHour(received_at))) * 1000 AS hour, count() AS ids FROM events \
         WHERE received_at >= fromUnixTimestamp64Milli({{since:Int64}}) AND {} GROUP BY hour",
        filter.condition()
    ));
    let rows = filter.bind(query.param("since", since)).fetch_all::<HourCount>();
    Ok(within(READ_WITHIN, rows).await?.into_iter().map(|row| (row.hour, row.ids)).collect())
}

/// The newest hours that fit, oldest first, each with how many of its ids are too many: the oldest of the first one.
fn hours_to_read(counts: BTreeMap<i64, u64>, most: u64) -> Vec<(i64, u64)> {
    let mut hours = Vec::new();
    let mut ids = 0;
    for (hour, count) in counts.into_iter().rev() {
        if ids >= most {
            break;
        }
        ids += count;
        hours.push((hour, ids.saturating_sub(most)));
    }
    hours.reverse();
    hours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_hours_win() {
        let counts = BTreeMap::from([(1, 10), (2, 10), (3, 10)]);
        assert_eq!(hours_to_read(counts.clone(), 15), [(2, 5), (3, 0)]);
        assert_eq!(hours_to_read(counts.clone(), 20), [(2, 0), (3, 0)]);
        assert_eq!(hours_to_read(counts, 1_000), [(1, 0), (2, 0), (3, 0)]);
    }
}
