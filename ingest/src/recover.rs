//! Start: take up what an earlier process left, and learn which ids are known. Nothing is taken before both are done.
//!
//! Files that are left are drained in the background; their ids are known from the files. While ClickHouse is away at start,
//! known ids cannot be read, and taking events without them could count a repeated one twice: so the start waits for it.

use std::time::Duration;

use bytes::Bytes;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::native;

use crate::config::DedupLimits;
use crate::inserter::{Inserter, Sealed};
use crate::intake::Intake;
use crate::known::{self, KnownId, Whose};
use crate::spool::folder::FolderError;

/// Why the ingester cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// What is left cannot be read.
    #[error("{0}")]
    Folder(#[from] FolderError),
    /// The tables are not there.
    #[error("the tables are missing or older than this version; run `tallyhouse migrate up`: {0}")]
    NotMigrated(StoreError),
}

/// Takes up files that are left, oldest first; half-written ones are removed, damaged ones set aside. Blocking.
pub fn adopt(inserter: &Inserter, intake: &Intake) -> Result<usize, RecoverError> {
    let found = inserter.folder.look()?;
    inserter.metrics.journal_unfinished.inc_by(found.unfinished as u64);
    let mut adopted = 0;
    for path in found.files {
        let Some(content) = inserter.folder.read(&path)? else {
            inserter.metrics.journal_damaged.inc();
            tracing::error!(path = %path.display(), "a batch on the disk is damaged and was set aside");
            continue;
        };
        // It outlived its process, and now its requests' successors may be told that it is durable.
        inserter.folder.sync(&path)?;
        let block: Vec<u8> = content.chunks.iter().flat_map(|chunk: &Bytes| chunk.to_vec()).collect();
        let ids = native::leading_texts::<2>(&block).unwrap_or_default();
        let promise = intake.adopt(ids.iter().map(|[project, id]| (*project, *id)));
        inserter.shelf.put(&path, Sealed::new(promise));
        inserter.metrics.journal_replayed.inc();
        adopted += 1;
    }
    Ok(adopted)
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
