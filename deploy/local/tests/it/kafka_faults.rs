//! The Kafka way against a broker that answers with errors on demand (librdkafka's mock cluster).

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};
use serde_json::json;

use crate::ingest_service::{Service, everywhere};
use crate::query_service::{eventually, new_project};
use crate::support::{Folder, engine};

const TOPIC: &str = "faults";

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
        let settings = [
            ("KAFKA_BROKERS", self.bootstrap.as_str()),
            ("KAFKA_TOPIC", TOPIC),
            ("KAFKA_GROUP", "faults"),
            ("KAFKA_TIMEOUT_MS", "5000"),
            ("INGEST_ACK_TIMEOUT_MS", "10000"),
        ];
        Service::start_with(engine().await.writer(), &self.data, &self.project, &settings).await
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

    let service = cluster.service().await;
    cluster.counted(60).await;
    service.stop().await;
}
