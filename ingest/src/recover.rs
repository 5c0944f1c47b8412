//! Start: finish what an earlier process began, then learn which ids are known. Nothing is taken before both are done.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;

use crate::config::DedupLimits;
use crate::inserter::Inserter;
use crate::intake::Intake;
use crate::journal::JournalError;
use crate::known::{self, KnownId, Whose};
use crate::store::Block;

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

/// Fills the window with ids of stored events, oldest first, as far back as it reaches or can hold.
///
/// Tries until ClickHouse answers; only missing tables end it.
pub async fn warm(client: &Client, intake: &Intake, dedup: DedupLimits) -> Result<usize, RecoverError> {
    loop {
        let remember = |id: KnownId, at| intake.remember(&id.project_id, &id.event_id, at);
        match known::read(client, &Whose::Given, dedup, remember).await {
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
