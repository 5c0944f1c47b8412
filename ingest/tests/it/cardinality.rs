//! The bound on distinct values: exact totals, `__other__` in every rollup, and no second bound after a start.

use serde_json::{Value, json};
use tallyhouse_service::clock::now_ms;

use tallyhouse_testkit::ingest_service::{Service, count, everywhere};
use tallyhouse_testkit::query_service::Service as Queries;
use tallyhouse_testkit::{self as support, Folder, new_project};

/// Flights at one time, so that a test is within one hour whenever it runs.
fn flights(origins: std::ops::Range<u32>, at: i64) -> String {
    let event = |n: u32| json!({"eventId": format!("e{n}"), "eventType": "flight_departed", "timestamp": at, "properties": {"origin": format!("A{n}"), "carrier": "X"}});
    json!(origins.map(event).collect::<Vec<_>>()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_beyond_the_bound_are_other_in_every_rollup_and_after_a_start() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let now = now_ms();
    let env = [("DIMENSION_VALUES", "3")];
    let service = Service::start_with(writer.clone(), &data, &project, &env).await;
    assert_eq!(service.send(flights(0..5, now)).await.status.as_u16(), 202);
    service.stop().await;
    // What was known before is known again: the value of the first start keeps its place, a new one gets none.
    let service = Service::start_with(writer.clone(), &data, &project, &env).await;
    assert_eq!(service.send(flights(5..8, now)).await.status.as_u16(), 202);
    assert!(service.metric("tallyhouse_ingest_dimension_overflow_total") > 0);
    service.stop().await;

    let queries = Queries::start(support::engine().await.reader(), &[&project], None).await;
    for (query, overflowed) in [
        ("groupBy=origin", json!(["origin"])),
        // The value asked for is gone: that is what the caller must be told.
        ("filter=origin:A7", json!(["origin"])),
        ("groupBy=carrier&filter=origin:A1", json!(["origin"])),
        ("groupBy=carrier", json!([])),
        ("", json!([])),
    ] {
        let url = format!("/v1/metrics/events?eventType=flight_departed&{query}");
        let reply = queries.get(&project, &url).await;
        assert_eq!(reply.body["meta"]["overflowed"], overflowed, "{query}: {reply:?}");
    }
    queries.stop().await;

    assert_eq!(everywhere(&writer, &project).await, [8; 4]);
    for table in ["rollup_1m", "rollup_1h", "rollup_1d"] {
        let rows = |set: &str, value: &str| {
            format!(
                "SELECT sum(events) FROM {table} WHERE project_id = {{project:String}} AND dim_set = '{set}' \
                 AND dim_value = '{value}'"
            )
        };
        assert_eq!(count(&writer, &project, &rows("origin", "__other__")).await, 5, "{table}");
        assert_eq!(count(&writer, &project, &rows("origin", "A2")).await, 1, "{table}");
        assert_eq!(count(&writer, &project, &rows("carrier,origin", "X\\x1f__other__")).await, 5, "{table}");
        let all =
            format!("SELECT sum(events) FROM {table} WHERE project_id = {{project:String}} AND dim_set = 'origin'");
        assert_eq!(count(&writer, &project, &all).await, 8, "{table}");
    }
    let raw = "SELECT uniqExact(props['origin']) FROM events WHERE project_id = {project:String}";
    assert_eq!(count(&writer, &project, raw).await, 8, "the raw columns keep what was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn types_beyond_the_bound_are_other_in_raw_and_rollups_and_after_a_start() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let now = now_ms();
    let event = |n: u32, kind: &str| json!({"eventId": format!("t{n}"), "eventType": kind, "timestamp": now});
    let env = [("DIMENSION_VALUES", "3")];
    let service = Service::start_with(writer.clone(), &data, &project, &env).await;
    let kinds = ["a", "b", "c", "d", "a", "e", "purchase"];
    let sent: Vec<_> = (0..).zip(kinds).map(|(n, kind)| event(n, kind)).collect();
    let send = async |service: &Service, events: &Value| -> Value {
        let reply = service.send(events.to_string()).await;
        serde_json::from_slice(&reply.body).unwrap()
    };
    let reply = send(&service, &json!(sent)).await;
    assert_eq!(reply["accepted"], 7, "{reply}");
    let warned: Vec<_> = reply["warnings"].as_array().unwrap().iter().collect();
    assert_eq!(warned.iter().map(|warning| &warning["index"]).collect::<Vec<_>>(), [3, 5]);
    assert!(warned.iter().all(|warning| warning["code"] == "too_many_event_types" && warning["field"] == "eventType"));
    assert_eq!(service.metric("tallyhouse_ingest_event_type_overflow_total"), 2);
    assert_eq!(send(&service, &json!(sent)).await["duplicates"], 7);
    service.stop().await;
    let service = Service::start_with(writer.clone(), &data, &project, &env).await;
    let again = send(&service, &json!([event(7, "b"), event(8, "f"), event(9, "flight_departed")])).await;
    assert_eq!(again["warnings"].as_array().map(Vec::len), Some(1), "what was known is known again: {again}");
    service.stop().await;

    assert_eq!(everywhere(&writer, &project).await, [10; 4]);
    for table in ["rollup_1m", "rollup_1h", "rollup_1d"] {
        let of = |kind: &str| {
            format!(
                "SELECT sum(events) FROM {table} WHERE project_id = {{project:String}} AND dim_set = '' AND event_type = '{kind}'"
            )
        };
        for (kind, events) in [("__other__", 3), ("a", 2), ("b", 2), ("purchase", 1), ("flight_departed", 1), ("f", 0)]
        {
            assert_eq!(count(&writer, &project, &of(kind)).await, events, "{kind} in {table}");
        }
    }
    let raw = "SELECT count() FROM events WHERE project_id = {project:String} AND event_type = '__other__' \
               AND props['__event_type__'] IN ('d', 'e', 'f') AND bitTest(flags, 12)";
    assert_eq!(count(&writer, &project, raw).await, 3, "what was sent is kept beside it");
}
