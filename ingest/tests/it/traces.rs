//! Traces: what a collector gets of an event on its way, and what becomes of requests while it takes nothing.

use std::time::{Duration, Instant};

use tallyhouse_testkit::collector::{Collector, Mode as CollectorMode, Recorded};
use tallyhouse_testkit::ingest_service::{Service, everywhere};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, engine, eventually, kafka_or_skip, new_project};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const TRACES: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SHARE: &str = "OTEL_TRACES_SAMPLER_ARG";
const DROPPED: &str = "tallyhouse_trace_spans_dropped_total";
const EVENT: &str = r#"{"eventId":"e-1","eventType":"a","userId":"person-7","value":1}"#;

fn found<'a>(spans: &'a [Recorded], name: &str) -> &'a Recorded {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
}

fn has(collector: &Collector, name: &str) -> bool {
    collector.spans().iter().any(|span| span.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_one_trace_from_its_request_through_kafka_to_its_insert() {
    let test = "an_event_is_one_trace_from_its_request_through_kafka_to_its_insert";
    let Some(bootstrap) = kafka_or_skip(test).await else { return };
    let (collector, project) = (Collector::start().await.unwrap(), new_project());
    let (topic, connection) = (format!("topic-{}", ulid::Ulid::generate()), engine().await.writer());
    let [gateway, consumer] = [Folder::create(), Folder::create()];
    let settings = |role: &'static str| {
        [
            ("KAFKA_BROKERS", bootstrap.as_str()),
            ("KAFKA_TOPIC", &topic),
            ("KAFKA_GROUP", &topic),
            ("KAFKA_PARTITIONS", "1"),
            ("INGEST_ACK_TIMEOUT_MS", "30000"),
            ("INGEST_ROLE", role),
            (TRACES, collector.url()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret-1"),
            // Of the share nothing is recorded: the caller asks for it.
            (SHARE, "0"),
        ]
    };
    let gateway = Service::start_with(connection.clone(), &gateway, &project, &settings("gateway")).await;
    let consumer = Service::start_with(connection.clone(), &consumer, &project, &settings("consumer")).await;
    let traced = gateway.endpoint().header("traceparent".parse().unwrap(), &format!("00-{TRACE}-{CALLER}-01")).unwrap();
    assert_eq!(traced.post(EVENT.into()).await.unwrap().status, 202);
    // Nobody asks for this one.
    assert_eq!(gateway.send(EVENT.replace("e-1", "e-2")).await.status, 202);
    eventually("both are stored", async || everywhere(&connection, &project).await == [2; 4]).await;
    eventually("the insert is told", async || has(&collector, "insert") && has(&collector, "deliver")).await;
    consumer.stop().await;
    gateway.stop().await;

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == TRACE && span.service == "tallyhouse-ingest"), "{spans:#?}");
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names.len(), 5, "one of each: {names:?}");
    let request = found(&spans, "POST /v1/events");
    assert_eq!((request.parent.as_str(), request.kind), (CALLER, 2));
    assert_eq!(request.attributes["http.response.status_code"], "202");
    for step in ["read", "deliver", "store"] {
        assert_eq!(found(&spans, step).parent, request.span_id, "{step}");
    }
    let (store, insert) = (found(&spans, "store"), found(&spans, "insert"));
    assert_eq!((store.kind, store.attributes["messaging.destination.name"].as_str()), (5, topic.as_str()));
    assert_eq!((&insert.parent, insert.kind), (&store.span_id, 3));
    assert_eq!(insert.attributes["tallyhouse.query_id"].len(), 26, "{insert:?}");
    let told = format!("{spans:?}");
    assert!(!told.contains("person-7") && !told.contains("e-1") && !told.contains(&project), "{told}");
    assert_eq!(collector.headers()["authorization"], "Bearer secret-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_insert_is_told_though_nothing_is_sampled() {
    let (collector, data, project) = (Collector::start().await.unwrap(), Folder::create(), new_project());
    let proxy = Proxy::start(engine().await.writer()).await;
    let settings = [(TRACES, collector.url()), (SHARE, "0")];
    let service = Service::start_with(proxy.connection.clone(), &data, &project, &settings).await;
    assert_eq!(service.endpoint().post_with("wait=stored", EVENT.into()).await.unwrap().status, 200);
    proxy.set(Mode::Away);
    assert_eq!(service.send(EVENT.replace("e-1", "e-2")).await.status, 202);
    eventually("the failure is told", async || has(&collector, "insert")).await;
    let failed = collector.spans();
    assert!(
        failed.iter().all(|span| span.name == "insert" && span.error.as_deref() == Some("unreachable")),
        "{failed:#?}"
    );
    proxy.set(Mode::Pass);
    eventually("the batch is told", async || has(&collector, "store")).await;
    let spans = collector.spans();
    assert_eq!(found(&spans, "insert").parent, found(&spans, "store").span_id);
    assert_eq!(found(&spans, "store").parent, "", "a trace of its own");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_nothing_slows_nobody_and_what_is_dropped_is_counted() {
    let (collector, data, project) = (Collector::start().await.unwrap(), Folder::create(), new_project());
    let settings = [(TRACES, collector.url()), (SHARE, "1")];
    let service = Service::start_with(engine().await.writer(), &data, &project, &settings).await;
    collector.set(CollectorMode::Refuses);
    assert_eq!(service.send(EVENT).await.status, 202);
    eventually("what was refused is counted", async || service.counted(DROPPED, "not_taken") >= 3).await;
    assert_eq!(service.metric("tallyhouse_trace_spans_exported_total"), 0);

    collector.set(CollectorMode::Hangs);
    let (calls, since) = (collector.calls(), Instant::now());
    for n in 0..20 {
        assert_eq!(service.send(EVENT.replace("e-1", &format!("h-{n}"))).await.status, 202);
    }
    assert!(since.elapsed() < Duration::from_secs(10), "nobody waits: {:?}", since.elapsed());
    eventually("the collector holds a call", async || collector.calls() > calls).await;
    let stopping = Instant::now();
    service.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(6), "nor does the end: {:?}", stopping.elapsed());
    assert!(collector.spans().is_empty());
}
