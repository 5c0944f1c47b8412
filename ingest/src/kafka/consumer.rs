//! The consumer: one thread that polls, and a lane for each partition that is ours.
//!
//! ```text
//! poll -> chunk per partition -> its lane          lanes full: their partitions are paused, polling goes on
//! assigned -> lanes begin      revoked -> lanes drain, the rebalance waits for them, then loses them
//! ```
//!
//! Polling never stops while a lane waits for ClickHouse, so the group does not take a slow consumer for a dead one. A
//! revoked partition's lane may finish the batch on its way; past the deadline its right to commit is taken and it is
//! aborted: the next owner finds the intent and repeats the batch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Statistics, TopicPartitionList};
use tallyhouse_service::health::Status;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::batch::Read;
use super::filling::Chunk;
use super::lane::{Common, Lane};
use super::ownership::Ownership;
use super::settings::Brokers;
use super::settle::Settler;
use super::topics::{PROJECT_PREFIX, TopicRules};
use crate::store::Store;

/// What a consumer is made of.
#[derive(Clone)]
pub struct ConsumerParts {
    /// Where Kafka is.
    pub brokers: Brokers,
    /// The group.
    pub group: String,
    /// What it reads.
    pub rules: TopicRules,
    /// Where batches go.
    pub store: Store,
    /// What lanes share.
    pub common: Arc<Common>,
    /// How long a rebalance, or the end, waits for batches on their way.
    pub drain: Duration,
}

/// Bytes that may wait for one lane; above it the partition is paused, below a half it goes on.
const LANE_BYTES: usize = 3 << 20;

/// Messages taken before they are handed to their lanes.
const POLLED: usize = 2_000;

const POLL_WITHIN: Duration = Duration::from_millis(50);

type Place = (String, i32);

struct Running {
    chunks: mpsc::UnboundedSender<Chunk>,
    queued: Arc<AtomicUsize>,
    drain: CancellationToken,
    ownership: Arc<Ownership<Context>>,
    task: JoinHandle<()>,
    is_paused: bool,
}

/// What the rebalance callback reaches.
struct Context {
    parts: ConsumerParts,
    runtime: Handle,
    lanes: Mutex<HashMap<Place, Running>>,
    assigned: Mutex<Vec<Place>>,
    /// Partitions that went since the poll loop last looked: what it collected for them must not reach a later lane.
    gone: Mutex<Vec<Place>>,
    has_gone: AtomicBool,
}

impl Context {
    fn lanes(&self) -> MutexGuard<'_, HashMap<Place, Running>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assigned(&self) -> MutexGuard<'_, Vec<Place>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Place>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes lanes out and ends them; waits for the batches on their way at most so long.
    fn end(&self, places: &[Place], within: Duration) {
        let ending: Vec<(Place, Running)> = {
            let mut lanes = self.lanes();
            places.iter().filter_map(|place| lanes.remove_entry(place)).collect()
        };
        ending.iter().for_each(|(_, lane)| lane.drain.cancel());
        self.assigned().retain(|place| !places.contains(place));
        self.gone().extend(places.iter().cloned());
        self.has_gone.store(true, Ordering::Release);
        let deadline = Instant::now() + within;
        for ((topic, partition), mut lane) in ending {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.runtime.block_on(async { tokio::time::timeout(left, &mut lane.task).await });
            if ended.is_err() {
                tracing::warn!(topic, partition, "given up with a batch on its way; the next owner repeats it");
            }
            lane.ownership.lose();
            lane.task.abort();
            self.parts.store.metrics.lane_ended(&topic, partition);
        }
        let lanes = self.lanes().len();
        self.parts.common.lanes.store(lanes, Ordering::Relaxed);
        self.parts.store.metrics.lanes(lanes);
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the consumer's connection to Kafka has trouble");
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            self.parts.store.health.set("kafka", Status::Degraded, "no broker can be reached");
        }
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        let lag: i64 = partitions.map(|partition| partition.consumer_lag.max(0)).sum();
        self.parts.store.metrics.consumer_lag(lag);
        if statistics.brokers.values().any(|broker| broker.state == "UP")
            && self.parts.store.metrics.has_no_blocked_lane()
        {
            self.parts.store.health.set("kafka", Status::Up, "");
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
                self.parts.store.metrics.rebalanced(if is_lost { "lost" } else { "revoked" });
                self.end(&places(list), within);
            }
            Rebalance::Assign(_) => self.parts.store.metrics.rebalanced("assigned"),
            Rebalance::Error(error) => tracing::error!(%error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            self.assigned().extend(places(list));
        }
    }
}

fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// Polls until `stop`, then drains and leaves the group. Blocking: it wants a thread of its own, outside the runtime's.
pub fn run(parts: &ConsumerParts, runtime: &Handle, stop: &CancellationToken) -> Result<(), KafkaError> {
    while !stop.is_cancelled() {
        let context = Context {
            parts: parts.clone(),
            runtime: runtime.clone(),
            lanes: Mutex::default(),
            assigned: Mutex::default(),
            gone: Mutex::default(),
            has_gone: AtomicBool::new(false),
        };
        let consumer: Arc<BaseConsumer<Context>> =
            Arc::new(parts.brokers.consumer(&parts.group).create_with_context(context)?);
        let topics = parts.rules.subscription();
        consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        let ended = poll(&consumer, stop);
        let all: Vec<Place> = consumer.context().lanes().keys().cloned().collect();
        if let Err(Ended::Fatal(error)) = ended {
            consumer.context().end(&all, Duration::ZERO);
            // A client with a fatal error never closes, so leaving the group would wait for ever. The process ends instead.
            std::mem::forget(consumer);
            return Err(error);
        }
        consumer.context().end(&all, parts.drain);
        // Dropping it leaves the group.
        drop(consumer);
        if let Err(Ended::Lane) = ended {
            tracing::error!("a lane ended by itself; joining again to begin it anew");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(())
}

/// Why polling ended before it was told to.
enum Ended {
    /// The client can do nothing more: fenced by another one with the same `group.instance.id`.
    Fatal(KafkaError),
    /// A lane ended by itself, which only a fault does.
    Lane,
}

/// Until `stop`, or until this consumer can do nothing more.
fn poll(consumer: &Arc<BaseConsumer<Context>>, stop: &CancellationToken) -> Result<(), Ended> {
    let mut chunks: HashMap<Place, Chunk> = HashMap::new();
    while !stop.is_cancelled() {
        let mut polled = consumer.poll(POLL_WITHIN);
        begin_lanes(consumer);
        let mut taken = 0;
        while let Some(message) = polled {
            forget_gone(consumer, &mut chunks);
            match message {
                Ok(message) => collect(&message, &mut chunks),
                Err(error) => trouble(consumer, &error)?,
            }
            taken += 1;
            if taken >= POLLED {
                break;
            }
            polled = consumer.poll(Duration::ZERO);
        }
        // A rebalance may have come in between.
        forget_gone(consumer, &mut chunks);
        begin_lanes(consumer);
        hand_over(consumer, &mut chunks);
        regulate(consumer)?;
    }
    Ok(())
}

/// Drops what was collected for partitions that went. Should they come back at once, their records are read from the committed
/// offset; a lane that began with the later ones would commit past those in between.
fn forget_gone(consumer: &BaseConsumer<Context>, chunks: &mut HashMap<Place, Chunk>) {
    let context = consumer.context();
    if context.has_gone.swap(false, Ordering::AcqRel) {
        for place in context.gone().drain(..) {
            chunks.remove(&place);
        }
    }
}

fn trouble(consumer: &BaseConsumer<Context>, error: &KafkaError) -> Result<(), Ended> {
    let code = error.rdkafka_error_code();
    consumer.context().parts.store.metrics.consumer_failed(code);
    if let Some((code, reason)) = consumer.client().fatal_error() {
        tracing::error!(?code, reason, "the consumer cannot go on");
        return Err(Ended::Fatal(KafkaError::MessageConsumptionFatal(code)));
    }
    tracing::warn!(%error, "a poll failed; polling goes on");
    // The same error may come at once and for long: a topic that is not there, a broker that is away.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn collect(message: &BorrowedMessage<'_>, chunks: &mut HashMap<Place, Chunk>) {
    let read = Read {
        offset: message.offset(),
        at: message.timestamp().to_millis().unwrap_or_default(),
        payload: message.payload().unwrap_or_default(),
    };
    // Almost always the partition of the message before: no allocation for the look-up then.
    let place =
        chunks.iter_mut().find(|((topic, partition), _)| *partition == message.partition() && topic == message.topic());
    match place {
        Some((_, chunk)) => chunk.push(read),
        None => chunks.entry((message.topic().to_owned(), message.partition())).or_default().push(read),
    }
}

fn hand_over(consumer: &Arc<BaseConsumer<Context>>, chunks: &mut HashMap<Place, Chunk>) {
    let lanes = consumer.context().lanes();
    for (place, chunk) in chunks.iter_mut().filter(|(_, chunk)| !chunk.records.is_empty()) {
        let chunk = std::mem::take(chunk);
        // Without a lane the partition has gone meanwhile: the next owner reads the records.
        if let Some(lane) = lanes.get(place) {
            lane.queued.fetch_add(chunk.bytes.len(), Ordering::Relaxed);
            drop(lane.chunks.send(chunk));
        }
    }
    chunks.retain(|place, _| lanes.contains_key(place));
}

/// Pauses partitions whose lanes have enough, and lets them go on when they have not.
fn regulate(consumer: &Arc<BaseConsumer<Context>>) -> Result<(), Ended> {
    let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
    let mut lanes = consumer.context().lanes();
    for ((topic, partition), lane) in lanes.iter_mut() {
        let queued = lane.queued.load(Ordering::Relaxed);
        if !lane.is_paused && queued > LANE_BYTES {
            lane.is_paused = true;
            pause.add_partition(topic, *partition);
        } else if lane.is_paused && queued < LANE_BYTES / 2 {
            lane.is_paused = false;
            resume.add_partition(topic, *partition);
        }
    }
    let paused = lanes.values().filter(|lane| lane.is_paused).count();
    let has_ended = lanes.values().any(|lane| lane.task.is_finished());
    drop(lanes);
    if has_ended {
        return Err(Ended::Lane);
    }
    consumer.context().parts.store.metrics.paused_partitions(paused);
    if pause.count() > 0
        && let Err(error) = consumer.pause(&pause)
    {
        tracing::warn!(%error, "partitions could not be paused; their lanes hold more for a while");
    }
    if resume.count() > 0
        && let Err(error) = consumer.resume(&resume)
    {
        // A partition that went in the meantime; one that stayed would be a fault, and starts over.
        tracing::error!(%error, "partitions could not go on");
        return Err(Ended::Lane);
    }
    Ok(())
}

fn begin_lanes(consumer: &Arc<BaseConsumer<Context>>) {
    let context = consumer.context();
    let assigned = std::mem::take(&mut *context.assigned());
    if assigned.is_empty() {
        return;
    }
    let mut lanes = context.lanes();
    context.parts.common.lanes.store(lanes.len() + assigned.len(), Ordering::Relaxed);
    for (topic, partition) in assigned {
        let lane = begin_lane(consumer, &topic, partition);
        lanes.insert((topic, partition), lane);
    }
    context.parts.store.metrics.lanes(lanes.len());
}

#[allow(clippy::disallowed_methods, reason = "bounded by bytes: a partition whose lane has enough is paused")]
fn begin_lane(consumer: &Arc<BaseConsumer<Context>>, topic: &str, partition: i32) -> Running {
    let context = consumer.context();
    let parts = &context.parts;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (queued, drain) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let ownership = Arc::new(Ownership::new(Arc::clone(consumer), topic, partition));
    let is_shared = topic == parts.rules.shared;
    let lane = Lane {
        topic: topic.into(),
        partition,
        project: topic.strip_prefix(PROJECT_PREFIX).filter(|_| !is_shared).map(str::to_owned),
        common: Arc::clone(&parts.common),
        settler: Arc::new(Settler {
            ownership: Arc::clone(&ownership),
            store: parts.store.clone(),
            metrics: Arc::clone(&parts.store.metrics),
        }),
        chunks: receiver,
        queued: Arc::clone(&queued),
        drain: drain.clone(),
    };
    let task = context.runtime.spawn(lane.run());
    Running { chunks: sender, queued, drain, ownership, task, is_paused: false }
}
