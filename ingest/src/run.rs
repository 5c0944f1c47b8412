//! Puts the write path together, starts it and stops it.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_schema::Catalogue;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_service::admin::Admin;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Status;
use tallyhouse_service::keys::KeyRing;
use tallyhouse_service::lifecycle;
use tallyhouse_sql::Connection;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admit::Budget;
use crate::agent::Agents;
use crate::config::Config;
use crate::dead_letters::{Courier, Queue, Sink};
use crate::guard::{self, Guard};
use crate::http;
use crate::inserter::Inserter;
use crate::intake::Intake;
use crate::journal::{Journal, JournalError};
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::recover::{self, RecoverError};
use crate::store::Store;

/// What the write path is given.
pub struct Deps {
    /// ClickHouse, as a user that may insert into `events_in` and read `events`.
    pub connection: Connection,
    /// Who may send.
    pub keys: KeyRing,
    /// What event types declare.
    pub catalogue: Catalogue,
    /// Hashes users.
    pub hasher: UserHasher,
    /// Metrics and health.
    pub admin: Admin,
}

/// Why the write path could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal cannot be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// It could not take up what an earlier process left.
    #[error("{0}")]
    Recover(#[from] RecoverError),
    /// Two metrics have one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The write path, ready to run.
pub struct Ingest {
    pipeline: Arc<Pipeline>,
    inserter: Inserter,
    letters: Arc<Queue>,
}

impl Ingest {
    /// Puts it together. Opens the journal, but neither listens nor speaks to ClickHouse yet.
    pub fn new(config: Config, deps: Deps) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::register(&deps.admin.registry)?);
        let journal = Arc::new(Journal::open(&config.data)?);
        let health = deps.admin.health;
        health.set("ingest", Status::Down, "starting");
        let store = Store {
            client: deps.connection.client(),
            timeout: config.batch.insert_timeout,
            metrics: Arc::clone(&metrics),
            health: health.clone(),
        };
        let inserter = Inserter { store, journal, metrics: Arc::clone(&metrics) };
        let letters = Arc::new(Queue::new(metrics.dead_letters_dropped.clone()));
        let pipeline = Pipeline {
            guard: Guard::default(),
            dead_letters: Arc::clone(&letters) as Arc<dyn Sink>,
            keys: deps.keys,
            catalogue: deps.catalogue,
            hasher: deps.hasher,
            agents: Agents::default(),
            budget: Budget::new(config.request.open_bytes),
            intake: Arc::new(Intake::new(config.batch, config.dedup)),
            metrics,
            health,
            config,
        };
        Ok(Self { pipeline: Arc::new(pipeline), inserter, letters })
    }

    /// Serves until `stop`, then drains: what was taken is stored and answered, within the budget of the configuration.
    ///
    /// Requests that come before recovery is done are answered 503 `starting`.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> Result<(), RunError> {
        let Self { pipeline, inserter, letters } = self;
        let mut courier = JoinSet::new();
        courier.spawn(Courier { queue: Arc::clone(&letters), client: inserter.store.client.clone() }.run());
        let drain = pipeline.config.drain;
        let serve = lifecycle::serve("ingest", listener, http::router(Arc::clone(&pipeline)), stop.clone(), drain);
        let work = async {
            recover(&pipeline, &inserter, &stop).await?;
            let mut workers = JoinSet::new();
            for _ in 0..pipeline.config.batch.inserts {
                workers.spawn(inserter.clone().run(Arc::clone(&pipeline.intake)));
            }
            Ok::<_, RunError>(workers)
        };
        let gauges = tokio::spawn(report_gauges(Arc::clone(&pipeline), stop.clone()));
        let work = async {
            let workers = work.await;
            if workers.is_err() {
                stop.cancel();
            }
            workers
        };
        // The open batch is closed at once: requests that wait for it are answered within the drain, not after its linger.
        let close = async {
            stop.cancelled().await;
            pipeline.intake.stop();
        };
        let ((), workers, ()) = tokio::join!(serve, work, close);
        letters.close();
        let mut workers = workers?;
        // What is not stored within the budget is in the journal and is stored at the next start.
        lifecycle::drain("batches and dead letters", drain, async {
            while workers.join_next().await.is_some() {}
            while courier.join_next().await.is_some() {}
        })
        .await;
        gauges.abort();
        Ok(())
    }
}

async fn recover(pipeline: &Pipeline, inserter: &Inserter, stop: &CancellationToken) -> Result<(), RunError> {
    let recovery = async {
        let replayed = recover::replay(inserter).await?;
        let known = recover::warm(&inserter.store.client, &pipeline.intake, pipeline.config.dedup).await?;
        tracing::info!(replayed, known, "recovered");
        match guard::warm(&inserter.store.client, &pipeline.guard).await {
            Ok(values) => tracing::info!(values, "dimension values are known"),
            Err(error) => tracing::warn!(%error, "dimension values could not be read: this hour's bounds start anew"),
        }
        pipeline.intake.open();
        pipeline.health.set("clickhouse", Status::Up, "");
        pipeline.health.set("ingest", Status::Up, "");
        Ok(())
    };
    tokio::select! {
        done = recovery => done,
        () = stop.cancelled() => Ok(()),
    }
}

async fn report_gauges(pipeline: Arc<Pipeline>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        pipeline.metrics.intake(pipeline.intake.gauges(now_ms()));
        pipeline.metrics.dimension_values(pipeline.guard.entries());
        pipeline.metrics.open_bytes(pipeline.budget.reserved());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
