//! Batches -> ClickHouse. A few workers, each with one batch in hand until it is stored.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::clock::steady_ms;

use crate::batch::Batch;
use crate::intake::Intake;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::store::{Block, Store};

/// What a worker works with.
#[derive(Clone)]
pub struct Inserter {
    /// Where they go.
    pub store: Store,
    /// Where batches are kept meanwhile.
    pub journal: Arc<Journal>,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// Between attempts to remove a stored batch's file.
const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(3);

impl Inserter {
    /// Inserts batches until the intake ends.
    pub async fn run(self, intake: Arc<Intake>) {
        while let Some(batch) = intake.next().await {
            self.settle(&intake, batch).await;
        }
    }

    async fn settle(&self, intake: &Intake, batch: Batch) {
        let batch = Arc::new(batch);
        let journal = Arc::clone(&self.journal);
        let copy = Arc::clone(&batch);
        let written = tokio::task::spawn_blocking(move || journal.write(&copy)).await;
        let path = match written {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => return self.hand_back(intake, &batch, &error.to_string()),
            Err(error) => return self.hand_back(intake, &batch, &error.to_string()),
        };
        self.store.insert(Block { token: &batch.token, rows: batch.rows, chunks: &batch.chunks }).await;
        self.forget(&path).await;
        intake.stored(&batch, steady_ms());
    }

    /// Removes a stored batch's file, however often it takes.
    ///
    /// Not given up: a file that stays would be sent again at some later start, when ClickHouse may have forgotten its token,
    /// and be counted twice. Until it is gone its batch counts as uncertain, so nothing gets too far ahead of it.
    pub async fn forget(&self, path: &Path) {
        while let Err(error) = self.journal.remove(path) {
            self.metrics.journal_errors.inc();
            tracing::error!(%error, "the file of a stored batch cannot be removed; trying again");
            tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
        }
    }

    fn hand_back(&self, intake: &Intake, batch: &Batch, reason: &str) {
        self.metrics.journal_errors.inc();
        tracing::error!(
            token = batch.token,
            rows = batch.rows,
            reason,
            "a batch could not be journaled and is handed back"
        );
        intake.handed_back(batch);
    }
}
