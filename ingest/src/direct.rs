//! The embedded way behind the requests: recover, insert batches, drain.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::clock::steady_ms;
use tallyhouse_service::health::Status;
use tallyhouse_service::lifecycle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::DedupLimits;
use crate::guard::{self, Guard};
use crate::inserter::Inserter;
use crate::intake::Intake;
use crate::recover::{self, RecoverError};

/// What it works with.
pub struct Direct {
    /// Where requests leave their events.
    pub intake: Arc<Intake>,
    /// Where batches go.
    pub inserter: Inserter,
    /// Dimension values, to be filled at start.
    pub guard: Arc<Guard>,
    /// The window to be filled at start.
    pub dedup: DedupLimits,
    /// Inserts at a time.
    pub inserts: usize,
    /// How long batches may take after the stop.
    pub drain: Duration,
}

impl Direct {
    /// Runs until `stop`, then stores what was taken, within the drain. What is not stored by then is on the disk.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RecoverError> {
        let (inserter, intake) = (self.inserter.clone(), Arc::clone(&self.intake));
        let adopted = tokio::task::spawn_blocking(move || recover::adopt(&inserter, &intake));
        let adopted = adopted.await.unwrap_or(Ok(0))?;
        let mut drainer = JoinSet::new();
        drainer.spawn(self.inserter.clone().drain(Arc::clone(&self.intake)));
        tokio::select! {
            recovered = self.recover(adopted) => recovered?,
            () = stop.cancelled() => {
                drainer.shutdown().await;
                return Ok(());
            }
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.inserts {
            workers.spawn(self.inserter.clone().run(Arc::clone(&self.intake)));
        }
        while tokio::time::timeout(Duration::from_secs(1), stop.cancelled()).await.is_err() {
            self.inserter.metrics.intake(self.intake.gauges(steady_ms()));
            self.inserter.report(&self.intake);
        }
        // The open batch is closed at once: requests that wait for it are answered within the drain, not after its linger.
        self.intake.stop();
        lifecycle::drain("batches", self.drain, async { while workers.join_next().await.is_some() {} }).await;
        drainer.shutdown().await;
        Ok(())
    }

    async fn recover(&self, adopted: usize) -> Result<(), RecoverError> {
        let health = &self.inserter.store.health;
        let known = recover::warm(&self.inserter.store.client, &self.intake, self.dedup).await?;
        tracing::info!(adopted, known, "recovered");
        guard::learn(&self.inserter.store.client, &self.guard).await;
        self.intake.open();
        health.set("clickhouse", Status::Up, "");
        health.set("ingest", Status::Up, "");
        Ok(())
    }
}
