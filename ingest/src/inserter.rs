//! Batches -> ClickHouse. A few workers, each with one batch in hand until it is stored.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::insert::insert_block;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::intake::Intake;
use crate::journal::Journal;
use crate::metrics::Metrics;

/// What a worker works with.
#[derive(Clone)]
pub struct Inserter {
    /// As the user `writer`.
    pub client: Client,
    /// One attempt may take this long.
    pub timeout: Duration,
    /// Where batches are kept meanwhile.
    pub journal: Arc<Journal>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Where ClickHouse's state is told.
    pub health: Health,
}

/// First and longest pause between attempts; each is twice the one before, +-20 %.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(3_200));

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
        self.insert(&batch.token, batch.rows, &batch.chunks).await;
        self.forget(&path).await;
        intake.stored(&batch, now_ms());
    }

    /// Inserts a block, however often it takes. Returns when it is in `events` and in every rollup.
    pub async fn insert(&self, token: &str, rows: usize, chunks: &[Bytes]) {
        let mut pause = PAUSES.0;
        for attempt in 1_u32.. {
            let started = Instant::now();
            match insert_block(&self.client, "events_in", token, chunks, self.timeout).await {
                Ok(()) => {
                    let bytes = chunks.iter().map(Bytes::len).sum();
                    self.metrics.inserted(rows, bytes, started.elapsed());
                    self.health.set("clickhouse", Status::Up, "");
                    return;
                }
                Err(error) => {
                    self.metrics.insert_failed(error.class());
                    self.health.set("clickhouse", Status::Down, "inserts fail; they are repeated until they succeed");
                    tracing::warn!(%error, token, attempt, rows, "an insert failed and will be repeated");
                }
            }
            let jitter = rand::rng().random_range(0.8..1.2);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Removes a stored batch's file, however often it takes.
    ///
    /// Not given up: a file that stays would be sent again at some later start, when ClickHouse may have forgotten its token,
    /// and be counted twice. Until it is gone its batch counts as uncertain, so nothing gets too far ahead of it.
    pub async fn forget(&self, path: &Path) {
        while let Err(error) = self.journal.remove(path) {
            self.metrics.journal_errors.inc();
            tracing::error!(%error, "the file of a stored batch cannot be removed; trying again");
            tokio::time::sleep(PAUSES.1).await;
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
