//! Sends the batches that a version without a log left on disk. Each may have been attempted, so the same bytes are sent under the same
//! token, before anything of the log.
//!
//! Failure cases:
//! * a file is damaged: it is set aside, and its events are lost unless they are sent again (`journal_damaged`);
//! * a file is whole but its ids cannot be read: it is sent as it is, and repeats of its events are not recognised (`journal_errors`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_sql::native;

use super::append::Appender;
use crate::journal::{Journal, JournalError};
use crate::poison::{Alone, BatchWriter, Origin};
use crate::store::Block;
use crate::telemetry::Metrics;

const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Finds them, oldest first, and remembers their ids. Blocking; there are none but after an upgrade.
pub fn adopt(folder: &Journal, metrics: &Metrics, appender: &Appender) -> Result<Vec<PathBuf>, JournalError> {
    let found = folder.look()?;
    metrics.journal.journal_unfinished.inc_by(found.unfinished as u64);
    let mut whole = Vec::new();
    for path in found.files {
        let Some(content) = folder.read(&path)? else {
            metrics.journal.journal_damaged.inc();
            tracing::error!(path = %path.display(), "a batch on the disk is damaged and was set aside");
            continue;
        };
        match native::leading_texts::<2>(&content.chunks.concat()) {
            Some(ids) => ids.iter().for_each(|[project, id]| appender.remember(project, id)),
            None => {
                metrics.journal.journal_errors.inc();
                tracing::error!(path = %path.display(), "the ids of a batch on the disk cannot be read: repeats are not known");
            }
        }
        metrics.journal.journal_replayed.inc();
        whole.push(path);
    }
    Ok(whole)
}

/// Stores them, however often it takes.
pub async fn store(folder: &Journal, metrics: &Arc<Metrics>, writer: &BatchWriter, files: Vec<PathBuf>) {
    for path in files {
        let content = loop {
            match folder.read(&path) {
                Ok(content) => break content,
                Err(error) => {
                    metrics.journal.journal_errors.inc();
                    tracing::error!(%error, "a batch cannot be read back; trying again");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        };
        if let Some(content) = content {
            let block =
                Block { token: &content.token, rows: content.rows, chunks: &content.chunks, days: &content.days };
            let origin = Origin { topic: "", begun: Some(0), erased: &[] };
            match writer.store(block, origin, &Alone).await {
                Ok(refused) => {
                    let codes: Vec<u32> = refused.iter().map(|event| event.code).collect();
                    metrics.stored(content.rows, &codes);
                }
            }
        }
        // Not given up: it would be sent again at some later start, when ClickHouse may have forgotten its token.
        while let Err(error) = folder.remove(&path) {
            metrics.journal.journal_errors.inc();
            tracing::error!(%error, "the file of a stored batch cannot be removed; trying again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}
