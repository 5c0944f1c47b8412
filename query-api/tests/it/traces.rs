//! Traces: what a collector gets of a question.

use tallyhouse_testkit::collector::{Collector, Recorded};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{engine, eventually, new_project};

const CALLER: &str = "b7ad6b7169203331";

fn trace(number: u32) -> String {
    format!("{number:032x}")
}

async fn ask(service: &Service, project: &str, number: u32) -> u16 {
    let traceparent = format!("00-{}-{CALLER}-01", trace(number));
    let headers = [("x-api-key", project), ("traceparent", traceparent.as_str())];
    service
        .get_with("/v1/metrics/events?startTime=2026-01-01&endTime=2026-01-02&filter=country:DE", &headers)
        .await
        .status
        .as_u16()
}

/// The spans of a trace, once they are all told: the request's own is first of them to be sent.
async fn spans(collector: &Collector, number: u32, last: &str) -> Vec<Recorded> {
    let of_trace =
        || -> Vec<Recorded> { collector.spans().into_iter().filter(|span| span.trace_id == trace(number)).collect() };
    eventually("the question is told", async || of_trace().iter().any(|span| span.name == last)).await;
    of_trace()
}

fn found<'a>(spans: &'a [Recorded], name: &str) -> &'a Recorded {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_one_trace_down_to_its_query_and_a_failure_is_always_told() {
    let (collector, project) = (Collector::start().await.unwrap(), new_project());
    let proxy = Proxy::start(engine().await.reader()).await;
    let settings = Settings::of(proxy.connection.clone())
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .with("OTEL_TRACES_SAMPLER_ARG", "0");
    let service = Service::start_with(settings, &[&project]).await;

    assert_eq!(ask(&service, &project, 1).await, 200);
    let missed = spans(&collector, 1, "cache").await;
    assert!(missed.iter().all(|span| span.service == "tallyhouse-query-api"));
    let request = found(&missed, "GET /v1/metrics/{name}");
    assert_eq!((request.parent.as_str(), request.kind), (CALLER, 2));
    let (plan, cache) = (found(&missed, "plan"), found(&missed, "cache"));
    assert_eq!((&plan.parent, &cache.parent), (&request.span_id, &request.span_id));
    assert_eq!(cache.attributes["tallyhouse.cache"], "MISS");
    let query = missed.iter().find(|span| span.name == "clickhouse" && span.parent == cache.span_id).unwrap();
    assert_eq!((query.kind, query.attributes["tallyhouse.query_id"].len()), (3, 26), "{query:?}");
    let told = format!("{missed:?}");
    assert!(!told.contains(&project) && !told.contains("country"), "{told}");

    assert_eq!(ask(&service, &project, 2).await, 200);
    let hit = spans(&collector, 2, "cache").await;
    let cache = found(&hit, "cache");
    assert_eq!(cache.attributes["tallyhouse.cache"], "HIT");
    assert!(!hit.iter().any(|span| span.name == "clickhouse" && span.parent == cache.span_id), "{hit:#?}");

    // Nobody asks for these to be recorded, and only one fails.
    let path = "/v1/metrics/users?startTime=2026-01-01&endTime=2026-01-02";
    assert_eq!(service.get(&project, path).await.status, 200);
    proxy.set(Mode::Away);
    let path = "/v1/metrics/users?startTime=2026-01-03&endTime=2026-01-04";
    assert_eq!(service.get(&project, path).await.status, 503);
    let has_failed = || collector.spans().iter().any(|span| span.error.as_deref() == Some("503"));
    eventually("the failure is told", async || has_failed()).await;
    let all = collector.spans();
    let own: Vec<&Recorded> =
        all.iter().filter(|span| span.kind == 2 && ![trace(1), trace(2)].contains(&span.trace_id)).collect();
    assert_eq!(own.len(), 1, "{own:#?}");
    assert!(
        all.iter().any(|span| span.trace_id == own[0].trace_id && span.name == "clickhouse" && span.error.is_some())
    );
    service.stop().await;
}
