//! Start: finish what an earlier process began, then learn which ids are known. Nothing is taken before both are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};

use crate::config::DedupLimits;
use crate::inserter::Inserter;
use crate::intake::Intake;
use crate::journal::JournalError;
use crate::store::Block;

const HOUR_MS: i64 = 3_600_000;

/// Why the ingester cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal cannot be read.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The tables are not there.
    #[error("the tables are missing or older than this version; run `tallyhouse migrate up`: {0}")]
    NotMigrated(StoreError),
}

/// Sends again what the journal holds, in order. Tokens make it exact whether or not it was stored before.
pub async fn replay(inserter: &Inserter) -> Result<usize, RecoverError> {
    let found = inserter.journal.look()?;
    inserter.metrics.journal_unfinished.inc_by(found.unfinished as u64);
    let mut replayed = 0;
    for path in found.batches {
        let journal = Arc::clone(&inserter.journal);
        let file = path.clone();
        let left = tokio::task::spawn_blocking(move || journal.read(&file)).await;
        match left.map_err(|e| {
            RecoverError::Journal(JournalError::Io { path: path.display().to_string(), source: e.into() })
        })?? {
            Some(left) => {
                let block = Block { token: &left.token, rows: left.rows, chunks: &[left.block] };
                inserter.store.insert(block).await;
                inserter.forget(&left.path).await;
                inserter.metrics.journal_replayed.inc();
                replayed += 1;
            }
            None => {
                inserter.metrics.journal_damaged.inc();
                tracing::error!(path = %path.display(), "a journaled batch is damaged and was set aside");
            }
        }
    }
    Ok(replayed)
}

#[derive(Row, Deserialize)]
struct HourCount {
    hour: i64,
    ids: u64,
}

#[derive(Row, Deserialize)]
struct StoredId {
    project_id: String,
    event_id: String,
}

/// Fills the window with ids of stored events, oldest first, as far back as it reaches or can hold.
///
/// Tries until ClickHouse answers; only missing tables end it.
pub async fn warm(client: &Client, intake: &Intake, dedup: DedupLimits) -> Result<usize, RecoverError> {
    loop {
        match try_warm(client, intake, dedup).await {
            Ok(ids) => return Ok(ids),
            // UNKNOWN_TABLE, UNKNOWN_DATABASE, UNKNOWN_IDENTIFIER, NO_SUCH_COLUMN_IN_TABLE
            Err(error @ StoreError::Refused { code: 60 | 81 | 47 | 16, .. }) => {
                return Err(RecoverError::NotMigrated(error));
            }
            Err(error) => {
                tracing::warn!(%error, "known ids could not be read; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn try_warm(client: &Client, intake: &Intake, dedup: DedupLimits) -> Result<usize, StoreError> {
    let since = now_ms() - i64::try_from(dedup.window.as_millis()).unwrap_or(i64::MAX);
    let mut remembered = 0;
    for hour in hours_to_read(counts(client, since).await?, dedup.ids as u64) {
        let mut rows = client
            .query(
                "SELECT project_id, event_id FROM events \
                 WHERE received_at >= fromUnixTimestamp64Milli({from:Int64}) AND received_at < fromUnixTimestamp64Milli({to:Int64}) \
                 AND bitAnd(flags, 8) = 0",
            )
            .param("from", hour.max(since))
            .param("to", hour + HOUR_MS)
            .fetch::<StoredId>()?;
        while let Some(StoredId { project_id, event_id }) = within(rows.next()).await? {
            // The end of the hour: an id may be remembered for longer than the window, never for less.
            intake.remember(&project_id, &event_id, (hour + HOUR_MS).min(now_ms()));
            remembered += 1;
        }
    }
    Ok(remembered)
}

/// Ids received per hour since `since`, by the hour's start in milliseconds. Generated ids (flag 8) repeat nothing.
async fn counts(client: &Client, since: i64) -> Result<BTreeMap<i64, u64>, StoreError> {
    let rows = client
        .query(
            "SELECT toInt64(toUnixTimestamp(toStartOfHour(received_at))) * 1000 AS hour, count() AS ids FROM events \
             WHERE received_at >= fromUnixTimestamp64Milli({since:Int64}) AND bitAnd(flags, 8) = 0 GROUP BY hour",
        )
        .param("since", since)
        .fetch_all::<HourCount>();
    Ok(within(rows).await?.into_iter().map(|row| (row.hour, row.ids)).collect())
}

/// The newest hours that fit, oldest first. The hour that overflows is read too: the window drops what it cannot hold.
fn hours_to_read(counts: BTreeMap<i64, u64>, most: u64) -> Vec<i64> {
    let mut hours = Vec::new();
    let mut ids = 0;
    for (hour, count) in counts.into_iter().rev() {
        if ids >= most {
            break;
        }
        ids += count;
        hours.push(hour);
    }
    hours.reverse();
    hours
}

async fn within<T>(call: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(Duration::from_secs(60), call).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_hours_win() {
        let counts = BTreeMap::from([(1, 10), (2, 10), (3, 10)]);
        assert_eq!(hours_to_read(counts.clone(), 15), [2, 3]);
        assert_eq!(hours_to_read(counts.clone(), 20), [2, 3]);
        assert_eq!(hours_to_read(counts, 1_000), [1, 2, 3]);
    }
}
