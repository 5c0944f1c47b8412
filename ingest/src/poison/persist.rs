//! Rows that a batch leaves in tables of ours: dead letters and repairs.

use bytes::Bytes;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::{Fault, StoreError};

use super::{BatchWriter, Fence, Limit, SEARCH_AFTER, repair, retry};
use crate::dead_letters::{self, DeadLetter};

/// The table of dead letters.
const DEAD_LETTERS: &str = "dead_letters";

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

    /// Inserts a block into a table of ours, until it is there or its values are refused.
    async fn persist<F: Fence>(
        &self,
        table: &str,
        token: &str,
        chunks: Vec<Bytes>,
        fence: &F,
    ) -> Result<Result<(), StoreError>, F::Lost> {
        let is_refused = |error: &StoreError| error.fault() != Fault::Operational;
        let store = &self.store;
        let insert = || insert_block(&store.client, table, token, &chunks, store.timeout);
        retry(table, fence, Limit { counts: is_refused, most: SEARCH_AFTER.1 }, insert).await
    }
}
