//! A partition worker: what happens to the records of one partition of a log while it is ours, in Kafka or on this machine.
//!
//! ```text
//! begin    read the committed offset and intent -> load recent ids to warm the dedup window      (`start`)
//! then     records -> building … due or full -> permit -> intent -> dead letters -> insert(token) -> progress
//! ```
//!
//! While one batch is inserted the next one is filled. A batch is due when it has lingered and the pace allows ([`pace`]), and
//! begins when a permit is free: permits bound the inserts of the whole process into each shard.
//!
//! **A range is written down before it is inserted.** The *intent* ([`crate::intent`]) is the metadata of a commit: "from here to `last`, without
//! these offsets". It makes the content of a batch a function of the log alone. Whoever comes to a partition that has one re-reads
//! exactly that range and inserts exactly these rows under the same token, which ClickHouse counts once however often they arrive.
//! So a batch may end at any moment, also for reasons of time.
//!
//! A worker ends when it is drained: the batch on its way is finished, the one being filled is dropped and read again by the next
//! owner. When finishing takes too long, whoever drains it takes the right to commit away and aborts it.

pub mod backpressure;
pub mod batch;
pub mod committer;
pub mod filling;
pub mod pace;
pub mod partition;
mod position;
mod start;
pub mod traced;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_service::clock::steady_ms;
use tallyhouse_service::health::Status;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event_key::KeyHasher;
use crate::limits::BatchLimits;
use crate::shard_writers::ShardWriters;
use crate::store::Store;
use crate::window::{Windows, locked};
use backpressure::Backpressure;
use batch::CannotReplay;
use committer::{BatchCommitter, Lost, UnlistedShard};
use filling::{Chunk, Filling, Judge};
use pace::Pace;
use partition::{Partition, RefusedRecord};

const COMPONENT: &str = "worker";

/// What all workers of a process share.
pub struct Common {
    pub batch: BatchLimits,
    /// Ids that the partitions know.
    pub windows: Windows,
    pub hasher: KeyHasher,
    /// Where batches are stored, and how many at a time.
    pub shards: ShardWriters,
    /// Bytes of the batches that are being filled.
    pub filling: AtomicUsize,
    /// Workers at the moment: they share the pace of inserts.
    pub workers: AtomicUsize,
    /// Time between inserts.
    pub pace: Pace,
    /// Whose events are not stored any more.
    pub suppressions: Suppressions,
}

/// Which partition, and how its records come.
pub struct Worker<P> {
    /// Stores its batches.
    pub committer: Arc<BatchCommitter<P>>,
    /// The project, when the topic is its own.
    pub project: Option<String>,
    /// What it shares with others.
    pub common: Arc<Common>,
    /// Its records, in order.
    pub chunks: mpsc::UnboundedReceiver<Chunk>,
    /// What waits in `chunks`; the sender stops when that is much.
    pub backpressure: Arc<Backpressure>,
    pub drain: CancellationToken,
}

/// Why a worker ends before it is drained.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the partition was given up")]
    Lost,
    #[error("{0}")]
    CannotReplay(#[from] CannotReplay),
    #[error("{0}")]
    UnlistedShard(#[from] UnlistedShard),
}

/// What was going on beside the filling.
enum Done {
    /// A batch is stored, but for some events; the offset after it is not committed yet.
    Stored {
        next: i64,
        refused: Vec<RefusedRecord>,
        took: Duration,
    },
    Committed,
}

/// A batch may always grow to so many bytes.
const LEAST_BYTES: usize = 256 << 10;

/// All batches that are being filled may have so many times the bytes of one.
const FULL_BATCHES: usize = 4;

/// What a worker's batch takes of the memory for all of them.
struct Share<'a> {
    all: &'a Common,
    mine: usize,
}

impl Share<'_> {
    /// How large the batch may become, which has so many bytes now.
    fn limits(&mut self, bytes: usize) -> BatchLimits {
        let batch = self.all.batch;
        self.all.filling.fetch_add(bytes, Ordering::Relaxed);
        let all = self.all.filling.fetch_sub(self.mine, Ordering::Relaxed) - self.mine;
        self.mine = bytes;
        let room = (FULL_BATCHES * batch.bytes).saturating_sub(all.saturating_sub(bytes));
        BatchLimits { bytes: batch.bytes.min(room.max(LEAST_BYTES)), ..batch }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.all.filling.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

type InsertTasks = JoinSet<Result<Done, Lost>>;

/// When inserts began and how long they took.
#[derive(Debug, Clone, Copy)]
struct Inserts {
    last: Option<Instant>,
    took: Duration,
    /// Offsets before it are in a batch that was closed.
    closed: i64,
    /// The version of suppressions that the batch under way was judged by.
    judged: Option<u64>,
}

impl Inserts {
    /// The version that the oldest record was judged by that is not stored yet.
    fn held(&self, filling: &Filling) -> Option<u64> {
        self.judged.into_iter().chain(filling.judged()).min()
    }
}

/// A blocked partition: `/health` reports it until an operator has acted and the value is dropped.
struct BlockedPartition(Store);

impl BlockedPartition {
    fn new(store: &Store, what_to_do: &str) -> Self {
        store.metrics.blocked_partitions.inc();
        store.health.set(COMPONENT, Status::Down, what_to_do);
        Self(store.clone())
    }
}

impl Drop for BlockedPartition {
    fn drop(&mut self) {
        self.0.metrics.blocked_partitions.dec();
        if self.0.metrics.has_no_blocked_partition() {
            self.0.health.set(COMPONENT, Status::Up, "");
        }
    }
}

impl<P: Partition> Worker<P> {
    /// Runs until the worker is drained or its partition is lost.
    pub async fn run(mut self) {
        let drain = self.drain.clone();
        let mut filling = tokio::select! {
            filling = self.begin() => filling,
            () = drain.cancelled() => return,
        };
        let partition = self.partition();
        let (topic, number) = (partition.topic(), partition.number());
        self.backpressure.open();
        match self.work(&mut filling).await {
            Ok(()) => {}
            Err(Ended::Lost) => tracing::warn!(topic, number, "partition lost"),
            Err(error @ (Ended::CannotReplay(_) | Ended::UnlistedShard(_))) => {
                tracing::error!(topic, number, %error, "the partition stands still");
                let _blocked = BlockedPartition::new(&self.committer.store, "a partition stands still: see the log");
                self.backpressure.give_back(&mut self.chunks, filling);
                drain.cancelled().await;
            }
        }
    }

    fn partition(&self) -> Arc<P> {
        Arc::clone(&self.committer.partition)
    }

    async fn work(&mut self, filling: &mut Filling) -> Result<(), Ended> {
        let partition = self.partition();
        let mut share = Share { all: &self.common, mine: 0 };
        let mut running = InsertTasks::new();
        let judging = self.common.suppressions.judging();
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut inserts = Inserts { last: None, took: Duration::ZERO, closed: i64::MIN, judged: None };
        loop {
            let is_draining = self.drain.is_cancelled();
            if is_draining && running.is_empty() {
                return Ok(());
            }
            let limits = share.limits(filling.bytes());
            let suppressions = judging.begin(inserts.held(filling));
            let judge = Judge {
                partition: partition.number(),
                hasher: &self.common.hasher,
                limits,
                suppressions: &suppressions,
                now: steady_ms(),
            };
            let has_more = !is_draining && filling.judge(&judge)?;
            judging.end(inserts.held(filling));
            self.backpressure.taken(filling.take_freed());
            // What was stored before the jump is committed before it.
            if running.is_empty()
                && let Some(jump) = filling.take_jump()
            {
                let drain = self.drain.clone();
                drain.run_until_cancelled(self.jumped(filling, jump)).await;
                continue;
            }
            let shard = self.committer.shard(filling.shard())?;
            let is_free = running.is_empty() && !is_draining;
            let is_urgent = filling.is_full(limits) || partition.wanted() >= inserts.closed.max(0);
            let not_before = self.not_before(&inserts, is_urgent);
            // At the end nothing comes any more.
            let is_end = partition.wanted() == i64::MAX;
            let linger = if is_end { Duration::ZERO } else { limits.linger };
            let due = filling.due(BatchLimits { linger, ..limits }).map(|due| due.max(not_before)).filter(|_| is_free);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            if is_due && let Some(permit) = permit.take() {
                inserts.last = Some(Instant::now());
                inserts.judged = filling.judged();
                inserts.closed = self.start(filling, permit, &mut running).unwrap_or(inserts.closed);
                continue;
            }
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => self.ended(ended, filling, limits, &mut running, &mut inserts)?,
                Some(free) = shard.permits.acquire(), if is_due => permit = Some(free),
                Some(chunk) = self.chunks.recv(), if !is_draining && filling.wants_chunk(limits) => filling.begin(chunk),
                () = tokio::time::sleep_until(due.unwrap_or(not_before)), if due.is_some() && !is_due => {}
                () = partition.hurried(), if !is_end => {}
                () = self.drain.cancelled(), if !is_draining => {}
                () = tokio::task::yield_now(), if has_more => {}
                else => return Ok(()),
            }
        }
    }

    fn not_before(&self, inserts: &Inserts, is_urgent: bool) -> Instant {
        let workers = u32::try_from(self.common.workers.load(Ordering::Relaxed)).unwrap_or(1);
        let pause = self.common.pace.between(inserts.took, workers, is_urgent);
        inserts.last.map_or_else(Instant::now, |last| last + pause)
    }

    /// Closes the batch and begins to store it. Returns the offset after it.
    fn start(&self, filling: &mut Filling, permit: OwnedSemaphorePermit, running: &mut InsertTasks) -> Option<i64> {
        let partition = self.partition();
        let closed = filling.close(partition.topic(), partition.number())?;
        if let (Some(window), Some(number)) = (&filling.window, partition.number()) {
            self.common.windows.trim();
            let window = locked(window);
            let (ids, reach) = (window.ids(), window.reach(steady_ms()));
            self.committer.metrics.kafka.window(partition.topic(), number, ids, reach);
        }
        let (committer, next, started) = (Arc::clone(&self.committer), closed.last + 1, Instant::now());
        let (suppressions, judged, has_erased) =
            (self.common.suppressions.clone(), closed.judged, !closed.erased.is_empty());
        let topic = self.project.is_none().then(|| partition.topic().to_owned());
        running.spawn(async move {
            let refused = traced::store(&committer, closed, topic).await?;
            // An erasure does not wait for ever for who stores nothing: it looks again when it hears of this. So it does when an earlier
            // attempt may have stored what was left out now.
            if has_erased || suppressions.load().version() != judged {
                suppressions.add_leftover();
            }
            drop(permit);
            Ok(Done::Stored { next, refused, took: started.elapsed() })
        });
        Some(next)
    }

    fn ended(
        &self,
        ended: Result<Result<Done, Lost>, tokio::task::JoinError>,
        filling: &mut Filling,
        limits: BatchLimits,
        running: &mut InsertTasks,
        inserts: &mut Inserts,
    ) -> Result<(), Ended> {
        match ended {
            Ok(Ok(Done::Stored { next, refused, took })) => {
                inserts.took = took;
                inserts.judged = None;
                // A retry of them is not a duplicate.
                if let Some(window) = &filling.window {
                    let mut window = locked(window);
                    for RefusedRecord { offset, event } in &refused {
                        window.forget(self.common.hasher.key(&event.project, &event.event_id), *offset);
                    }
                }
                self.committer.partition.stored(next, &refused);
                // The next intent says as much as a progress commit; only where none follows at once is one worth its time.
                if self.drain.is_cancelled() || !filling.is_full(limits) || filling.has_jump() {
                    let committer = Arc::clone(&self.committer);
                    running.spawn(async move { committer.commit(next, "").await.map(|()| Done::Committed) });
                }
                Ok(())
            }
            Ok(Ok(Done::Committed)) => Ok(()),
            Ok(Err(Lost)) => Err(Ended::Lost),
            Err(error) => {
                let (topic, number) = (self.committer.partition.topic(), self.committer.partition.number());
                tracing::error!(topic, number, %error, "a worker's task ended by itself");
                Err(Ended::Lost)
            }
        }
    }
}
