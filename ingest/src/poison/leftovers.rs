//! Removes what attempts and earlier batches left of refused events: rows in raw, and open dead letters of the same events.
//!
//! Others wait for the batch. So when ClickHouse answers that it does not do it (a projection on `events` forbids `DELETE`), this is
//! tried 10 times only, and when statements do not end (a mutation before them hangs), twice, for half a minute; for as long as they end
//! one after the other, five times as long. A row that stays in raw is counted (`refusals.leftovers`) and logged. Errors that pass do not
//! count: inserts meet them, too, so that no batch goes on.

use std::time::Duration;

use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::clickhouse::error::Result as ClientResult;
use tallyhouse_sql::native::{Rows, Value};
use tallyhouse_sql::{Class, StoreError, hex};
use tokio::time::{Instant, timeout_at};

use super::refused_rows::{self, CODE};
use super::search::Cause;
use super::{BatchWriter, Fence, Limit, retry};
use crate::store::Block;

/// Keys in one statement, in bytes. ClickHouse reads statements of 256 KiB at most, and one of them names its keys twice.
const KEYS_BYTES: usize = 100_000;

/// All statements of one attempt. What changes something goes on in ClickHouse when nobody waits for it.
const ATTEMPT_SECONDS: u64 = 15;

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
enum LeftoverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("ClickHouse did not end a statement in time")]
    NotEnded,
    #[error("ClickHouse did not end all statements in time")]
    NotAllEnded,
}

/// When a step is given up: after 10 refusals or attempts that came further, or 2 in which no statement ended.
const LIMIT: Limit<LeftoverError> = Limit {
    weight: |error| match error {
        LeftoverError::NotEnded => 5,
        LeftoverError::NotAllEnded => 1,
        LeftoverError::Store(error) if passes(error) => 0,
        LeftoverError::Store(_) => 1,
    },
    most: 10,
};

/// Whether inserts fail of the same meanwhile. `MEMORY_LIMIT_EXCEEDED` (241) is the query's own limit, or the server's: then it says so.
fn passes(error: &StoreError) -> bool {
    matches!(error.class(), Class::Transient | Class::Overloaded)
        || matches!(error, StoreError::Refused { code: 241, message } if message.contains("(total)"))
}

impl BatchWriter {
    /// Refused rows that an attempt had left in raw go, and so do older dead letters of the same events.
    pub(super) async fn tidy<F: Fence>(
        &self,
        block: Block<'_>,
        rows: &Rows,
        refused: &[(usize, Cause)],
        has_leftovers: bool,
        fence: &F,
    ) -> Result<(), F::Lost> {
        let (store, token) = (&self.store, block.token);
        let leftovers = Leftovers { client: &store.client, rows, refused };
        if has_leftovers {
            let delete = || leftovers.delete_rows();
            if let Err(error) = retry("delete refused events", fence, LIMIT, delete).await? {
                store.metrics.refusals.leftovers.inc_by(refused.len() as u64);
                tracing::error!(
                    %error,
                    token,
                    rows = refused.len(),
                    "refused events may be left in `events`; delete those that have dead letters, then run `tallyhouse rollups rebuild`"
                );
            }
            // Who remembers answers may have asked raw events in between.
            store.changed_days.publish(block.days);
        }
        let discard = || leftovers.discard_older();
        if let Err(error) = retry("discard older dead letters", fence, LIMIT, discard).await? {
            tracing::warn!(%error, token, "events that were refused before have several open dead letters");
        }
        Ok(())
    }
}

/// What is left of refused rows of a batch.
struct Leftovers<'a> {
    client: &'a Client,
    rows: &'a Rows,
    refused: &'a [(usize, Cause)],
}

impl Leftovers<'_> {
    /// Deletes the rows from raw. The time of receipt tells them from the same events sent again later.
    async fn delete_rows(&self) -> Result<(), LeftoverError> {
        let mut attempt = Attempt::begin();
        let keys = self.keys(|row| {
            let text = |column| match self.rows.value(column, row) {
                Some(Value::Text(text)) => unhex(text),
                _ => unhex(b""),
            };
            let time = |column| {
                let time = refused_rows::integer(self.rows, column, row).unwrap_or_default();
                format!("fromUnixTimestamp64Milli({time}, 'UTC')")
            };
            let (project, kind, id) = (text("project_id"), text("event_type"), text("event_id"));
            format!("({project}, {kind}, {}, {id}, {})", time("ts"), time("received_at"))
        });
        for keys in keys {
            // The first three are of the table's key: only parts that may hold such rows are read.
            let condition = format!("(project_id, event_type, ts, event_id, received_at) IN ({keys})");
            let count = format!("SELECT count() FROM events WHERE {condition}");
            let count = self.client.query_raw(&count).with_setting("max_execution_time", ATTEMPT_SECONDS.to_string());
            if attempt.wait(count.fetch_one::<u64>()).await? == 0 {
                continue;
            }
            let delete = self
                .client
                .query_raw(&format!("DELETE FROM events WHERE {condition}"))
                .with_setting("lightweight_deletes_sync", "2")
                .with_setting("wait_end_of_query", "1");
            attempt.wait(delete.execute()).await?;
            attempt.has_changed = true;
        }
        Ok(())
    }

    /// Of several open dead letters of one event the newest stays open, the others are discarded: it was sent again and refused again.
    async fn discard_older(&self) -> Result<(), LeftoverError> {
        let mut attempt = Attempt::begin();
        let keys = self.keys(|row| {
            // As dead letters have it, in UTF-8.
            let text = |column| unhex(refused_rows::text(self.rows, column, row).as_bytes());
            format!("({}, {})", text("project_id"), text("event_id"))
        });
        for keys in keys {
            let open = format!(
                "FROM dead_letters FINAL WHERE (project_id, event_id) IN ({keys}) AND code = '{CODE}' AND state = 'open'"
            );
            // Written as any other step of a dead letter: once more, newer. Chosen inside, where `state` is the column and not the new value.
            let discard = format!(
                "INSERT INTO dead_letters SELECT * REPLACE ('discarded' AS state, now64(3, 'UTC') AS updated_at) FROM (SELECT * {open} \
                 AND (project_id, event_id, failed_at, id) NOT IN (SELECT project_id, event_id, (max((failed_at, id)) AS newest).1, newest.2 \
                 {open} GROUP BY project_id, event_id))"
            );
            let discard = self
                .client
                .query_raw(&discard)
                .with_setting("wait_end_of_query", "1")
                .with_setting("async_insert", "0")
                .with_setting("deduplicate_insert", "disable")
                .with_setting("deduplicate_insert_select", "disable");
            attempt.wait(discard.execute()).await?;
            attempt.has_changed = true;
        }
        Ok(())
    }

    /// A key of each row, as lists that fit a statement.
    fn keys(&self, key: impl Fn(usize) -> String) -> Vec<String> {
        lists(self.refused.iter().map(|(row, _)| key(*row)))
    }
}

/// One of the attempts at a step.
struct Attempt {
    until: Instant,
    /// A statement has ended that the next attempt need not repeat.
    has_changed: bool,
}

impl Attempt {
    fn begin() -> Self {
        Self { until: Instant::now() + Duration::from_secs(ATTEMPT_SECONDS), has_changed: false }
    }

    async fn wait<T>(&self, call: impl Future<Output = ClientResult<T>>) -> Result<T, LeftoverError> {
        match timeout_at(self.until, call).await {
            Ok(result) => Ok(result.map_err(StoreError::from)?),
            Err(_) if self.has_changed => Err(LeftoverError::NotAllEnded),
            Err(_) => Err(LeftoverError::NotEnded),
        }
    }
}

/// Keys as lists that fit a statement.
fn lists(keys: impl Iterator<Item = String>) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    for key in keys {
        match lists.last_mut() {
            Some(list) if list.len() + key.len() < KEYS_BYTES => {
                list.push_str(", ");
                list.push_str(&key);
            }
            _ => lists.push(key),
        }
    }
    lists
}

fn unhex(bytes: &[u8]) -> String {
    format!("unhex('{}')", hex(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::Alone;
    use super::*;

    /// How often a step is tried that meets an error so often before it succeeds, and whether it does.
    async fn tries(times: u32, error: fn() -> LeftoverError) -> (u32, bool) {
        let tried = AtomicU32::new(0);
        let step = || async {
            match tried.fetch_add(1, Ordering::Relaxed) < times {
                true => Err(error()),
                false => Ok(()),
            }
        };
        let Ok(done) = retry("a step", &Alone, LIMIT, step).await;
        (tried.load(Ordering::Relaxed), done.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn only_answers_give_a_step_up() {
        assert_eq!(
            tries(1_000, || StoreError::Refused { code: 344, message: String::new() }.into()).await,
            (10, false)
        );
        assert_eq!(tries(1_000, || LeftoverError::NotEnded).await, (2, false));
        let passing: [fn() -> LeftoverError; 7] = [
            || StoreError::Unreachable(String::new()).into(),
            || StoreError::TimedOut.into(),
            || StoreError::Refused { code: 202, message: String::new() }.into(),
            || StoreError::Refused { code: 241, message: "(total) memory limit exceeded".to_owned() }.into(),
            || StoreError::Refused { code: 242, message: String::new() }.into(),
            || StoreError::Refused { code: 243, message: String::new() }.into(),
            || StoreError::Refused { code: 999, message: String::new() }.into(),
        ];
        for error in passing {
            assert_eq!(tries(1_000, error).await, (1_001, true), "{}", error());
        }
    }

    #[test]
    fn a_list_of_keys_fits_a_statement() {
        // The longest ids: 100 characters of four bytes, twice as many in hex.
        let keys = || (0..1_000).map(|n| format!("{n:0900}"));
        let lists = lists(keys());
        assert!(lists.iter().all(|list| list.len() * 2 < 256 << 10), "{:?}", lists.iter().map(String::len));
        assert_eq!(lists.join(", "), keys().collect::<Vec<_>>().join(", "));
    }
}
