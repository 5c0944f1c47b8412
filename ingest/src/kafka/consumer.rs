//! The consumer: one thread that polls, and a partition worker for each assigned partition (`assignment`).
//!
//! ```text
//! poll -> chunk per partition -> its worker          workers full: their partitions are paused, polling goes on
//! ```
//!
//! Polling never stops while a worker waits for ClickHouse, so the group does not take a slow consumer for a dead one. The worker of a
//! revoked partition may finish its insert; past the deadline it loses the right to commit and is aborted: the next owner finds the
//! intent and repeats the batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use tallyhouse_service::trace::Trace;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::assignment::{Context, TopicPartition, WorkerHandle, begin_workers};
use super::parts::ConsumerParts;
use crate::request::TRACE_HEADER;
use crate::worker::batch::Read;
use crate::worker::filling::Chunk;

/// Bytes that may wait for one worker; above it the partition is paused, below a half it goes on.
const WORKER_BYTES: usize = 3 << 20;

/// Bytes that may wait for all workers; above it each worker may have only the least.
const ALL_WORKERS_BYTES: usize = 32 << 20;

const LEAST_WORKER_BYTES: usize = 128 << 10;

/// Above so many bytes that wait for all workers, nothing is read: a partition's share of one response, unpacked, may be many times
/// the least, and 64 partitions have 64 of them.
const MOST_BYTES: usize = 96 << 20;

/// Messages and bytes taken before they are handed to their workers.
const POLLED: (usize, usize) = (2_000, 4 << 20);

/// How long leaving the group may take.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(3);

const POLL_WITHIN: Duration = Duration::from_millis(50);

/// Polls until `stop`, then drains and leaves the group. Blocking: it wants a thread of its own, outside the runtime's.
pub fn run(parts: &ConsumerParts, runtime: &Handle, stop: &CancellationToken) -> Result<(), KafkaError> {
    while !stop.is_cancelled() {
        let context = Context::new(parts.clone(), runtime.clone());
        let consumer: Arc<BaseConsumer<Context>> =
            Arc::new(parts.brokers.consumer(&parts.group).create_with_context(context)?);
        let topics = parts.rules.subscription();
        consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        let ended = poll(&consumer, stop);
        let all: Vec<TopicPartition> = consumer.context().workers().keys().cloned().collect();
        if let Err(Ended::Fatal(error)) = ended {
            consumer.context().end(&all, Duration::ZERO);
            // A client with a fatal error never closes, so leaving the group would wait for ever. The process ends instead.
            std::mem::forget(consumer);
            return Err(error);
        }
        let within = if stop.is_cancelled() { parts.drain_at_stop() } else { parts.drain };
        consumer.context().end(&all, within);
        leave(consumer);
        if let Err(Ended::Worker) = ended {
            tracing::error!("a partition worker ended by itself; the consumer joins the group again");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(())
}

/// Leaves the group, which dropping the client does. That waits for brokers, and has no deadline of its own: past ours the group notices by
/// itself that this member is gone.
fn leave(consumer: Arc<BaseConsumer<Context>>) {
    let (left, leaving) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("kafka-leave".to_owned());
    let spawned = thread.spawn(move || {
        drop(consumer);
        // Nobody may wait any more.
        left.send(()).ok()
    });
    if spawned.is_ok() && leaving.recv_timeout(LEAVE_WITHIN).is_err() {
        tracing::warn!("the consumer's group could not be left in time");
    }
}

/// Why polling ended by itself.
enum Ended {
    /// The client can do nothing more: fenced by another one with the same `group.instance.id`.
    Fatal(KafkaError),
    /// A worker ended by itself, which only a fault does.
    Worker,
}

/// Polls until `stop`, or until this consumer can do nothing more.
fn poll(consumer: &Arc<BaseConsumer<Context>>, stop: &CancellationToken) -> Result<(), Ended> {
    let mut chunks: HashMap<TopicPartition, Chunk> = HashMap::new();
    let is_traced = consumer.context().parts.store.tracer.is_some();
    while !stop.is_cancelled() {
        let mut polled = consumer.poll(POLL_WITHIN);
        begin_workers(consumer);
        let mut taken = (0, 0);
        while let Some(message) = polled {
            forget_gone(consumer, &mut chunks);
            match message {
                Ok(message) => {
                    taken.1 += message.payload_len();
                    let sender = if is_traced { sender(&message) } else { None };
                    collect(&message, sender, &mut chunks);
                }
                Err(error) => trouble(consumer, &error)?,
            }
            taken.0 += 1;
            if taken.0 >= POLLED.0 || taken.1 >= POLLED.1 {
                break;
            }
            polled = consumer.poll(Duration::ZERO);
        }
        // A rebalance may have come in between.
        forget_gone(consumer, &mut chunks);
        begin_workers(consumer);
        hand_over(consumer, &mut chunks);
        regulate(consumer)?;
    }
    Ok(())
}

/// Drops what was collected for revoked partitions. When they are assigned again at once, their records are read from the committed
/// offset: a worker that began with later ones would commit past those in between.
fn forget_gone(consumer: &BaseConsumer<Context>, chunks: &mut HashMap<TopicPartition, Chunk>) {
    for place in consumer.context().take_gone() {
        chunks.remove(&place);
    }
}

fn trouble(consumer: &BaseConsumer<Context>, error: &KafkaError) -> Result<(), Ended> {
    let code = error.rdkafka_error_code();
    consumer.context().parts.store.metrics.kafka.consumer_failed(code);
    if let Some((code, reason)) = consumer.client().fatal_error() {
        tracing::error!(?code, reason, "the consumer cannot go on");
        return Err(Ended::Fatal(KafkaError::MessageConsumptionFatal(code)));
    }
    tracing::warn!(%error, "a poll failed; polling goes on");
    // The same error may come at once and for long: a topic that is not there, a broker that is away.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// The trace of a record whose sender records it.
fn sender(message: &BorrowedMessage<'_>) -> Option<Trace> {
    let header = message.headers()?.iter().find(|header| header.key == TRACE_HEADER)?;
    Trace::read(std::str::from_utf8(header.value?).ok()?).filter(|sender| sender.is_sampled())
}

fn collect(message: &BorrowedMessage<'_>, sender: Option<Trace>, chunks: &mut HashMap<TopicPartition, Chunk>) {
    let read = Read {
        offset: message.offset(),
        at: message.timestamp().to_millis().unwrap_or_default(),
        payload: message.payload().unwrap_or_default(),
    };
    // Almost always the partition of the message before: no allocation for the look-up then.
    let place =
        chunks.iter_mut().find(|((topic, partition), _)| *partition == message.partition() && topic == message.topic());
    let chunk = match place {
        Some((_, chunk)) => chunk,
        None => chunks.entry((message.topic().to_owned(), message.partition())).or_default(),
    };
    chunk.push(read);
    if let Some(sender) = sender {
        chunk.senders.add(read.offset, sender);
    }
}

fn hand_over(consumer: &Arc<BaseConsumer<Context>>, chunks: &mut HashMap<TopicPartition, Chunk>) {
    let mut workers = consumer.context().workers();
    for (place, chunk) in chunks.iter_mut().filter(|(_, chunk)| !chunk.records.is_empty()) {
        let chunk = std::mem::take(chunk);
        // Without a worker the partition has gone meanwhile: the next owner reads the records.
        if let Some(worker) = workers.get_mut(place) {
            worker.take(chunk);
        }
    }
    chunks.retain(|place, _| workers.contains_key(place));
}

/// Whether a partition is to be paused, with so many bytes queued for its worker and for all. A paused one goes on below a half.
fn has_enough(had_enough: bool, queued: usize, all: usize) -> bool {
    if all > MOST_BYTES {
        return true;
    }
    let most = if all > ALL_WORKERS_BYTES { LEAST_WORKER_BYTES } else { WORKER_BYTES };
    queued > if had_enough { most / 2 } else { most }
}

/// Pauses partitions whose workers have enough or take nothing, and lets them go on when they have not.
fn regulate(consumer: &Arc<BaseConsumer<Context>>) -> Result<(), Ended> {
    let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
    let mut workers = consumer.context().workers();
    let waiting: usize = workers.values().map(|worker| worker.backpressure.queued()).sum();
    for ((topic, partition), worker) in workers.iter_mut() {
        let was_paused = worker.is_paused;
        worker.is_paused =
            !worker.backpressure.is_open() || has_enough(was_paused, worker.backpressure.queued(), waiting);
        match (was_paused, worker.is_paused) {
            (false, true) => _ = pause.add_partition(topic, *partition),
            (true, false) => _ = resume.add_partition(topic, *partition),
            (true, true) | (false, false) => {}
        }
    }
    let paused = workers.values().filter(|worker| worker.is_paused).count();
    let has_ended = workers.values().any(WorkerHandle::has_ended);
    drop(workers);
    if has_ended {
        return Err(Ended::Worker);
    }
    consumer.context().parts.store.metrics.kafka.paused_partitions(paused);
    if pause.count() > 0
        && let Err(error) = consumer.pause(&pause)
    {
        tracing::warn!(%error, "partitions could not be paused; their workers hold more for a while");
    }
    if resume.count() > 0
        && let Err(error) = consumer.resume(&resume)
    {
        // A partition that went in the meantime; one that stayed would be a fault, and starts over.
        tracing::error!(%error, "partitions could not go on");
        return Err(Ended::Worker);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_less_the_more_waits_for_all() {
        for (all, most) in
            [(0, WORKER_BYTES), (ALL_WORKERS_BYTES, WORKER_BYTES), (ALL_WORKERS_BYTES + 1, LEAST_WORKER_BYTES)]
        {
            assert!(!has_enough(false, most, all) && has_enough(false, most + 1, all), "{all}");
            assert!(has_enough(true, most, all) && !has_enough(true, most / 2, all), "{all}");
        }
        assert!(has_enough(true, 0, MOST_BYTES + 1) && has_enough(false, 0, MOST_BYTES + 1));
        assert!(!has_enough(true, 0, MOST_BYTES));
    }
}
