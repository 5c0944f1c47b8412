//! A lane: what happens to the records of one partition while it is ours.
//!
//! ```text
//! begin    read the committed offset and intent -> learn the known ids
//! then     records -> building … due or full -> permit -> intent -> dead letters -> insert(token) -> progress
//! ```
//!
//! While one batch is inserted the next one is filled. A batch is due when it has lingered and its lane's pace allows, and
//! begins when a permit is free: permits bound the inserts of the whole process.
//!
//! The lane ends when it is drained: the batch on its way is finished, the one being filled is dropped and read again by the next
//! owner. When finishing takes too long, the rebalance takes the right to commit away and aborts it (`consumer`).

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use tallyhouse_service::clock::{now_ms, steady_ms};
use tallyhouse_service::health::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::CannotReplay;
use super::committer::{BatchCommitter, Lost};
use super::filling::{Chunk, Filling, Judge};
use super::intent::Intent;
use super::ownership::{Ownership, Start, blocking};
use crate::batch::KeyHasher;
use crate::config::{BatchLimits, DedupLimits};
use crate::known::{self, IdFilter};
use crate::poison::{BatchWriter, Refused};
use crate::window::Window;

/// What all lanes of a process share.
pub struct Common {
    /// Bounds of batches.
    pub batch: BatchLimits,
    /// Bounds of the windows of all lanes together.
    pub dedup: DedupLimits,
    /// Hashes ids.
    pub hasher: KeyHasher,
    /// Stores batches of which something is refused.
    pub writer: BatchWriter,
    /// Inserts at a time.
    pub permits: Arc<Semaphore>,
    /// Lanes at the moment: they share the windows' memory and the pace of inserts.
    pub lanes: AtomicUsize,
}

/// Which partition, and how its records come.
pub struct Lane<C: ConsumerContext> {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// The project, when the topic is its own.
    pub(super) project: Option<String>,
    pub(super) common: Arc<Common>,
    pub(super) committer: Arc<BatchCommitter<C>>,
    pub(super) chunks: mpsc::UnboundedReceiver<Chunk>,
    /// Bytes waiting in `chunks`; the sender pauses the partition when they are many.
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) drain: CancellationToken,
}

const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why a lane ends before it is drained.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the partition was given up")]
    Lost,
    #[error("{0}")]
    CannotReplay(#[from] CannotReplay),
}

/// What was going on beside the filling.
enum Done {
    /// A batch is stored, but for some events; the offset after it is not committed yet.
    Stored {
        next: i64,
        refused: Refused,
    },
    Committed,
}

type Running = JoinSet<Result<Done, Lost>>;

impl<C: ConsumerContext + 'static> Lane<C> {
    /// Runs until the lane is drained or its partition is lost.
    pub async fn run(mut self) {
        let drain = self.drain.clone();
        let mut filling = tokio::select! {
            filling = self.begin() => filling,
            () = drain.cancelled() => return,
        };
        match self.work(&mut filling).await {
            Ok(()) => {}
            Err(Ended::Lost) => tracing::warn!(topic = &*self.topic, partition = self.partition, "lane lost"),
            Err(error @ Ended::CannotReplay(_)) => {
                tracing::error!(topic = &*self.topic, partition = self.partition, %error, "the lane stands still");
                self.committer.metrics.kafka.lanes_blocked.inc();
                self.committer.store.health.set("kafka", Status::Down, "a partition stands still: see the log");
                drain.cancelled().await;
                self.committer.metrics.kafka.lanes_blocked.dec();
            }
        }
    }

    async fn begin(&self) -> Filling {
        let start = self.ask("where to begin", Ownership::committed).await;
        let replay = self.replayable(start).await;
        let window = self.warm().await;
        tracing::info!(
            topic = &*self.topic,
            partition = self.partition,
            known = window.ids(),
            replays = replay.is_some(),
            "lane begun"
        );
        Filling::new(window, replay)
    }

    /// The intent, if the log still has all of it. Otherwise what is stored of it is known by id and offset, and is skipped.
    async fn replayable(&self, start: Start) -> Option<Intent> {
        let intent = start.intent?;
        let range = self.ask("which records there are", Ownership::range).await;
        let age = Duration::from_millis(u64::try_from(now_ms() - intent.at).unwrap_or_default());
        let is_whole = range.start <= intent.first && intent.last < range.end;
        self.committer.metrics.kafka.intent_found(age, is_whole);
        let (topic, partition) = (&*self.topic, self.partition);
        if is_whole {
            tracing::info!(topic, partition, intent.first, intent.last, ?age, "replaying a batch that was begun");
            return Some(intent);
        }
        tracing::error!(
            topic,
            partition,
            ?intent,
            ?range,
            "the log no longer has a batch that was begun; run `tallyhouse rollups verify`"
        );
        None
    }

    /// The ids that belong to this partition, from ClickHouse. Tries until it answers.
    async fn warm(&self) -> Window {
        let ids = self.capacity();
        let dedup = DedupLimits { ids, ..self.common.dedup };
        let partitions = self.ask("how many partitions there are", Ownership::partitions).await;
        let filter = IdFilter::Placed { partition: self.partition, partitions, project: self.project.clone() };
        loop {
            let mut window = Window::new(dedup.window, ids);
            let read = known::read(&self.committer.store.client, &filter, dedup, |id, at| {
                window.insert(self.common.hasher.key(&id.project_id, &id.event_id), id.source_offset, at);
            });
            match read.await {
                Ok(_) => return window,
                Err(error) => {
                    let (topic, partition) = (&*self.topic, self.partition);
                    tracing::warn!(topic, partition, %error, "known ids could not be read; trying again");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Asks Kafka until it answers: whoever drains the lane ends that.
    async fn ask<T, E>(&self, what: &str, call: fn(&Ownership<C>) -> Result<T, E>) -> T
    where
        T: Send + 'static,
        E: From<KafkaError> + Display + Send + 'static,
    {
        loop {
            match blocking(&self.committer.ownership, call).await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::warn!(topic = &*self.topic, partition = self.partition, %error, what, "Kafka does not tell; asking again");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// This lane's share of the windows' memory.
    fn capacity(&self) -> usize {
        (self.common.dedup.ids / self.common.lanes.load(Ordering::Relaxed).max(1)).max(1)
    }

    async fn work(&mut self, filling: &mut Filling) -> Result<(), Ended> {
        let limits = self.common.batch;
        let mut running = Running::new();
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut not_before = Instant::now();
        loop {
            let is_draining = self.drain.is_cancelled();
            if is_draining && running.is_empty() {
                return Ok(());
            }
            let judge = Judge { partition: self.partition, hasher: &self.common.hasher, limits, now: steady_ms() };
            let has_more = !is_draining && filling.judge(&judge)?;
            self.queued.fetch_sub(filling.take_freed(), Ordering::Relaxed);
            let is_free = running.is_empty() && !is_draining;
            let due = filling.due(limits).map(|due| due.max(not_before)).filter(|_| is_free);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            if is_due && let Some(permit) = permit.take() {
                not_before = Instant::now() + self.pace();
                self.start(filling, permit, &mut running);
                continue;
            }
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => self.ended(ended, filling, &mut running)?,
                Ok(free) = Arc::clone(&self.common.permits).acquire_owned(), if is_due => permit = Some(free),
                Some(chunk) = self.chunks.recv(), if !is_draining && filling.wants_chunk(limits) => filling.begin(chunk),
                () = tokio::time::sleep_until(due.unwrap_or(not_before)), if due.is_some() && !is_due => {}
                () = self.drain.cancelled(), if !is_draining => {}
                () = tokio::task::yield_now(), if has_more => {}
                else => return Ok(()),
            }
        }
    }

    fn start(&self, filling: &mut Filling, permit: OwnedSemaphorePermit, running: &mut Running) {
        let Some(closed) = filling.close(&self.topic, self.partition) else { return };
        filling.window.set_capacity(self.capacity());
        self.committer.metrics.kafka.lane_window(
            &self.topic,
            self.partition,
            filling.window.ids(),
            filling.window.reach(steady_ms()),
        );
        let committer = Arc::clone(&self.committer);
        running.spawn(async move {
            let next = closed.last + 1;
            let refused = committer.store_batch(closed).await?;
            drop(permit);
            Ok(Done::Stored { next, refused })
        });
    }

    fn ended(
        &self,
        ended: Result<Result<Done, Lost>, tokio::task::JoinError>,
        filling: &mut Filling,
        running: &mut Running,
    ) -> Result<(), Ended> {
        match ended {
            Ok(Ok(Done::Stored { next, refused })) => {
                // Whoever sends them again is not told that they are known.
                for (project, id) in &refused.ids {
                    filling.window.remove(self.common.hasher.key(project, id));
                }
                // The next intent says as much as a progress commit; only where none follows at once is one worth its time.
                if self.drain.is_cancelled() || !filling.is_full(self.common.batch) {
                    let committer = Arc::clone(&self.committer);
                    running.spawn(async move { committer.commit(next, "").await.map(|()| Done::Committed) });
                }
                Ok(())
            }
            Ok(Ok(Done::Committed)) => Ok(()),
            Ok(Err(Lost)) => Err(Ended::Lost),
            Err(error) => {
                tracing::error!(topic = &*self.topic, partition = self.partition, %error, "a lane's work ended by itself");
                Err(Ended::Lost)
            }
        }
    }

    /// Between the starts of two inserts of this lane, so that all lanes together keep the pace of the configuration.
    fn pace(&self) -> Duration {
        self.common.batch.pace * u32::try_from(self.common.lanes.load(Ordering::Relaxed)).unwrap_or(1)
    }
}
