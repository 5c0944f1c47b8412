use std::path::PathBuf;
use std::sync::Mutex;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};
use tallyhouse_service::breaker::Breaker;
use tallyhouse_service::metrics::Registry;
use tokio::task::JoinSet;

use super::*;
use crate::ack::AckOutcome;
use crate::journal::{Journal, JournalFile};
use crate::kafka::delivery::{KafkaDelivery, Pending};
use crate::kafka::pins::Pins;
use crate::kafka::progress::Progress;
use crate::kafka::records::Records;
use crate::kafka::settings::{Brokers, Options as KafkaOptions};
use crate::kafka::topics::{TopicRules, Topics};
use crate::projects::OwnTopics;
use crate::request::Wait;

const EVENTUALLY: Duration = Duration::from_secs(30);

/// A gateway's log and a broker that answers with errors on demand.
struct Place {
    mock: MockCluster<'static, DefaultProducerContext>,
    brokers: Brokers,
    path: PathBuf,
    metrics: Arc<Metrics>,
    health: Health,
    running: Mutex<JoinSet<()>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

impl Place {
    fn new() -> Self {
        let mock = MockCluster::new(1).unwrap();
        for topic in ["a", "b"] {
            mock.create_topic(topic, 2, 1).unwrap();
        }
        let brokers = Brokers { bootstrap: mock.bootstrap_servers(), options: KafkaOptions::default() };
        Self {
            mock,
            brokers,
            path: std::env::temp_dir().join(format!("tallyhouse-fallback-{}", ulid::Ulid::generate())),
            metrics: Arc::new(Metrics::register(&Registry::new()).unwrap()),
            health: Health::default(),
            running: Mutex::default(),
        }
    }

    fn gateway(&self) -> Gateway {
        let rules = TopicRules { shared: "a".into(), own: OwnTopics::default(), partitions: 2, replication: Some(1) };
        let pins = Arc::new(Pins::new(&self.brokers, Arc::clone(&self.metrics)).unwrap());
        let topics = Arc::new(Topics::new(rules, &self.brokers, pins).unwrap());
        Gateway::new(&self.brokers, topics, Arc::clone(&self.metrics), Duration::from_secs(2)).unwrap()
    }

    fn open(&self, bytes: u64) -> Arc<Fallback> {
        let limits = Limits { bytes, age: Duration::from_secs(3_600) };
        let (metrics, health) = (Arc::clone(&self.metrics), self.health.clone());
        Arc::new(Fallback::open(&self.path, Sync::Off, limits, metrics, health).unwrap())
    }

    /// Begins to send what waits.
    fn drain(&self, fallback: &Arc<Fallback>) {
        let mut running = self.running.lock().unwrap();
        let gateway = Arc::new(self.gateway());
        let (log, held, other) = (Arc::clone(fallback), Arc::clone(fallback), Arc::clone(&gateway));
        running.spawn(async move { log.drain(&gateway).await });
        running.spawn(async move { held.drain_held(&other).await });
    }

    /// Records that a topic has.
    fn has(&self, topic: &str) -> i64 {
        let reader: BaseConsumer = self.brokers.client().create().unwrap();
        let watermarks = |partition| reader.fetch_watermarks(topic, partition, Duration::from_secs(5)).unwrap();
        (0..2).map(|partition| watermarks(partition).1).sum()
    }

    fn files(&self, extension: &str) -> usize {
        let files = std::fs::read_dir(self.path.join("records")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
    }
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + EVENTUALLY;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn put(fallback: &Fallback, topic: &str, hashes: std::ops::Range<u64>) {
    let records = hashes.map(|hash| Record { hash, payload: b"record" });
    fallback.put(topic, records, Instant::now() + EVENTUALLY).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_refuses_holds_up_no_other() {
    let place = Place::new();
    place.mock.topic_error("a", Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    for from in [0, 10, 20] {
        put(&fallback, "a", from..from + 10).await;
        put(&fallback, "b", from..from + 10).await;
    }
    place.drain(&fallback);
    eventually("the other goes on", async || place.has("b") == 30).await;
    eventually("it is known", async || fallback.is_held("a") && !fallback.is_held("b")).await;
    fallback.report();
    assert!(place.health.report().components["log"].detail.contains("a topic"));
    // What comes now takes no detour for the other, and goes beside the log for this one.
    put(&fallback, "a", 30..40).await;
    put(&fallback, "b", 30..40).await;
    eventually("the other goes on", async || place.has("b") == 40).await;

    place.mock.topic_error("a", Answer::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    eventually("it is taken up again", async || place.has("a") == 40 && !fallback.is_held("a")).await;
    assert_eq!((place.has("a"), place.has("b"), place.files("batch")), (40, 40, 0), "each once");
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_takes_again_is_released_while_its_events_come() {
    let place = Place::new();
    place.mock.topic_error("a", Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    put(&fallback, "a", 0..10).await;
    place.drain(&fallback);
    eventually("it is known", async || fallback.is_held("a")).await;
    place.mock.topic_error("a", Answer::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let sent = AtomicI64::new(10);
    eventually("it is taken up again", async || {
        let from = sent.fetch_add(1, Ordering::Relaxed).unsigned_abs();
        put(&fallback, "a", from..from + 1).await;
        !fallback.is_held("a")
    })
    .await;
    eventually("all arrive", async || place.has("a") == sent.load(Ordering::Relaxed) && place.files("batch") == 0)
        .await;
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_did_not_arrive_is_sent_again() {
    let place = Place::new();
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    put(&fallback, "a", 0..10).await;
    put(&fallback, "b", 0..10).await;
    // One of four requests is refused, twice.
    place.mock.request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS; 2]);
    place.drain(&fallback);
    eventually("all arrive", async || place.has("a") >= 10 && place.has("b") >= 10).await;
    eventually("all is committed", async || fallback.sent.load(Ordering::Acquire) == 20).await;
    assert_eq!((place.has("a"), place.has("b")), (10, 10));
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_for_good_is_parked() {
    let place = Place::new();
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    put(&fallback, "a", 0..1).await;
    // The batch, and the record by itself.
    place.mock.request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_INVALID_RECORD; 2]);
    place.drain(&fallback);
    eventually("it is set aside", async || place.files("refused") == 1).await;
    put(&fallback, "a", 1..11).await;
    eventually("the others go on", async || place.has("a") == 10).await;
    assert_eq!(place.metrics.log.parked.get(), 1);
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_version_without_a_log_need_no_room_in_a_full_one() {
    let place = Place::new();
    let records = |from: u64| {
        let record = |hash| Addressed { topic: "a".into(), hash, payload: Bytes::from(vec![7; 100_000]) };
        (from..from + 5).map(record).collect::<Vec<_>>()
    };
    let folder = Journal::open(&place.path.join("records")).unwrap();
    let chunks = vec![crate::kafka::addressed::encode(&records(0)).into()];
    folder.write("1", &JournalFile { token: "left".into(), rows: 5, chunks, days: vec![] }).unwrap();
    drop(folder);
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    for from in [100, 200, 300] {
        let all = records(from);
        let records = all.iter().map(|record| Record { hash: record.hash, payload: &record.payload });
        fallback.put("a", records, Instant::now() + EVENTUALLY).await.unwrap();
    }
    let is_full = async || {
        fallback.log.request_sync();
        fallback.report();
        fallback.log.is_full()
    };
    eventually("the log is full", is_full).await;
    place.drain(&fallback);
    eventually("all arrive", async || place.has("a") == 20).await;
    eventually("the file is gone", async || place.files("batch") == 0).await;
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_is_for_brokers_that_cannot_be_reached() {
    let place = Place::new();
    let fallback = place.open(1 << 20);
    let writer = fallback.start().unwrap();
    let progress = Progress::new(&place.brokers, "group").unwrap();
    let kafka = KafkaDelivery {
        gateway: place.gateway(),
        progress,
        fallback,
        breaker: Breaker::default(),
        answer_within: Duration::from_secs(10),
    };
    let send = async || {
        let destination = kafka.gateway.destination("a").await.unwrap();
        let mut records = Records::default();
        records.push(1, b"record");
        let in_flight = kafka.gateway.send(destination, records, None);
        let deadline = Instant::now() + Duration::from_secs(20);
        let outcomes = kafka.acknowledge(Pending::Sent(in_flight), Wait::Durable, deadline).await;
        assert_eq!(outcomes, [AckOutcome::Accepted], "it is in the local log at least");
    };
    place.mock.request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_INVALID_RECORD; 5]);
    for _ in 0..5 {
        send().await;
    }
    assert!(!kafka.breaker.is_open(), "Kafka answers");
    place.mock.broker_down(1).unwrap();
    for _ in 0..3 {
        send().await;
    }
    assert!(kafka.breaker.is_open());
    writer.end().await;
}
