//! The gateway: produces a request's events as records, durable when all in-sync replicas have them.
//!
//! ```text
//! prepare (topic, partitions) -> encode -> produce -> each record has a delivery result: acknowledged | too large | failed
//! ```
//!
//! Failure cases:
//! * the client's queue is full: what did not fit has failed, at once;
//! * the broker does not acknowledge in time: failed, though it may be there (a repeat is recognised by its id);
//! * a record is larger than its topic takes: it is not sent, and its event is rejected;
//! * the client is broken for good, which it is when a broker has lost what it had acknowledged (its sequence numbers no longer meet):
//!   another one takes its place;
//! * the broker answers, and takes nothing for the topic, or not this record or the batch that it came in.
//!
//! What has not arrived goes to the local log ([`super::fallback`]).

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult as DeliveryReport, Producer as _, ProducerContext, ThreadedProducer,
};
use tallyhouse_service::clock::steady_ms;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::delivery_result::DeliveryResult;
use super::records::Records;
use super::settings::Brokers;
use super::topics::{Shape, TopicError, Topics};
use crate::placement;
use crate::request::TRACE_HEADER;
use crate::telemetry::{Metrics, Produced};

/// Where a request's records go.
#[derive(Debug, Clone)]
pub struct Destination {
    pub topic: Arc<str>,
    /// What is known of it.
    pub shape: Shape,
}

/// Records that were sent.
#[derive(Debug)]
pub struct InFlight {
    tracker: Arc<Tracker>,
    /// When they were sent, in milliseconds of the steady clock.
    pub since: i64,
    pub destination: Destination,
    /// The records, kept until all have a result: what fails goes to the local log from here.
    pub records: Records,
}

#[derive(Debug)]
struct Tracker {
    open: AtomicUsize,
    results: Mutex<Vec<DeliveryResult>>,
    all_delivered: Notify,
}

impl Tracker {
    fn new(records: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(records),
            results: Mutex::new(vec![DeliveryResult::Pending; records]),
            all_delivered: Notify::new(),
        })
    }

    fn complete(&self, index: usize, result: DeliveryResult) {
        if let Some(slot) = self.lock().get_mut(index) {
            *slot = result;
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_delivered.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<DeliveryResult>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Waits until every record has a result or the deadline has passed. In the order of the request; what has none by
    /// then counts as failed.
    pub async fn results(&self, deadline: Instant) -> Vec<DeliveryResult> {
        if self.tracker.open.load(Ordering::Acquire) > 0 {
            // Late is as good as failed: the caller cannot wait longer.
            drop(tokio::time::timeout_at(deadline, self.tracker.all_delivered.notified()).await);
        }
        let results = self.tracker.lock().clone();
        results.into_iter().map(|l| if l == DeliveryResult::Pending { DeliveryResult::Failed } else { l }).collect()
    }
}

/// Which record a delivery report is about.
pub struct Slot {
    tracker: Arc<Tracker>,
    index: usize,
}

/// Takes delivery reports, on librdkafka's thread.
#[derive(Clone)]
struct Reports {
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    acknowledged: Arc<AtomicI64>,
    /// Of this client only: the reports of one that was replaced say nothing about the next.
    is_broken: Arc<AtomicBool>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the producer's connection to Kafka has trouble");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, report: &DeliveryReport<'_>, slot: Box<Slot>) {
        let result = match report {
            Ok(message) => {
                self.acknowledged.fetch_max(steady_ms(), Ordering::Relaxed);
                DeliveryResult::Acknowledged { partition: message.partition(), offset: message.offset() }
            }
            Err((error, message)) => self.failed(error, message.topic()),
        };
        self.metrics.produced(result.produced());
        slot.tracker.complete(slot.index, result);
    }
}

impl Reports {
    fn produce_failed(&self, code: RDKafkaErrorCode) {
        self.metrics.kafka.produce_failed(code);
        if code == RDKafkaErrorCode::Fatal {
            self.is_broken.store(true, Ordering::Relaxed);
        }
    }

    fn failed(&self, error: &KafkaError, topic: &str) -> DeliveryResult {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        self.topics.doubt(topic);
        if code == Code::MessageSizeTooLarge {
            // It may be the batch that is too large: no event is refused for its company.
            tracing::error!(
                topic,
                "a batch is too large for the topic: set `batch.size` in KAFKA_OPTIONS below its `max.message.bytes`"
            );
        }
        self.produce_failed(code);
        DeliveryResult::of(code)
    }
}

pub struct Gateway {
    config: ClientConfig,
    producer: RwLock<Arc<ThreadedProducer<Reports>>>,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    /// When Kafka last acknowledged a record, of whichever topic, in milliseconds of the steady clock.
    acknowledged: Arc<AtomicI64>,
}

impl Gateway {
    /// Connects in the background. `deliver_within` bounds the time until a record is acknowledged.
    pub fn new(
        brokers: &Brokers,
        topics: Arc<Topics>,
        metrics: Arc<Metrics>,
        deliver_within: Duration,
    ) -> Result<Self, KafkaError> {
        let acknowledged = Arc::new(AtomicI64::new(i64::MIN));
        let config = brokers.producer(deliver_within);
        let reports = Reports {
            topics: Arc::clone(&topics),
            metrics: Arc::clone(&metrics),
            acknowledged: Arc::clone(&acknowledged),
            is_broken: Arc::default(),
        };
        let producer = RwLock::new(Arc::new(config.create_with_context(reports)?));
        Ok(Self { config, producer, topics, metrics, acknowledged })
    }

    /// The topic of a project's events.
    pub fn topic(&self, project: &str) -> String {
        self.topics.rules().of(project)
    }

    /// Reads the shape of a topic, and creates it if it is missing.
    pub async fn destination(&self, topic: &str) -> Result<Destination, TopicError> {
        let shape = self.topics.ensure(topic).await?;
        Ok(Destination { topic: topic.into(), shape })
    }

    /// Sends records. Returns at once.
    pub fn send(&self, destination: Destination, records: Records, trace: Option<&str>) -> InFlight {
        let producer = self.producer();
        let (tracker, since) = (Tracker::new(records.len()), steady_ms());
        let headers =
            trace.map(|trace| OwnedHeaders::new().insert(Header { key: TRACE_HEADER, value: Some(trace.as_bytes()) }));
        for (index, record) in records.iter().enumerate() {
            if record.payload.len() > destination.shape.record_bytes {
                self.metrics.produced(Produced::TooLarge);
                tracker.complete(index, DeliveryResult::TooLarge);
                continue;
            }
            let slot = Box::new(Slot { tracker: Arc::clone(&tracker), index });
            let key = record.hash.to_be_bytes();
            let mut message = BaseRecord::with_opaque_to(&destination.topic, slot)
                .partition(placement::partition(record.hash, destination.shape.partitions))
                .key(&key)
                .payload(record.payload);
            if let Some(headers) = &headers {
                message = message.headers(headers.clone());
            }
            if let Err((error, message)) = producer.send(message) {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                producer.context().produce_failed(code);
                self.metrics.produced(DeliveryResult::of(code).produced());
                message.delivery_opaque.tracker.complete(index, DeliveryResult::of(code));
            }
        }
        InFlight { tracker, since, destination, records }
    }

    /// The client, or a new one in place of a broken one. What the broken one holds fails, and goes to the local log.
    fn producer(&self) -> Arc<ThreadedProducer<Reports>> {
        let producer = Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner));
        if !producer.context().is_broken.swap(false, Ordering::Relaxed) {
            return producer;
        }
        let reports = Reports { is_broken: Arc::default(), ..Reports::clone(producer.context()) };
        match self.config.create_with_context::<_, ThreadedProducer<_>>(reports) {
            Ok(other) => {
                tracing::error!("the producer was broken for good, and another one takes its place");
                let other = Arc::new(other);
                *self.producer.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&other);
                // Its end waits for its thread.
                std::thread::spawn(move || drop(producer));
                other
            }
            Err(error) => {
                tracing::error!(%error, "the producer is broken for good, and no other one can be made");
                producer.context().is_broken.store(true, Ordering::Relaxed);
                producer
            }
        }
    }

    /// Whether Kafka has acknowledged a record of any topic since then, in milliseconds of the steady clock.
    pub fn has_acknowledged_since(&self, at: i64) -> bool {
        self.acknowledged.load(Ordering::Relaxed) >= at
    }

    /// Whether a broker answers now.
    pub async fn is_answered(&self) -> bool {
        self.topics.is_answered().await
    }
}
