//! Writes the rows that a batch leaves in other tables: dead letters and repairs.
//!
//! A dead letter is the only copy of its event, so a block is dropped quickly (5 attempts, 3 s) only when ClickHouse refuses its
//! values. An error whose number says nothing may pass (a disk, a server that starts): it is tried 40 times, which takes 2 minutes.

use bytes::Bytes;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::{Fault, StoreError};

use super::{BatchWriter, Fence, Limit, repair, retry};
use crate::dead_letters::{self, DeadLetter};

/// The table of dead letters.
const DEAD_LETTERS: &str = "dead_letters";

/// When a block is given up: after 5 errors of a value, or 40 whose number tells nothing.
const LIMIT: Limit<StoreError> = Limit {
    weight: |error| match error.fault() {
        Fault::Data => 8,
        Fault::Unclear => 1,
        Fault::Operational => 0,
    },
    most: 40,
};

impl BatchWriter {
    /// Notes how far the repair of days is.
    pub(super) async fn note<F: Fence>(&self, token: &str, rows: Vec<Bytes>, fence: &F) -> Result<(), F::Lost> {
        if let Err(error) = self.persist(repair::TABLE, token, rows, fence).await? {
            tracing::error!(%error, token, "it cannot be noted which days to compare; run `tallyhouse rollups rebuild`");
        }
        Ok(())
    }

    /// Writes dead letters: without their payloads when those are refused, and none when that is refused too.
    pub async fn write_dead_letters<F: Fence>(
        &self,
        token: &str,
        mut dead_letters: Vec<DeadLetter>,
        fence: &F,
    ) -> Result<(), F::Lost> {
        for is_last in [false, true] {
            match self.persist(DEAD_LETTERS, token, dead_letters::block(&dead_letters), fence).await? {
                Ok(()) => return Ok(()),
                Err(error) if is_last => {
                    self.store.metrics.dead_letters_dropped.inc_by(dead_letters.len() as u64);
                    tracing::error!(%error, token, dead_letters = dead_letters.len(), "dead letters are refused, too, and were dropped");
                }
                Err(error) => {
                    tracing::error!(%error, token, "dead letters are refused; trying without their payloads");
                    dead_letters.iter_mut().for_each(|dead_letter| dead_letter.payload.clear());
                }
            }
        }
        Ok(())
    }

    /// Inserts a block into a table of ours, until it is there or given up.
    async fn persist<F: Fence>(
        &self,
        table: &str,
        token: &str,
        chunks: Vec<Bytes>,
        fence: &F,
    ) -> Result<Result<(), StoreError>, F::Lost> {
        let store = &self.store;
        let insert = || insert_block(&store.client, table, token, &chunks, store.timeout);
        retry(table, fence, LIMIT, insert).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::Alone;
    use super::*;

    /// How a step ends that meets an error so often before it succeeds, and after which time.
    async fn ends(code: u32, times: u32) -> (bool, Duration) {
        let (failed, started) = (AtomicU32::new(0), Instant::now());
        let insert = || async {
            match failed.fetch_add(1, Ordering::Relaxed) < times {
                true => Err(StoreError::Refused { code, message: String::new() }),
                false => Ok(()),
            }
        };
        let Ok(done) = retry("a block", &Alone, LIMIT, insert).await;
        (done.is_ok(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_refused_values_are_dropped_quickly() {
        for unclear in [1001, 425, 74] {
            assert!(ends(unclear, 39).await.0, "{unclear} may pass for minutes");
            let (is_done, took) = ends(unclear, u32::MAX).await;
            assert!(!is_done && (60..300).contains(&took.as_secs()), "{unclear}: given up after {took:?}");
        }
        let (is_done, took) = ends(469, u32::MAX).await;
        assert!(!is_done && took < Duration::from_secs(5), "given up after {took:?}");
        assert!(ends(241, 1_000).await.0, "ClickHouse takes nothing at all: nothing is dropped");
    }
}
