//! What happens when Kafka itself loses records: the end of a log, or its beginning.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_service::health::Status;

use tallyhouse_testkit::ingest_service::{Service, everywhere};
use tallyhouse_testkit::{Folder, engine, eventually, is_kafka_off, kafka_or_skip, new_project};

const TOPIC: &str = "cut";

/// A broker of one's own, whose files can be cut.
struct Place {
    brokers: Brokers,
    folder: Folder,
    data: Folder,
    project: String,
}

impl Place {
    async fn new(test: &str) -> Option<Self> {
        if is_kafka_off() {
            eprintln!("SKIPPED {test}: it needs Kafka, and KAFKA_TESTS=off");
            return None;
        }
        let folder = Folder::create();
        let brokers = Brokers::start(1, folder.path()).await.unwrap();
        Some(Self { brokers, folder, data: Folder::create(), project: new_project() })
    }

    async fn service(&self, role: &str) -> Service {
        let bootstrap = self.brokers.bootstrap();
        let settings = [
            ("KAFKA_BROKERS", bootstrap.as_str()),
            ("KAFKA_TOPIC", TOPIC),
            ("KAFKA_PARTITIONS", "1"),
            ("KAFKA_TIMEOUT_MS", "5000"),
            ("INGEST_ACK_TIMEOUT_MS", "30000"),
            // Fewer than there are records: a replay of all of them would be counted.
            ("DEDUP_WINDOW_IDS", "1000"),
            ("INGEST_ROLE", role),
        ];
        Service::start_with(engine().await.writer(), &self.data, &self.project, &settings).await
    }

    /// Sends events in requests of a hundred, so that the log has batches that can be cut off.
    async fn send(&self, service: &Service, ids: std::ops::Range<u32>) {
        for from in ids.clone().step_by(100) {
            let events = (from..ids.end.min(from + 100))
                .map(|n| json!({"eventId": n.to_string(), "eventType": "a", "userId": "u", "value": 1}));
            let reply = service.send(serde_json::Value::from_iter(events).to_string()).await;
            assert_eq!(reply.status, 202, "{}", reply.excerpt());
        }
    }

    async fn counted(&self, events: u64) {
        let connection = engine().await.writer();
        eventually("all are counted", async || everywhere(&connection, &self.project).await == [events; 4]).await;
    }

    /// Kills the broker, cuts the last batches off the log, and starts it again. Returns how many records were cut.
    async fn lose_the_end(&mut self, batches: usize) -> i64 {
        self.brokers.kill(0).unwrap();
        let cut = cut(&self.segment(), batches);
        self.brokers.start_again(0).unwrap();
        self.brokers.ready().await.unwrap();
        cut
    }

    fn segment(&self) -> PathBuf {
        self.folder.path().join(format!("broker-1/data/{TOPIC}-0/{:020}.log", 0))
    }
}

/// Cuts the last batches off a segment: each begins with the offset of its first record, and its length.
fn cut(segment: &std::path::Path, batches: usize) -> i64 {
    let bytes = std::fs::read(segment).unwrap();
    let number =
        |at: usize, length: usize| bytes[at..at + length].iter().fold(0_i64, |sum, b| sum << 8 | i64::from(*b));
    let (mut at, mut begins) = (0, Vec::new());
    while at + 61 <= bytes.len() && number(at + 8, 4) > 0 {
        begins.push((at, number(at, 8), number(at + 23, 4)));
        at += 12 + number(at + 8, 4) as usize;
    }
    let (from, first, _) = begins[begins.len() - batches];
    let (_, last_first, last_delta) = *begins.last().unwrap();
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(from as u64).unwrap();
    last_first + last_delta + 1 - first
}

fn is_told(service: &Service) -> bool {
    service.health.report().components.get("kafka_log").is_some_and(|component| component.status == Status::Degraded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_loses_the_end_of_its_log_makes_nothing_count_twice() {
    let Some(mut place) = Place::new("a_broker_that_loses_the_end_of_its_log_makes_nothing_count_twice").await else {
        return;
    };
    let service = place.service("all").await;
    place.send(&service, 0..3_000).await;
    place.counted(3_000).await;
    service.stop().await;
    assert!(place.lose_the_end(3).await >= 65);

    let service = place.service("all").await;
    place.send(&service, 3_000..3_010).await;
    place.counted(3_010).await;
    eventually("it is told", async || is_told(&service)).await;
    assert_eq!(service.metric("tallyhouse_ingest_kafka_log_ends_lost_total"), 1);
    assert!(service.counted("tallyhouse_ingest_kafka_consumed_total", "replayed") < 100, "it is not read again");
    service.stop().await;
    place.counted(3_010).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_knows_the_epoch_only_what_the_window_knows_is_read_again() {
    let Some(mut place) = Place::new("where_nobody_knows_the_epoch_only_what_the_window_knows_is_read_again").await
    else {
        return;
    };
    let service = place.service("all").await;
    place.send(&service, 0..3_000).await;
    place.counted(3_000).await;
    service.stop().await;
    // As a version before this one committed.
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", place.brokers.bootstrap())
        .set("group.id", "tallyhouse")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC, 0, Offset::Offset(3_000)).unwrap();
    eventually("it is committed", async || group.commit(&list, CommitMode::Sync).is_ok()).await;
    place.lose_the_end(3).await;

    let service = place.service("all").await;
    eventually("it is told", async || is_told(&service)).await;
    place.send(&service, 3_000..3_010).await;
    place.counted(3_010).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_the_place_of_a_lost_end_is_counted() {
    let Some(mut place) = Place::new("what_comes_in_the_place_of_a_lost_end_is_counted").await else { return };
    let service = place.service("all").await;
    place.send(&service, 0..1_500).await;
    place.counted(1_500).await;
    service.stop().await;
    let lost = place.lose_the_end(2).await;
    // More than was lost, while nobody reads: the committed offset is in the middle of what is new.
    let gateway = place.service("gateway").await;
    place.send(&gateway, 1_500..2_000).await;
    gateway.stop().await;
    assert!(lost < 500, "{lost} are lost");

    let service = place.service("all").await;
    place.counted(2_000).await;
    eventually("it is told", async || is_told(&service)).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_goes_on_where_the_log_was_cut() {
    let Some(mut place) = Place::new("a_running_consumer_goes_on_where_the_log_was_cut").await else { return };
    let service = place.service("all").await;
    place.send(&service, 0..1_500).await;
    place.counted(1_500).await;
    place.lose_the_end(2).await;
    place.send(&service, 1_500..2_000).await;
    place.counted(2_000).await;
    eventually("it is told", async || is_told(&service)).await;
    // What the window surely has: other tests' projects have their share of it.
    place.send(&service, 1_800..2_100).await;
    place.counted(2_100).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_kafka_removed_before_they_were_read_are_counted_as_lost() {
    let Some(bootstrap) = kafka_or_skip("records_that_kafka_removed_before_they_were_read_are_counted_as_lost").await
    else {
        return;
    };
    let (project, data) = (new_project(), Folder::create());
    let topic = format!("removed-{}", ulid::Ulid::generate());
    let start = async |role| {
        let settings = [
            ("KAFKA_BROKERS", bootstrap.as_str()),
            ("KAFKA_TOPIC", &topic),
            ("KAFKA_GROUP", &topic),
            ("KAFKA_PARTITIONS", "1"),
            ("INGEST_ACK_TIMEOUT_MS", "30000"),
            ("INGEST_ROLE", role),
        ];
        Service::start_with(engine().await.writer(), &data, &project, &settings).await
    };
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
    admin.create_topics(&[new], &AdminOptions::new()).await.unwrap();
    let send = async |service: &Service, ids: std::ops::Range<u32>| {
        let events = ids.map(|n| json!({"eventId": n.to_string(), "eventType": "a", "value": 1}));
        assert_eq!(service.send(serde_json::Value::from_iter(events).to_string()).await.status, 202);
    };
    let counted = async |events: u64| {
        let connection = engine().await.writer();
        eventually("all are counted", async || everywhere(&connection, &project).await == [events; 4]).await;
    };
    let service = start("all").await;
    send(&service, 0..100).await;
    counted(100).await;
    service.stop().await;
    let gateway = start("gateway").await;
    send(&gateway, 100..200).await;
    gateway.stop().await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, Offset::Offset(130)).unwrap();
    admin.delete_records(&before, &AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)))).await.unwrap();

    let service = start("all").await;
    counted(170).await;
    assert_eq!(service.metric("tallyhouse_ingest_kafka_lost_records_total"), 30);
    assert!(is_told(&service));
    service.stop().await;
}
