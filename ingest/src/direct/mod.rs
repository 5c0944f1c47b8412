//! Ingestion without Kafka: the local log, and the worker that stores its events.
//!
//! ```text
//! start  ids of the window, from files and from the log -> requests are taken
//!        batches that a version before the log left -> stored       (`journal`)
//!        the worker, from the committed offset, or from the `checkpoint` when the machine was started since
//! stop   requests are refused -> what the log has is stored, within the drain -> the rest is in the log
//! ```
//!
//! Only the first start of a folder waits for ClickHouse, and the first one after a restore: it reads recent ids to warm the deduplication window. From then on they are on this disk (`ids`), and a
//! start takes requests whatever ClickHouse does.

pub mod append;
pub mod checkpoint;
mod first_start;
mod housekeeping;
pub mod ids;
pub mod journal;
pub mod partition;
pub mod restored;

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tallyhouse_schema::event::Flags;
use tallyhouse_schema::wire;
use tallyhouse_service::clock::{now_ms, steady_ms};
use tallyhouse_service::health::Status;
use tallyhouse_service::lifecycle;
use tallyhouse_sql::StoreError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cardinality::{CardinalityLimiter, warm_up};
use crate::event_key::{EventKey, KeyHasher};
use crate::journal::{Journal, JournalError};
use crate::log::local::commit::{COMMIT, Commits};
use crate::log::local::disk::Folder as LogFolder;
use crate::log::local::{Identity, Limits, LocalLog, Options, Sync};
use crate::store::Store;
use crate::worker::backpressure::Backpressure;
use crate::worker::committer::BatchCommitter;
use crate::worker::{Common, Worker};
use append::Appender;
use checkpoint::{Checkpointer, LocalStore};
use ids::{Id, RefusedRecords};
use partition::LocalPartition;

/// Between looks at how much waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a start waits for dimension values that are known. They are read meanwhile, however long it takes.
const LEARN_WITHIN: Duration = Duration::from_secs(1);

/// How long the batch on its way may take at the end. Past it, it is repeated at the next start.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Why the ingester cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The log cannot be read.
    #[error("the local log: {0}")]
    Log(#[from] io::Error),
    /// Nothing more would be stored. A new process begins where it stood.
    #[error("the worker of the local log ended by a fault")]
    Worker,
    /// The tables are not there.
    #[error("the tables are missing or older than this version; run `tallyhouse migrate up`: {0}")]
    NotMigrated(StoreError),
}

pub struct Direct {
    /// Where requests leave their events.
    pub appender: Arc<Appender>,
    log: Arc<LocalLog>,
    disk: LogFolder,
    partition: Arc<LocalPartition>,
    /// Whether the ids are those that this folder knows. Otherwise ClickHouse is asked.
    has_ids: bool,
    /// Batches of a version without a log. Its lock is that of this process on all of it.
    journal: Journal,
    store: Store,
    common: Arc<Common>,
    cardinality: Arc<CardinalityLimiter>,
    drain: Duration,
    tables_ready: CancellationToken,
    checkpointer: Checkpointer,
    /// Ids of segments up to the one that begins here are kept.
    saved: AtomicI64,
}

pub struct DirectParts {
    pub store: Store,
    pub common: Arc<Common>,
    /// Dimension values, to be filled at start.
    pub cardinality: Arc<CardinalityLimiter>,
    /// What an acknowledgement waits for.
    pub sync: Sync,
    /// What may wait in the log.
    pub limits: Limits,
    /// How long what was taken may take to be stored after the stop.
    pub drain: Duration,
    /// See [`crate::Deps::tables_ready`].
    pub tables_ready: CancellationToken,
    /// See [`crate::Deps::local_store`].
    pub local_store: Option<LocalStore>,
}

/// Warns of a local log whose events wait: with Kafka nobody reads it.
pub fn warn_of_unread_log(path: &Path) {
    let folder = path.join("log");
    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if names.filter_map(|name| name.into_string().ok()).any(|name| name.ends_with(".log")) {
        tracing::warn!(
            folder = %folder.display(),
            "events may wait in a local log that is not read with KAFKA_BROKERS set: start without it until nothing waits, then remove the folder"
        );
    }
}

impl Direct {
    /// Opens the log below a folder, and reads what is in it. Blocking.
    pub fn open(path: &Path, parts: DirectParts) -> Result<Self, StartError> {
        let DirectParts { store, common, cardinality, sync, limits, drain, tables_ready, local_store } = parts;
        let journal = Journal::open(&path.join("journal"))?;
        let disk = LogFolder::open(&path.join("log"))?;
        let (identity, _) = Identity::open(&disk)?;
        let checkpointer = Checkpointer::open(&disk, local_store)?;
        // Before it nothing is attempted again.
        let stored = Commits::open(&disk, COMMIT)?.1.map_or(0, |committed| committed.next);
        let saved = ids::saved(&disk)?;
        let hasher = KeyHasher::with(identity.secret);

        let window = common.windows.add();
        let (log, committed) = {
            let mut ids_window = window.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = RefusedRecords::load(&disk)?;
            let damaged = ids::load(&disk, &mut ids_window, &refused)? + refused.damaged;
            let lost_from = Arc::clone(&window);
            let on_lost = Box::new(move |keys: &[_]| {
                let mut window = lost_from.lock().unwrap_or_else(PoisonError::into_inner);
                keys.iter().for_each(|key| window.remove(*key));
            });
            let (now, steady) = (now_ms(), steady_ms());
            let options = Options { sync, limits, metrics: Arc::clone(&store.metrics), on_lost, saved };
            let opened = LocalLog::on(disk.clone(), options, |record| {
                let Ok(identity) = wire::identity(record.payload) else { return };
                let key = hasher.key(identity.project, identity.event_id);
                let is_refused = record.offset < stored && refused.has(key, record.offset);
                if !identity.flags.has(Flags::GENERATED_ID) && !is_refused {
                    ids_window.insert(key, record.offset, steady.saturating_sub(now.saturating_sub(record.at)));
                }
            })?;
            if damaged > 0 {
                store.metrics.log.damaged_ids.inc_by(damaged as u64);
                tracing::error!(damaged, "ids on the disk are damaged: repeats of their events are not recognised");
            }
            opened
        };
        if committed.is_none() && !(log.range().is_empty() && saved == i64::MIN && checkpointer.is_first()) {
            // Nothing is appended before the first commit. To begin anew would insert again what is stored.
            return Err(
                io::Error::new(io::ErrorKind::InvalidData, "the file `commit` of the log is damaged or gone").into()
            );
        }
        let saved = AtomicI64::new(log.passed());
        let has_ids = committed.is_some() && !restored::wants_ids(&disk)?;
        let (log, committed) = (Arc::new(log), committed.unwrap_or_default());
        let appender = Arc::new(Appender::new(Arc::clone(&log), window, hasher, committed.next));
        let (generation, stored_before) = checkpointer.began();
        let topic = match generation {
            0 => format!("local-{}", identity.id),
            _ => format!("local-{}-{generation}", identity.id),
        };
        let partition = Arc::new(LocalPartition::new(partition::LocalPartitionParts {
            topic,
            log: Arc::clone(&log),
            disk: disk.clone(),
            appender: Arc::clone(&appender),
            metrics: Arc::clone(&store.metrics),
            found: committed,
            stored_before,
        }));
        Ok(Self {
            appender,
            log,
            disk,
            partition,
            has_ids,
            journal,
            store,
            common,
            cardinality,
            drain,
            tables_ready,
            checkpointer,
            saved,
        })
    }

    /// Runs until `stop`, then stores what was taken, within the drain. What is not stored by then is in the log.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        let this = Arc::new(self);
        let writer = this.log.start()?;
        let ended = this.serve(&stop).await;
        this.appender.stop();
        // Requests that were taken wait for what it still has.
        writer.end().await;
        ended
    }

    async fn serve(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), StartError> {
        if !self.has_ids {
            tokio::select! {
                warmed = self.warm_up() => warmed?,
                () = stop.cancelled() => return Ok(()),
            }
        }
        let left = journal::adopt(&self.journal, &self.store.metrics, &self.appender)?;
        if !self.has_ids || !left.is_empty() {
            // Before they are stored and their files go.
            self.keep_other_ids()?;
        }
        let mut beside = JoinSet::new();
        let this = Arc::clone(self);
        beside.spawn(async move {
            this.tables_ready.cancelled().await;
            warm_up::load(&this.store.everything, &this.cardinality).await;
        });
        // Values of events that come before it count as new ones.
        drop(tokio::time::timeout(LEARN_WITHIN, beside.join_next()).await);
        beside.spawn(Arc::clone(self).checkpoint_regularly());
        // Before the first event: it may be full.
        let this = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || this.look()).await);
        self.appender.open();
        self.store.health.set("ingest", Status::Up, "");

        let (this, drain) = (Arc::clone(self), CancellationToken::new());
        let draining = drain.clone();
        let mut worker = JoinSet::new();
        worker.spawn(async move {
            if draining.run_until_cancelled(this.tables_ready.cancelled()).await.is_none() {
                return;
            }
            journal::store(&this.journal, &this.store.metrics, &this.common.shards.home().writer, left).await;
            this.work(draining).await;
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ended = worker.join_next() => {
                    tracing::error!(?ended, "the worker of the log ended by a fault");
                    return Err(StartError::Worker);
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let this = Arc::clone(self);
            drop(tokio::task::spawn_blocking(move || this.look()).await);
        }
        self.appender.stop();
        let deadline = Instant::now() + self.drain;
        lifecycle::drain("events of the log", self.drain, self.appender.all_stored()).await;
        drain.cancel();
        let last = async { while worker.join_next().await.is_some() {} };
        lifecycle::drain("the last batch", lifecycle::left(deadline).min(END_WITHIN), last).await;
        let this = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || this.checkpoint());
        let made = async { drop(made.await) };
        lifecycle::drain("ClickHouse's files", lifecycle::left(deadline).min(END_WITHIN), made).await;
        Ok(())
    }

    /// Stores what the log has, until it is drained.
    #[allow(clippy::disallowed_methods, reason = "bounded by bytes: the feeder waits while the worker has enough")]
    async fn work(&self, drain: CancellationToken) {
        let (sender, chunks) = mpsc::unbounded_channel();
        let backpressure = Arc::new(Backpressure::default());
        let metrics = Arc::clone(&self.store.metrics);
        let (log, first) = (Arc::clone(&self.log), self.partition.first());
        let mut feeder = JoinSet::new();
        feeder.spawn(partition::feed(log, first, sender, Arc::clone(&backpressure), Arc::clone(&metrics)));
        let (store, shards) = (self.store.clone(), self.common.shards.clone());
        let committer = BatchCommitter::new(Arc::clone(&self.partition), store, shards);
        let common = Arc::clone(&self.common);
        let worker = Worker { committer: Arc::new(committer), project: None, common, chunks, backpressure, drain };
        worker.run().await;
    }
}

/// An entry of the window with its time by the clock.
fn known_id() -> impl Fn((EventKey, i64, i64)) -> Id {
    let (now, steady) = (now_ms(), steady_ms());
    move |(key, offset, at)| Id { key, offset, at: now.saturating_sub(steady.saturating_sub(at)) }
}
