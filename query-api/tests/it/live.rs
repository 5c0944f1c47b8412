//! Streams of a metric: one query to ClickHouse however many listeners, a value when something changed, and an explicit end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project};

/// Longer than a heartbeat, so that something comes whatever happens.
const TIME_BUDGET: Duration = Duration::from_secs(40);

/// An open stream.
struct Listener {
    body: Incoming,
    read: VecDeque<String>,
    rest: String,
}

/// What came, field by field; a comment has none.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Listener {
    async fn open(service: &Service, project: &str, path: &str) -> Self {
        Self::open_with(service, path, &[("x-api-key", project)]).await
    }

    async fn open_with(service: &Service, path: &str, headers: &[(&str, &str)]) -> Self {
        let response = service.open(path, headers).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { body: response.into_body(), read: VecDeque::new(), rest: String::new() }
    }

    /// The next block of lines, or `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(block) = self.read.pop_front() {
                return Some(block);
            }
            let frame = tokio::time::timeout(TIME_BUDGET, self.body.frame()).await.expect("something comes")?;
            let bytes: Bytes = frame.unwrap().into_data().unwrap();
            self.rest.push_str(std::str::from_utf8(&bytes).unwrap());
            while let Some((block, rest)) = self.rest.split_once("\n\n") {
                self.read.push_back(block.to_owned());
                self.rest = rest.to_owned();
            }
        }
    }

    /// The next event that is one: comments and `retry` are passed over.
    async fn event(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default().to_owned()
            };
            if let Ok(data) = serde_json::from_str(&field("data")) {
                return Some(Event { id: field("id"), name: field("event"), data });
            }
        }
    }
}

fn total(event: &Event) -> u64 {
    event.data["data"].as_array().unwrap().iter().map(|point| point["value"].as_u64().unwrap()).sum()
}

/// The start of the running minute, in seconds.
fn this_minute() -> i64 {
    tallyhouse_service::clock::now_ms() / 60_000 * 60
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_listeners_cost_what_one_does_and_nothing_when_they_left() {
    let (engine, project) = (support::engine().await, new_project());
    insert_events(&engine.writer(), &project, this_minute() - 600, 1).await;
    let service = Arc::new(Service::start(engine.reader(), &[&project], None).await);
    let opening: Vec<_> = (0..200)
        .map(|number| {
            // The same question in two orders. One interval lasts longer than the test: its queries are one.
            let path = ["window=1h&interval=60", "interval=60&window=60m"][number % 2];
            let (service, project) = (Arc::clone(&service), project.clone());
            tokio::spawn(async move {
                let path = format!("/v1/metrics/events/stream?granularity=minute&{path}");
                let mut listener = Listener::open(&service, &project, &path).await;
                let event = listener.event().await.unwrap();
                (listener, event)
            })
        })
        .collect();
    let mut listeners = Vec::new();
    for opened in opening {
        let (listener, event) = opened.await.unwrap();
        assert_eq!((total(&event), event.name.as_str()), (3, ""));
        assert!(event.id.starts_with("1-"), "{event:?}");
        listeners.push(listener);
    }
    assert_eq!(service.queries(), 1);
    assert_eq!(service.gauge("tallyhouse_query_stream_listeners"), 200);
    assert_eq!(service.gauge("tallyhouse_query_stream_questions"), 1);

    listeners.truncate(1);
    eventually("199 have left", async || service.gauge("tallyhouse_query_stream_listeners") == 1).await;
    assert_eq!(service.gauge("tallyhouse_query_stream_questions"), 1);
    listeners.clear();
    eventually("the ticker has ended", async || service.gauge("tallyhouse_query_stream_questions") == 0).await;
    assert_eq!(service.gauge("tallyhouse_query_stream_listeners"), 0);
}

/// What does not change an answer makes no other question, and different questions read what they have in common once.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_streams_over_the_same_events_share_questions_and_what_is_read() {
    let (engine, project) = (support::engine().await, new_project());
    insert_events(&engine.writer(), &project, this_minute() - 600, 1).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let mut same = Vec::new();
    for limit in 1..=10 {
        let path = format!("/v1/metrics/events/stream?window=1h&granularity=minute&interval=60&limit={limit}");
        same.push(Listener::open(&service, &project, &path).await);
    }
    assert_eq!(service.gauge("tallyhouse_query_stream_questions"), 1);
    drop(same);
    let mut different = Vec::new();
    for minutes in 60..90 {
        let path = format!("/v1/metrics/events/stream?window={minutes}m&granularity=minute");
        different.push(Listener::open(&service, &project, &path).await);
    }
    for listener in &mut different {
        assert_eq!(total(&listener.event().await.unwrap()), 3);
    }
    let before = service.queries();
    for _ in 0..3 {
        for listener in &mut different {
            listener.block().await;
        }
    }
    let queries = service.queries() - before;
    eprintln!("90 ticks of 30 streams: {queries} queries");
    assert!(queries <= 45, "{queries} queries for 90 ticks");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inserted_arrives_in_the_form_of_the_metric() {
    let (engine, project, other) = (support::engine().await, new_project(), new_project());
    let service = Service::start(engine.reader(), &[&project, &other], None).await;
    let path = "/v1/metrics/events/stream?window=2h&granularity=hour&filter=country:DE";
    let mut listener = Listener::open(&service, &project, path).await;
    let mut stranger = Listener::open(&service, &other, path).await;
    let empty = listener.event().await.unwrap();
    assert_eq!(total(&empty), 0);
    // Today: nobody publishes these inserts, and a day that is over is remembered for a minute then.
    let midnight = this_minute() - this_minute().rem_euclid(86_400);
    insert_events(&engine.writer(), &project, midnight.max(this_minute() - 120), 1).await;
    let mut full = listener.event().await.unwrap();
    while total(&full) == 0 {
        full = listener.event().await.unwrap();
    }
    assert_eq!((total(&full), &full.data["metric"]), (2, &json!("events")));
    assert!(full.data["meta"]["cache"]["age_s"].is_number() && full.data["meta"]["source"].is_string(), "{full:?}");
    assert_ne!(full.id, empty.id);
    assert_eq!(total(&stranger.event().await.unwrap()), 0, "another project's data");
    assert_eq!(service.gauge("tallyhouse_query_stream_questions"), 2);
    // A client that comes back with the last id is not sent the same again.
    let headers = [("x-api-key", project.as_str()), ("last-event-id", full.id.as_str())];
    let mut again = Listener::open_with(&service, path, &headers).await;
    assert!(again.block().await.unwrap().starts_with("retry: "));
    let next = again.block().await.unwrap();
    assert!(next.starts_with(": ") || !next.contains(&full.id), "{next}");

    service.begin_stop();
    let mut last = None;
    while let Some(event) = listener.event().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event { name: "bye".into(), data: json!({"reason": "shutdown"}), id: String::new() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_metric_is_streamed_as_it_is_defined_by_now() {
    let (engine, project) = (support::engine().await, new_project());
    insert_events(&engine.writer(), &project, this_minute() - 600, 1).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let define = async |document: Value| {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", document.to_string()).await;
        assert_eq!(made.status, 201, "{made:?}");
    };
    let path = "/v1/metrics/bought/stream?window=1h&granularity=5m";
    assert_eq!(service.get(&project, path).await.status, 404, "nobody registered it");
    define(json!({"name": "bought", "measure": "count", "event_type": "purchase"})).await;
    let mut listener = Listener::open(&service, &project, path).await;
    let first = listener.event().await.unwrap();
    assert_eq!((total(&first), &first.data["metric"]), (1, &json!("bought")), "{first:?}");
    // Two who ask the same share a ticker.
    let mut second = Listener::open(&service, &project, path).await;
    assert_eq!(total(&second.event().await.unwrap()), 1);
    assert_eq!(service.gauge("tallyhouse_query_stream_questions"), 1);
    define(json!({"name": "bought", "measure": "count", "replaces": 1})).await;
    let changed = async { while total(&listener.event().await.unwrap()) != 3 {} };
    tokio::time::timeout(TIME_BUDGET, changed).await.expect("the stream follows the metric");
    service.begin_stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_said_marked_and_survived() {
    let (engine, project) = (support::engine().await, new_project());
    let proxy = Proxy::start(engine.reader()).await;
    insert_events(&engine.writer(), &project, this_minute() - 120, 1).await;
    let service = Service::start(proxy.connection.clone(), &[&project], None).await;
    let path = "/v1/metrics/events/stream?window=1h&granularity=day";
    let mut listener = Listener::open(&service, &project, path).await;
    assert_eq!(listener.event().await.unwrap().name, "");
    proxy.set(Mode::Away);
    let error = listener.event().await.unwrap();
    assert_eq!((error.name.as_str(), &error.data["code"], error.id.as_str()), ("error", &json!("unavailable"), ""));
    let mut late = Listener::open(&service, &project, path).await;
    let stale = late.event().await.unwrap();
    assert_eq!((total(&stale), &stale.data["meta"]["cache"]["stale_reason"]), (3, &json!("unavailable")));
    assert_eq!(late.event().await.unwrap().name, "error");
    proxy.set(Mode::Pass);
    for listener in [&mut listener, &mut late] {
        let value = listener.event().await.unwrap();
        assert_eq!(
            (value.name.as_str(), total(&value), value.data["meta"]["cache"].get("stale_reason")),
            ("", 3, None)
        );
    }
    // Open streams do not hold the end up.
    service.stop().await;
}

#[tokio::test]
async fn a_stream_is_refused_before_it_begins() {
    let (engine, project) = (support::engine().await, new_project());
    let settings = Settings::of(engine.reader())
        .with("QUERY_STREAM_QUESTIONS_PER_PROJECT", "1")
        .with("QUERY_STREAM_LISTENERS_PER_PROJECT", "2");
    let service = Service::start_with(settings, &[&project]).await;
    for (path, status, code) in [
        ("revenu/stream", 404, "unknown_metric"),
        ("events/stream?interval=0", 400, "bad_parameter"),
        ("events/stream?window=1y", 400, "bad_parameter"),
        ("events/stream?startTime=2026-01-01", 400, "unknown_parameter"),
        ("events/stream?groupBy=nothing", 400, "unknown_dimension"),
        ("events/stream?window=31d&granularity=minute", 422, "too_many_points"),
    ] {
        let reply = service.get(&project, &format!("/v1/metrics/{path}")).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{path}: {reply:?}");
    }
    for parameter in ["window", "interval", "granularity", "groupBy", "timezone", "limit"] {
        for hostile in ["%27", "1%27%20OR%201%3D1--", "%7Bproject%3AString%7D", "%5C", "%00", "%ff"] {
            let path = format!("/v1/metrics/events/stream?{parameter}={hostile}");
            assert_eq!(service.get(&project, &path).await.status, 400, "{path}");
        }
    }
    assert_eq!(service.queries(), 0);
    assert_eq!(service.get("nobody", "/v1/metrics/events/stream").await.status, 401);
    let one = Listener::open(&service, &project, "/v1/metrics/events/stream").await;
    let reply = service.get(&project, "/v1/metrics/users/stream").await;
    assert_eq!((reply.status.as_u16(), &reply.body["code"]), (429, &json!("too_many_streamed_questions")), "{reply:?}");
    let two = Listener::open(&service, &project, "/v1/metrics/events/stream").await;
    let reply = service.get(&project, "/v1/metrics/events/stream").await;
    assert_eq!((reply.status.as_u16(), &reply.body["code"]), (429, &json!("too_many_streams")), "{reply:?}");
    assert_eq!((reply.header("retry-after"), &reply.body["limit"]), ("10", &json!(2)));
    assert_eq!(service.counted("tallyhouse_query_stream_refused_total", ""), 2);
    drop((one, two));
    eventually("slots are given back", async || {
        service.open("/v1/metrics/users/stream", &[("x-api-key", &project)]).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn the_dashboard_is_asked_for_once_a_second_at_most() {
    let (engine, project) = (support::engine().await, new_project());
    insert_events(&engine.writer(), &project, this_minute() - 120, 1).await;
    // No refresh that nobody asked for, and no minute that turns: the dashboard's range moves with it.
    let settings = Settings::of(engine.reader()).with("QUERY_CACHE_WARM", "0");
    let service = Service::start_with(settings, &[&project]).await;
    service.pass(Duration::from_millis(60_000 - (tallyhouse_service::clock::now_ms() % 60_000) as u64));
    let ask = async || service.get(&project, "/v1/dashboards/realtime").await;
    let first = ask().await;
    assert_eq!((first.header("x-cache"), service.queries()), ("MISS", 1));
    let window = |name: &str| {
        let windows = first.body["data"].as_array().unwrap().iter();
        windows.clone().find(|window| window["time_range"] == name).unwrap_or_else(|| panic!("{first:?}")).clone()
    };
    for name in ["5min", "30min"] {
        let window = window(name);
        assert_eq!((&window["events"], &window["users"], &window["value"]), (&json!(3), &json!(3), &json!(30.0)));
        let view = &window["by_event_type"][0];
        assert_eq!((&view["event_type"], &view["events"], &view["value"]), (&json!("view"), &json!(2), &json!(20.0)));
    }
    eventually("it is answered from memory", async || {
        let before = service.queries();
        let again = ask().await;
        again.header("x-cache") == "HIT" && service.queries() == before
    })
    .await;
    service.pass(Duration::from_secs(1));
    let before = service.queries();
    let next = ask().await;
    assert!(["MISS", "COALESCED"].contains(&next.header("x-cache")), "none is older than a second: {next:?}");
    eventually("it is asked for once more", async || service.queries() > before).await;
    service.stop().await;
}
