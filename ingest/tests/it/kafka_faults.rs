//! Kafka delivery against a broker that answers with errors on demand (librdkafka's mock cluster).

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};
use serde_json::json;
use tallyhouse_service::health::Status;

use tallyhouse_testkit::ingest_service::{Service, body, everywhere, files_in};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, SmallDisk, engine, eventually, new_project};

const TOPIC: &str = "faults";

/// What a group of records in a log begins with.
const GROUP: &[u8] = b"\xa7grp";

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    bootstrap: String,
    project: String,
    data: Folder,
}

impl Cluster {
    fn start() -> Self {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(TOPIC, 2, 1).unwrap();
        let bootstrap = mock.bootstrap_servers();
        Self { mock, bootstrap, project: new_project(), data: Folder::create() }
    }

    async fn service(&self) -> Service {
        self.service_with(&[]).await
    }

    async fn service_with(&self, more: &[(&str, &str)]) -> Service {
        let service =
            Service::start_with(engine().await.writer(), &self.data, &self.project, &self.settings(more)).await;
        // Before, events go to the local log.
        eventually("Kafka is reached", async || {
            service.health.report().components.get("kafka").is_some_and(|kafka| kafka.status == Status::Up)
        })
        .await;
        service
    }

    fn settings<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut settings = vec![
            ("KAFKA_BROKERS", self.bootstrap.as_str()),
            ("KAFKA_TOPIC", TOPIC),
            ("KAFKA_GROUP", "faults"),
            ("KAFKA_TIMEOUT_MS", "2000"),
            ("INGEST_ACK_TIMEOUT_MS", "10000"),
        ];
        settings.extend(more);
        settings
    }

    /// Sends events that were not sent before, and waits until all sent so far are counted once.
    async fn send(&self, service: &Service, ids: std::ops::Range<u32>) {
        let end = u64::from(ids.end);
        let events = ids.map(|n| json!({"eventId": n.to_string(), "eventType": "a", "value": 1}));
        let reply = service.send(serde_json::Value::from_iter(events).to_string()).await;
        assert_eq!(reply.status, 202, "{}", reply.excerpt());
        self.counted(end).await;
    }

    async fn counted(&self, events: u64) {
        let connection = engine().await.writer();
        eventually("all are counted", async || everywhere(&connection, &self.project).await == [events; 4]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_on_produce_lose_nothing_and_count_nothing_twice() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    cluster.mock.request_errors(
        Request::Produce,
        &[
            Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    cluster.send(&service, 10..60).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_on_commit_are_outlasted() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    cluster.mock.request_errors(
        Request::OffsetCommit,
        &[
            Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    cluster.send(&service, 10..60).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_repeated_is_counted_by_who_commits_it() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(engine().await.writer()).await;
    let start = async |connection| {
        let settings = cluster.settings(&[("KAFKA_REVOKE_MS", "200")]);
        Service::start_with(connection, &cluster.data, &cluster.project, &settings).await
    };
    let stored = |service: &Service| service.counted("tallyhouse_ingest_events_total", "stored");
    let first = start(proxy.connection.clone()).await;
    cluster.send(&first, 0..10).await;
    eventually("they are counted", async || stored(&first) == 10).await;
    proxy.set(Mode::HoldAnswers);
    assert_eq!(first.send(body(10..60)).await.status, 202);
    eventually("an insert was applied", async || {
        everywhere(&engine().await.writer(), &cluster.project).await.iter().all(|count| *count > 10)
    })
    .await;
    // Only then: the intents before it were committed.
    cluster
        .mock
        .request_errors(Request::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 1_000]);
    proxy.set(Mode::Pass);
    eventually("it cannot be committed", async || {
        first.counted("tallyhouse_ingest_kafka_commit_failures_total", "CoordinatorLoadInProgress") > 0
    })
    .await;
    let before = stored(&first);
    first.stop().await;
    cluster.mock.clear_request_errors(Request::OffsetCommit);
    let second = start(engine().await.writer()).await;
    cluster.counted(60).await;
    eventually("each has one fate", async || before + stored(&second) >= 60).await;
    assert_eq!(before + stored(&second), 60);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_crosses_a_rebalance_is_made_again() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    // It keeps its partitions, so it may try again.
    cluster.mock.request_errors(Request::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 3]);
    cluster.send(&service, 10..60).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_consumer_ends_its_process_and_the_next_one_goes_on() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    cluster.mock.request_errors(Request::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    let events = (10..60).map(|n| json!({"eventId": n.to_string(), "eventType": "a", "value": 1}));
    assert_eq!(service.send(serde_json::Value::from_iter(events).to_string()).await.status, 202);
    let ended = service.ended().await.unwrap_err().to_string();
    assert!(ended.contains("FencedInstanceId"), "{ended}");

    let elsewhere = Folder::create();
    // Another group, because the mock's waits for the member that this process cannot let go of.
    let settings = [("TALLYHOUSE_DATA", elsewhere.path().to_str().unwrap()), ("KAFKA_GROUP", "faults-again")];
    let service = cluster.service_with(&settings).await;
    cluster.counted(60).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_events_go_to_the_local_log_and_are_counted_once_when_it_is_back() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    let logged = || service.counted("tallyhouse_ingest_events_total", "logged");
    let before = logged();
    cluster.mock.broker_down(1).unwrap();
    for from in [10, 60, 110, 30] {
        let reply = service.send(body(from..from + 50)).await;
        assert_eq!(reply.status, 202, "{}", reply.excerpt());
    }
    assert!(service.metric("tallyhouse_ingest_log_records_total") >= 150);
    assert!(before >= 10 && logged() == before, "the others are only in the local log: {before}, {}", logged());
    eventually("it is measured", async || service.metric("tallyhouse_ingest_log_bytes") > 150 * 2_000).await;
    assert!(service.health.is_ready());
    cluster.mock.broker_up(1).unwrap();
    cluster.counted(160).await;
    eventually("nothing waits", async || service.metric("tallyhouse_ingest_log_bytes") == 0).await;
    assert!(logged() >= before + 200, "{} are logged", logged());
    eventually("the new ones are stored", async || service.counted("tallyhouse_ingest_events_total", "stored") == 160)
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_kafka_outlives_its_process_and_damage_holds_up_nobody() {
    let cluster = Cluster::start();
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    cluster.mock.broker_down(1).unwrap();
    for from in [10, 20, 30] {
        assert_eq!(service.send(body(from..from + 10)).await.status, 202);
    }
    service.stop().await;
    let segments = files_in(&cluster.data, "fallback", "log");
    assert_eq!(segments.len(), 1);
    // A byte in the text of one event, and the header of the group after it: these eleven are lost, and said to be.
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let groups: Vec<_> = bytes.windows(4).enumerate().filter(|(_, found)| *found == GROUP).map(|(at, _)| at).collect();
    assert_eq!(groups.len(), 3);
    bytes[groups[1] - 500] ^= 1;
    bytes[groups[1] + 8] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();

    cluster.mock.broker_up(1).unwrap();
    let service = cluster.service().await;
    assert_eq!(service.metric("tallyhouse_ingest_log_lost_records_total"), 11);
    cluster.counted(29).await;
    eventually("nothing waits", async || service.metric("tallyhouse_ingest_log_bytes") == 0).await;
    assert_eq!(files_in(&cluster.data, "fallback", "damaged").len(), 2);
    service.stop().await;
    // What was sent is not sent again.
    let service = cluster.service().await;
    assert_eq!(service.send(body(40..50)).await.status, 202);
    cluster.counted(39).await;
    assert_eq!(service.metric("tallyhouse_ingest_log_lost_records_total"), 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_out_loud_and_loses_nothing() {
    let cluster = Cluster::start();
    let service = cluster.service_with(&[("SPOOL_BYTES", "1048576")]).await;
    cluster.send(&service, 0..10).await;
    cluster.mock.broker_down(1).unwrap();
    let (taken, refused) = service.fill(10).await;
    assert_eq!(refused.status, 503, "{}", refused.excerpt());
    assert!(refused.headers.contains_key("retry-after"));
    assert!(service.metric("tallyhouse_ingest_log_refused_total") >= 100);
    cluster.mock.broker_up(1).unwrap();
    cluster.counted(u64::from(taken)).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_hands_events_back() {
    let cluster = Cluster::start();
    let Some(disk) =
        SmallDisk::mount_or_skip(&cluster.data.path().join("ingest"), 256 << 10, "a_full_disk_hands_events_back")
    else {
        return;
    };
    let service = cluster.service().await;
    cluster.send(&service, 0..10).await;
    cluster.mock.broker_down(1).unwrap();
    let reply = service.send(body(10..400)).await;
    assert_eq!(reply.status, 503, "{}", reply.excerpt());
    assert_eq!(tallyhouse_testkit::ingest_service::json(&reply)["code"], "not_confirmed");
    assert!(files_in(&cluster.data, "fallback", "log").is_empty());
    cluster.mock.broker_up(1).unwrap();
    eventually("Kafka is used again", async || service.send(body(10..400)).await.status == 202).await;
    cluster.counted(400).await;
    service.stop().await;
    disk.unmount();
}
