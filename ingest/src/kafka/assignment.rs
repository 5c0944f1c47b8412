//! The partitions assigned to this process, and the partition worker of each.
//!
//! ```text
//! assigned -> noted -> the poll loop starts workers        revoked -> the rebalance waits while workers drain, then takes their right to commit
//! ```
//!
//! The callbacks of a rebalance run inside a poll. A partition may be revoked in one and assigned again in the next, so the poll
//! loop learns what was revoked: records that it had collected before must not reach a later worker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{Statistics, TopicPartitionList};
use tallyhouse_service::clock::now_ms;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lag::{Offsets, Unstored};
use super::ownership::Ownership;
use super::parts::ConsumerParts;
use crate::worker::Worker;
use crate::worker::backpressure::Backpressure;
use crate::worker::committer::BatchCommitter;
use crate::worker::filling::Chunk;

/// How long commits that are on their way are waited for when their partitions are given up.
const COMMIT_WITHIN: Duration = Duration::from_secs(1);

/// A partition of a topic.
pub(super) type TopicPartition = (String, i32);

/// A running partition worker, as the poll loop holds it.
pub(super) struct WorkerHandle {
    chunks: mpsc::UnboundedSender<Chunk>,
    pub(super) backpressure: Arc<Backpressure>,
    drain: CancellationToken,
    ownership: Arc<Ownership<Context>>,
    task: JoinHandle<()>,
    unstored: Unstored,
    /// The consumer does not fetch its records.
    pub(super) is_paused: bool,
}

/// The context of the consumer, for the callbacks of a rebalance.
pub(super) struct Context {
    pub(super) parts: ConsumerParts,
    runtime: Handle,
    workers: Mutex<HashMap<TopicPartition, WorkerHandle>>,
    assigned: Mutex<Vec<TopicPartition>>,
    /// Partitions that were revoked since the poll loop last looked.
    gone: Mutex<Vec<TopicPartition>>,
    has_gone: AtomicBool,
}

impl WorkerHandle {
    /// Hands over records. A worker that has ended or is blocked drops them: the next owner reads them again.
    pub(super) fn take(&mut self, chunk: Chunk) {
        let bytes = chunk.bytes.len();
        if let (Some((_, first_at, _)), Some((last, _, _))) = (chunk.records.first(), chunk.records.last()) {
            self.unstored.read(*last, *first_at);
        }
        self.backpressure.sent(bytes);
        if self.chunks.send(chunk).is_err() {
            self.backpressure.taken(bytes);
        }
    }

    /// Whether it ended by itself, which only a fault does.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Context {
    pub(super) fn new(parts: ConsumerParts, runtime: Handle) -> Self {
        Self {
            parts,
            runtime,
            workers: Mutex::default(),
            assigned: Mutex::default(),
            gone: Mutex::default(),
            has_gone: AtomicBool::new(false),
        }
    }

    /// Partitions that were revoked since the last call.
    pub(super) fn take_gone(&self) -> Vec<TopicPartition> {
        match self.has_gone.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut *self.gone()),
            false => Vec::new(),
        }
    }

    pub(super) fn workers(&self) -> MutexGuard<'_, HashMap<TopicPartition, WorkerHandle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assigned(&self) -> MutexGuard<'_, Vec<TopicPartition>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Vec<TopicPartition>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops workers, and waits for their batches at most so long.
    pub(super) fn end(&self, places: &[TopicPartition], within: Duration) {
        let ending: Vec<(TopicPartition, WorkerHandle)> = {
            let mut workers = self.workers();
            places.iter().filter_map(|place| workers.remove_entry(place)).collect()
        };
        ending.iter().for_each(|(_, worker)| worker.drain.cancel());
        self.assigned().retain(|place| !places.contains(place));
        self.gone().extend(places.iter().cloned());
        self.has_gone.store(true, Ordering::Release);
        let deadline = Instant::now() + within;
        let mut ended_workers = Vec::with_capacity(ending.len());
        for ((topic, partition), mut worker) in ending {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.runtime.block_on(async { tokio::time::timeout(left, &mut worker.task).await });
            if ended.is_err() {
                tracing::warn!(
                    topic,
                    partition,
                    "a partition worker was aborted during an insert; the next owner of the partition repeats the batch"
                );
            }
            worker.task.abort();
            ended_workers.push((topic, partition, worker.ownership));
        }
        let deadline = Instant::now() + COMMIT_WITHIN;
        for (topic, partition, ownership) in ended_workers {
            if !ownership.lose(deadline.saturating_duration_since(Instant::now())) {
                tracing::warn!(topic, partition, "a commit was not answered, and is left");
            }
            self.parts.store.metrics.kafka.partition_gone(&topic, partition);
        }
        let workers = self.workers().len();
        self.parts.common.workers.store(workers, Ordering::Relaxed);
        self.parts.store.metrics.kafka.assigned(workers);
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the consumer's connection to Kafka has trouble");
    }

    fn stats(&self, statistics: Statistics) {
        let (now_ms, mut workers) = (now_ms(), self.workers());
        for ((topic, number), worker) in workers.iter_mut() {
            let told = statistics.topics.get(topic).and_then(|topic| topic.partitions.get(number));
            let offsets = told.map(|told| Offsets {
                committed: told.committed_offset,
                low: told.lo_offset,
                high: told.hi_offset,
            });
            if let Some((waiting, stored)) = offsets.and_then(|offsets| offsets.waiting().zip(offsets.stored())) {
                let oldest = worker.unstored.oldest(stored, now_ms);
                self.parts.store.metrics.kafka.lag(topic, *number, waiting, oldest);
            }
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => {
                // Lost: the group went on without us. Nothing can be committed any more, so nothing is waited for.
                let is_lost = consumer.assignment_lost();
                let within = if is_lost { Duration::ZERO } else { self.parts.drain };
                self.parts.store.metrics.kafka.rebalanced(if is_lost { "lost" } else { "revoked" });
                self.end(&places(list), within);
            }
            Rebalance::Assign(_) => self.parts.store.metrics.kafka.rebalanced("assigned"),
            Rebalance::Error(error) => tracing::error!(%error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            self.assigned().extend(places(list));
        }
    }
}

fn places(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// Starts the workers of partitions that were assigned since the last call.
pub(super) fn begin_workers(consumer: &Arc<BaseConsumer<Context>>) {
    let context = consumer.context();
    let assigned = std::mem::take(&mut *context.assigned());
    if assigned.is_empty() {
        return;
    }
    let mut workers = context.workers();
    context.parts.common.workers.store(workers.len() + assigned.len(), Ordering::Relaxed);
    for (topic, partition) in assigned {
        let worker = begin_worker(consumer, &topic, partition);
        workers.insert((topic, partition), worker);
    }
    context.parts.store.metrics.kafka.assigned(workers.len());
}

#[allow(clippy::disallowed_methods, reason = "bounded by bytes: a partition whose worker has enough is paused")]
fn begin_worker(consumer: &Arc<BaseConsumer<Context>>, topic: &str, partition: i32) -> WorkerHandle {
    let context = consumer.context();
    let parts = &context.parts;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (backpressure, drain) = (Arc::new(Backpressure::default()), CancellationToken::new());
    let ownership = Arc::new(Ownership::new(
        Arc::clone(consumer),
        Arc::clone(&parts.pins),
        parts.brokers.observer(&parts.group),
        topic,
        partition,
    ));
    let worker = Worker {
        committer: Arc::new(BatchCommitter::new(
            Arc::clone(&ownership),
            parts.store.clone(),
            parts.common.shards.clone(),
        )),
        project: parts.rules.project_of(topic).map(String::from),
        common: Arc::clone(&parts.common),
        chunks: receiver,
        backpressure: Arc::clone(&backpressure),
        drain: drain.clone(),
    };
    let task = context.runtime.spawn(worker.run());
    WorkerHandle {
        chunks: sender,
        backpressure,
        drain,
        ownership,
        task,
        unstored: Unstored::default(),
        is_paused: false,
    }
}
