//! Kafka delivery against a real broker: what is acknowledged is counted once, whoever dies in between.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rustix::process::Signal;
use serde_json::json;
use tallyhouse_ingest::journal::{Journal, JournalFile};
use tallyhouse_ingest::kafka::pins::{WidenError, widen};
use tallyhouse_ingest::kafka::settings::{Brokers, Options};
use tallyhouse_loadtest::process;
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_sql::Connection;
use tallyhouse_sql::rollups::verify;

use tallyhouse_testkit::ingest_service::{Service, count, everywhere, files_in, json, long_record_of, record_of};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, engine, eventually, kafka_or_skip, new_project, programs};

/// A topic and a group of one's own, and services that use them.
struct Log {
    bootstrap: String,
    name: String,
    revoke_ms: &'static str,
    options: &'static str,
}

impl Log {
    /// `None` when tests with Kafka are off, which is printed with the test's name.
    async fn new(test: &str) -> Option<Self> {
        let name = format!("topic-{}", ulid::Ulid::generate());
        Some(Self { bootstrap: kafka_or_skip(test).await?, name, revoke_ms: "5000", options: "" })
    }

    fn settings<'a>(&'a self, role: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("KAFKA_BROKERS", &self.bootstrap),
            ("KAFKA_TOPIC", &self.name),
            ("KAFKA_GROUP", &self.name),
            ("KAFKA_PARTITIONS", "2"),
            ("KAFKA_REVOKE_MS", self.revoke_ms),
            ("KAFKA_TIMEOUT_MS", "5000"),
            // Nobody here waits for a refusal, and a rebalance may take seconds.
            ("INGEST_ACK_TIMEOUT_MS", "30000"),
            ("KAFKA_OPTIONS", self.options),
            ("INGEST_ROLE", role),
        ]
    }

    async fn service(&self, role: &str, connection: Connection, data: &Folder, project: &str) -> Service {
        Service::start_with(connection, data, project, &self.settings(role)).await
    }

    /// A consumer as a process of its own, that can be killed.
    async fn process(&self, connection: &Connection) -> System {
        self.process_with(connection, &[]).await
    }

    async fn process_with<'a>(&'a self, connection: &'a Connection, more: &[(&'a str, &'a str)]) -> System {
        let mut settings = self.settings("consumer");
        settings.extend(more);
        settings.extend([
            ("CLICKHOUSE_URL", connection.url.as_str()),
            ("CLICKHOUSE_USER", &connection.user),
            ("CLICKHOUSE_PASSWORD", &connection.password),
            ("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f"),
        ]);
        System::start_with(&programs::tallyhouse(), &settings).await.unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().unwrap()
    }

    /// A record as it is, of no gateway of ours.
    async fn produce(&self, payload: &[u8]) {
        let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().unwrap();
        let record = FutureRecord::<(), _>::to(&self.name).payload(payload).partition(0);
        producer.send(record, Duration::from_secs(5)).await.unwrap();
    }
}

fn events(ids: impl IntoIterator<Item = String>) -> String {
    let events = ids.into_iter().map(|id| json!({"eventId": id, "eventType": "a", "userId": "u", "value": 1}));
    serde_json::Value::from_iter(events).to_string()
}

fn plus(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}

fn numbered(range: std::ops::Range<u32>) -> String {
    events(range.map(|n| n.to_string()))
}

async fn stored(connection: &Connection, project: &str, events: u64) {
    eventually("all are stored", async || everywhere(connection, project).await == [events; 4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_acknowledged_by_kafka_and_counted_once() {
    let Some(log) = Log::new("an_event_is_acknowledged_by_kafka_and_counted_once").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    let reply = service.endpoint().post_with("wait=stored", numbered(0..100).into()).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.excerpt());
    assert_eq!(json(&reply)["accepted"], 100);
    assert_eq!(everywhere(&connection, &project).await, [100; 4], "waiting means that it is there");
    let sources = "SELECT uniqExact(source_partition, source_offset) FROM events \
                   WHERE project_id = {project:String} AND source_offset >= 0";
    assert_eq!(count(&connection, &project, sources).await, 100);
    let selection = tallyhouse::rollups::selection(Some(project), None, None, None);
    let audit = verify::audit(&connection.client(), &selection, 10).await.unwrap();
    assert!(audit.is_clean());
    assert_eq!(audit.sources.iter().map(|source| (source.offsets, source.missing)).fold((0, 0), plus), (100, 0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_version_without_a_log_go_to_kafka_once() {
    let Some(log) = Log::new("files_of_a_version_without_a_log_go_to_kafka_once").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let mut records = Vec::new();
    for n in 0..10_u64 {
        let payload = record_of(&project, &n.to_string(), 1.0);
        records.extend((log.name.len() as u32).to_le_bytes());
        records.extend(log.name.as_bytes());
        records.extend(n.to_le_bytes());
        records.extend((payload.len() as u32).to_le_bytes());
        records.extend(payload);
    }
    let content = JournalFile { token: "left".to_owned(), rows: 10, chunks: vec![records.into()], days: vec![] };
    let files = Journal::open(&data.path().join("ingest/records")).unwrap();
    files.write("1", &content).unwrap();
    drop(files);
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    stored(&connection, &project, 10).await;
    eventually("their file is gone", async || files_in(&data, "records", "batch").is_empty()).await;
    assert_eq!(service.metric("tallyhouse_ingest_journal_replayed_total"), 1);
    assert_eq!(service.send(numbered(10..20)).await.status, 202);
    stored(&connection, &project, 20).await;
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "logged"), 20);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_ids_are_counted_once_also_after_a_restart() {
    let Some(log) = Log::new("repeated_ids_are_counted_once_also_after_a_restart").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..50)).await.status, 202);
    stored(&connection, &project, 50).await;
    service.stop().await;

    let service = log.service("all", connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..60)).await.status, 202);
    stored(&connection, &project, 60).await;
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "duplicate"), 50);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_dies_between_insert_and_commit_is_taken_over_exactly() {
    let Some(log) = Log::new("a_consumer_that_dies_between_insert_and_commit_is_taken_over_exactly").await else {
        return;
    };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let gateway = log.service("gateway", connection.clone(), &data, &project).await;
    let proxy = Proxy::start(connection.clone()).await;
    let doomed = log.process(&proxy.connection).await;
    assert_eq!(gateway.send(numbered(0..10)).await.status, 202);
    stored(&connection, &project, 10).await;

    // The insert is carried out, its answer never comes, so the commit after it is not made.
    proxy.set(Mode::HoldAnswers);
    assert_eq!(gateway.send(numbered(10..500)).await.status, 202);
    let is_inserted = async || everywhere(&connection, &project).await.iter().all(|count| *count > 10);
    eventually("an insert has been carried out", is_inserted).await;
    drop(doomed);

    let heir = log.service("consumer", connection.clone(), &Folder::create(), &project).await;
    stored(&connection, &project, 500).await;
    // Others may have been stored before its partition began.
    let intents = async || heir.counted("tallyhouse_ingest_kafka_intents_total", "whole") > 0;
    eventually("a begun batch was found", intents).await;
    // Repeated as it was begun, not skipped because its ids are known: a half-applied insert would stay half.
    assert_eq!(heir.counted("tallyhouse_ingest_kafka_consumed_total", "replayed"), 0);
    heir.stop().await;
    gateway.stop().await;
    assert_eq!(everywhere(&connection, &project).await, [500; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_in_the_middle_of_an_insert_counts_nothing_twice() {
    let Some(mut log) = Log::new("a_rebalance_in_the_middle_of_an_insert_counts_nothing_twice").await else { return };
    // Short, so that the batch is given up while it is being inserted.
    log.revoke_ms = "200";
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let gateway = log.service("gateway", connection.clone(), &data, &project).await;
    let proxy = Proxy::start(connection.clone()).await;
    let first = log.service("consumer", proxy.connection.clone(), &Folder::create(), &project).await;
    assert_eq!(gateway.send(numbered(0..10)).await.status, 202);
    stored(&connection, &project, 10).await;

    proxy.set(Mode::HoldAnswers);
    assert_eq!(gateway.send(numbered(10..1_000)).await.status, 202);
    let is_inserted = async || everywhere(&connection, &project).await.iter().all(|count| *count > 10);
    eventually("an insert has been carried out", is_inserted).await;
    let second = log.service("consumer", connection.clone(), &Folder::create(), &project).await;
    eventually("a partition was given up", async || {
        first.counted("tallyhouse_ingest_kafka_rebalances_total", "revoked") > 0
            && second.metric("tallyhouse_ingest_kafka_assigned_partitions") > 0
    })
    .await;
    proxy.set(Mode::Pass);
    stored(&connection, &project, 1_000).await;
    assert_eq!(gateway.send(numbered(0..1_500)).await.status, 202);
    stored(&connection, &project, 1_500).await;
    for service in [first, second, gateway] {
        service.stop().await;
    }
    assert_eq!(everywhere(&connection, &project).await, [1_500; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_away_pauses_partitions_and_keeps_the_group() {
    let Some(log) = Log::new("clickhouse_away_pauses_partitions_and_keeps_the_group").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let proxy = Proxy::start(connection.clone()).await;
    let service = log.service("all", proxy.connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..10)).await.status, 202);
    stored(&connection, &project, 10).await;
    let rebalances = service.counted("tallyhouse_ingest_kafka_rebalances_total", "assigned");

    proxy.set(Mode::Away);
    let long = "x".repeat(4_000);
    let mut sent = 10_u32;
    while service.metric("tallyhouse_ingest_kafka_paused_partitions") < 2 {
        let ids = (sent..sent + 200)
            .map(|n| json!({"eventId": n.to_string(), "eventType": "a", "value": 1, "properties": {"long": long}}));
        let reply = service.send(serde_json::Value::from_iter(ids).to_string()).await;
        assert_eq!(reply.status, 202, "events are acknowledged while ClickHouse is away");
        sent += 200;
        assert!(sent < 100_000, "partitions are never paused");
    }
    assert!(service.health.is_ready(), "Kafka stands in front of ClickHouse");
    proxy.set(Mode::Pass);
    stored(&connection, &project, u64::from(sent)).await;
    eventually("all go on", async || service.metric("tallyhouse_ingest_kafka_paused_partitions") == 0).await;
    assert_eq!(service.counted("tallyhouse_ingest_kafka_rebalances_total", "assigned"), rebalances);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_vanishes_is_made_anew_and_its_records_are_not_taken_for_old_ones() {
    let Some(log) = Log::new("a_topic_that_vanishes_is_made_anew_and_its_records_are_not_taken_for_old_ones").await
    else {
        return;
    };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..40)).await.status, 202);
    stored(&connection, &project, 40).await;

    log.admin().delete_topics(&[&log.name], &AdminOptions::new()).await.unwrap();
    // The same offsets again, with other events.
    let body = numbered(40..80);
    eventually("the topic is there again", async || service.send(body.clone()).await.status == 202).await;
    stored(&connection, &project, 80).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_stops_nothing() {
    let Some(log) = Log::new("a_record_that_cannot_be_read_stops_nothing").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..10)).await.status, 202);
    for poison in [&b""[..], b"\x00old version", b"\xffnew version", b"\x01cut"] {
        log.produce(poison).await;
    }
    assert_eq!(service.send(numbered(10..20)).await.status, 202);
    stored(&connection, &project, 20).await;
    eventually("all are dead letters", async || {
        service.counted("tallyhouse_ingest_events_total", "dead_lettered") == 4
    })
    .await;
    let dead_letters = format!(
        "SELECT count() FROM dead_letters FINAL WHERE source_topic = '{}' AND kind = 'record' AND state = 'open' \
         AND code IN ('undecodable', 'unknown_version') AND source_partition = 0 AND project_id != {{project:String}}",
        log.name
    );
    assert_eq!(count(&connection, &project, &dead_letters).await, 4);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_an_older_gateway_let_through_is_not_counted_and_holds_nothing_up() {
    let test = "a_value_that_an_older_gateway_let_through_is_not_counted_and_holds_nothing_up";
    let Some(log) = Log::new(test).await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    for (id, value) in [("small", 1e-300), ("large", 1e300), ("largest", f64::MAX), ("none", f64::NAN), ("one", 1.0)] {
        log.produce(&record_of(&project, id, value)).await;
    }
    stored(&connection, &project, 5).await;
    let sql = "SELECT toUInt64(sum(value_count) * 10 + sum(value_sum)) FROM rollup_1h \
               WHERE project_id = {project:String} AND dim_set = ''";
    assert_eq!(count(&connection, &project, sql).await, 21, "the small one counts as 0");
    let flagged = "SELECT countIf(bitAnd(flags, 64) = 64) FROM events WHERE project_id = {project:String}";
    assert_eq!(count(&connection, &project, flagged).await, 4);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_topic_does_not_take_is_refused_alone() {
    let Some(log) = Log::new("an_event_that_the_topic_does_not_take_is_refused_alone").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let topic = NewTopic::new(&log.name, 2, TopicReplication::Fixed(1)).set("max.message.bytes", "4096");
    log.admin().create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let connection = engine().await.writer();
    let service = log.service("all", connection.clone(), &data, &project).await;
    let long = json!([
        {"eventId": "1", "eventType": "a", "value": 1},
        {"eventId": "2", "eventType": "a", "properties": {"a": "x".repeat(4_000), "b": "y".repeat(4_000)}},
        {"eventId": "3", "eventType": "a", "value": 1},
    ]);
    let reply = service.send(long.to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.excerpt());
    let answer = json(&reply);
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["code"]), (&json!(2), &json!("too_large_for_log")));
    assert_eq!((&answer["rejected"][0]["index"], &answer["rejected"][0]["eventId"]), (&json!(1), &json!("2")));
    stored(&connection, &project, 2).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_may_have_a_topic_of_its_own() {
    let Some(log) = Log::new("a_project_may_have_a_topic_of_its_own").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let mut settings = log.settings("all");
    settings.push(("KAFKA_TOPIC_PER_PROJECT", "1"));
    let service = Service::start_with(connection.clone(), &data, &project, &settings).await;
    assert_eq!(service.send(numbered(0..20)).await.status, 202);
    stored(&connection, &project, 20).await;
    let metadata = log.admin().inner().fetch_metadata(Some(&format!("events.{project}")), Duration::from_secs(5));
    assert_eq!(metadata.unwrap().topics()[0].partitions().len(), 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_while_events_wait_count_nothing_twice() {
    let Some(log) = Log::new("partitions_that_are_added_while_events_wait_count_nothing_twice").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let topic = NewTopic::new(&log.name, 1, TopicReplication::Fixed(1));
    log.admin().create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let connection = engine().await.writer();
    let proxy = Proxy::start(connection.clone()).await;
    proxy.set(Mode::Away);
    let service = log.service("all", proxy.connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..2_000)).await.status, 202);
    log.admin().create_partitions(&[NewPartitions::new(&log.name, 4)], &AdminOptions::new()).await.unwrap();
    service.stop().await;

    let service = log.service("all", proxy.connection.clone(), &data, &project).await;
    eventually("consumers have all", async || service.metric("tallyhouse_ingest_kafka_assigned_partitions") == 4).await;
    assert_eq!(service.send(numbered(0..2_000)).await.status, 202);
    proxy.set(Mode::Pass);
    stored(&connection, &project, 2_000).await;
    assert_eq!(service.send(numbered(0..2_001)).await.status, 202);
    stored(&connection, &project, 2_001).await;
    assert_eq!(service.metric("tallyhouse_ingest_kafka_unused_partitions"), 3, "it is told");
    let widen = async || {
        let (brokers, name) =
            (Brokers { bootstrap: log.bootstrap.clone(), options: Options::default() }, log.name.clone());
        tokio::task::spawn_blocking(move || widen(&brokers, &name, &name)).await.unwrap()
    };
    assert!(matches!(widen().await, Err(WidenError::InUse { members: 1, .. })));
    service.stop().await;
    let gateway = log.service("gateway", connection.clone(), &Folder::create(), &project).await;
    assert_eq!(gateway.send(numbered(2_001..2_002)).await.status, 202);
    gateway.stop().await;
    assert!(matches!(widen().await, Err(WidenError::Behind { partition: 0, records: 1 })));
    let consumer = log.service("consumer", connection.clone(), &Folder::create(), &project).await;
    stored(&connection, &project, 2_002).await;
    consumer.stop().await;
    assert_eq!(widen().await.unwrap(), (1, 4));

    let service = log.service("all", connection.clone(), &data, &project).await;
    assert_eq!(service.send(numbered(0..2_400)).await.status, 202);
    stored(&connection, &project, 2_400).await;
    let used = "SELECT uniqExact(source_partition) FROM events WHERE project_id = {project:String}";
    assert_eq!(count(&connection, &project, used).await, 4);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_with_a_backlog_take_bounded_memory() {
    const PARTITIONS: i32 = 64;
    let Some(log) = Log::new("many_partitions_with_a_backlog_take_bounded_memory").await else { return };
    let project = new_project();
    let topic = NewTopic::new(&log.name, PARTITIONS, TopicReplication::Fixed(1));
    log.admin().create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let connection = engine().await.writer();
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &log.bootstrap)
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    // 8 MiB for each partition, which a broker gives away as 32 KiB: more than a batch and what waits behind it may have.
    let sent = (0..128_000).map(|n: u64| {
        let payload = long_record_of(&project, &n.to_string());
        let partition = (n % PARTITIONS as u64) as i32;
        producer.send_result(FutureRecord::<(), _>::to(&log.name).payload(&payload).partition(partition)).unwrap()
    });
    for sent in sent.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
    // No insert is answered, so the consumer takes whatever it may.
    let proxy = Proxy::start(connection).await;
    proxy.set(Mode::Swallow("INSERT"));
    let consumer = log.process_with(&proxy.connection, &[("INGEST_BATCH_BYTES", "2097152")]).await;
    let paused = async || {
        let metrics = Endpoint::new(&consumer.ingest_admin_url(), Duration::from_secs(5)).unwrap();
        let metrics = String::from_utf8(metrics.get("/metrics").await.unwrap().body.to_vec()).unwrap();
        let lag = metrics.lines().find_map(|line| line.strip_prefix("tallyhouse_ingest_kafka_paused_partitions "));
        lag.map_or(0, |lag| lag.parse::<u64>().unwrap())
    };
    eventually("all partitions have enough", async || paused().await == 64).await;
    let peak = process::memory(consumer.pid().unwrap()).unwrap().peak >> 20;
    assert!(peak < 300, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_topics_take_no_ids_from_the_others() {
    let Some(log) = Log::new("idle_topics_take_no_ids_from_the_others").await else { return };
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let names: Vec<String> = (0..25).map(|n| format!("events.idle-{n}-{}", log.name)).collect();
    let idle: Vec<_> = names.iter().map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1))).collect();
    log.admin().create_topics(&idle, &AdminOptions::new()).await.unwrap();
    let mut settings = log.settings("all");
    settings.extend([("KAFKA_TOPIC_PER_PROJECT", "1"), ("DEDUP_WINDOW_IDS", "1000")]);
    let service = Service::start_with(connection.clone(), &data, &project, &settings).await;
    eventually("all partitions are ours", async || service.metric("tallyhouse_ingest_kafka_assigned_partitions") >= 52)
        .await;
    assert_eq!(service.send(numbered(0..500)).await.status, 202);
    stored(&connection, &project, 500).await;
    assert_eq!(service.send(numbered(0..501)).await.status, 202);
    stored(&connection, &project, 501).await;
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "duplicate"), 500);
    service.stop().await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    log.admin().delete_topics(&names, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stood_still_is_put_out_and_joins_again() {
    let Some(mut log) = Log::new("a_consumer_that_stood_still_is_put_out_and_joins_again").await else { return };
    // The shortest session that a broker allows by default.
    log.options = "session.timeout.ms=6000;heartbeat.interval.ms=500";
    let (data, project) = (Folder::create(), new_project());
    let connection = engine().await.writer();
    let gateway = log.service("gateway", connection.clone(), &data, &project).await;
    let stopped = log.process(&connection).await;
    assert_eq!(gateway.send(numbered(0..100)).await.status, 202);
    stored(&connection, &project, 100).await;

    process::signal(stopped.pid().unwrap(), Signal::STOP).unwrap();
    assert_eq!(gateway.send(numbered(100..200)).await.status, 202);
    let heir = log.service("consumer", connection.clone(), &Folder::create(), &project).await;
    stored(&connection, &project, 200).await;
    process::signal(stopped.pid().unwrap(), Signal::CONT).unwrap();
    // What it still held it may not commit; alone again, it takes everything over.
    heir.stop().await;
    assert_eq!(gateway.send(numbered(150..300)).await.status, 202);
    stored(&connection, &project, 300).await;
    gateway.stop().await;
}
