//! Anomalies of real rollups: injected anomalies are found, buckets that are not over are not judged, and a series that is too short is refused.

use serde_json::{Value, json};
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{self as support, new_project};

/// The start of the running hour, in seconds.
fn this_hour() -> i64 {
    tallyhouse_service::clock::now_ms() / 3_600_000 * 3_600
}

/// Hours of 40 to 63 events with a day's shape, from `from` on; those in `odd` have another number.
async fn insert_hours(writer: &Connection, project: &str, from: i64, hours: u64, odd: &[(u64, u64)]) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, concat(toString(hour), '-', toString(event)), 'view',
            toDateTime64({from:Int64} + hour * 3600, 3, 'UTC') + INTERVAL event SECOND, 5 + event % 3, event, 'DE', 'web',
            [('country', 'DE'), ('device', 'web')], now64(3), 730
        FROM (SELECT number AS hour,
                transform(number, {odd:Array(UInt64)}, {counts:Array(UInt64)}, 40 + (hour + 7) % 24) AS count
              FROM numbers({hours:UInt64}))
        ARRAY JOIN range(count) AS event";
    let (odd, counts): (Vec<u64>, Vec<u64>) = odd.iter().copied().unzip();
    let insert = writer.client().query(INSERT).param("project", project).param("from", from);
    insert.param("hours", hours).param("odd", odd).param("counts", counts).execute().await.unwrap();
}

/// The places of the buckets that are flagged.
fn flagged(reply: &Reply) -> Vec<usize> {
    let buckets = reply.body["data"].as_array().unwrap_or_else(|| panic!("{reply:?}")).iter().enumerate();
    buckets.filter(|(_, bucket)| bucket["is_anomaly"] == json!(true)).map(|(place, _)| place).collect()
}

#[tokio::test]
async fn a_spike_and_an_outage_are_found_and_the_running_hour_is_not_judged() {
    let (engine, project) = (support::engine().await, new_project());
    let from = this_hour() - 28 * 86_400;
    // Of 28 days the last two: a spike at their 10th hour, an outage of two hours from their 30th on, and now hardly anything.
    let shown = 26 * 24;
    let odd = [(shown + 10, 200), (shown + 30, 0), (shown + 31, 0), (28 * 24, 1)];
    insert_hours(&engine.writer(), &project, from, 28 * 24 + 1, &odd).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let start = (from + 26 * 86_400) * 1_000;
    let path = format!("/v1/metrics/events/anomalies?startTime={start}");
    let reply = service.get(&project, &path).await;
    assert_eq!((reply.status.as_u16(), flagged(&reply)), (200, vec![10, 30, 31]), "{reply:?}");
    let buckets = reply.body["data"].as_array().unwrap();
    let (spike, outage, last) = (&buckets[10], &buckets[30], buckets.last().unwrap());
    assert_eq!((&spike["value"], &outage["value"]), (&json!(200), &json!(0)));
    // 48 hours, the running one, and perhaps one that has begun meanwhile.
    assert!((49..=50).contains(&buckets.len()), "{reply:?}");
    let number = |bucket: &Value, field: &str| bucket[field].as_f64().unwrap();
    let usual = 40.0 + ((shown + 10 + 7) % 24) as f64;
    assert!((number(spike, "expected") - usual).abs() < 2.0, "{spike}");
    assert!(number(spike, "upper") < 200.0 && number(spike, "score") > 4.5, "{spike}");
    assert!(number(outage, "lower") > 0.0 && number(outage, "score") < -4.5, "{outage}");
    assert_eq!((&last["partial"], &last["is_anomaly"], &last["score"]), (&json!(true), &json!(false), &Value::Null));
    assert_eq!((&spike["kind"], &outage["kind"], &last["kind"]), (&json!("spike"), &json!("outage"), &Value::Null));
    let episodes = reply.body["anomalies"].as_array().unwrap();
    assert_eq!((episodes.len(), &episodes[1]["start"]), (2, &outage["timestamp"]), "{episodes:?}");
    assert_eq!((&episodes[1]["buckets"], &episodes[1]["end"]), (&json!(2), &buckets[32]["timestamp"]), "{episodes:?}");
    assert_eq!((&episodes[1]["kind"], &episodes[1]["ongoing"]), (&json!("outage"), &json!(false)), "{episodes:?}");
    let meta = &reply.body["meta"];
    assert_eq!((&meta["anomalies"], &meta["model"]["scale"]), (&json!(3), &json!("sqrt")), "{meta}");
    assert_eq!(meta["model"]["learned_points"], 28 * 24, "{meta}");

    let queries = service.queries();
    assert_eq!(service.get(&project, &path).await.header("x-cache"), "HIT");
    assert_eq!(service.queries(), queries);
    for (parameter, expected) in [("direction=up", vec![10]), ("direction=down", vec![30, 31])] {
        let reply = service.get(&project, &format!("{path}&{parameter}")).await;
        assert_eq!((flagged(&reply), reply.header("x-cache")), (expected, "MISS"), "{parameter}");
    }
    // An average of nothing is not an outage: there is nothing to judge.
    let reply = service.get(&project, &path.replace("/events/", "/value_avg/")).await;
    assert_eq!((flagged(&reply), &reply.body["data"][30]["value"]), (vec![], &Value::Null), "{reply:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_registered_metric_is_judged_like_a_built_in_one() {
    let (engine, project) = (support::engine().await, new_project());
    let from = this_hour() - 28 * 86_400;
    let shown = 26 * 24;
    insert_hours(&engine.writer(), &project, from, 28 * 24, &[(shown + 10, 200), (shown + 30, 0)]).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    for document in [
        json!({"name": "doubled", "formula": {"op": "add", "left": {"measure": "count"}, "right": {"measure": "count", "event_type": "view"}}}),
        json!({"name": "views_share", "ratio": [{"measure": "count", "event_type": "view"}, "events"]}),
    ] {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", document.to_string()).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }
    let asked = async |metric: &str| {
        let path = format!("/v1/metrics/{metric}/anomalies?startTime={}", (from + 26 * 86_400) * 1_000);
        let reply = service.get(&project, &path).await;
        assert_eq!((reply.status.as_u16(), &reply.body["metric"]), (200, &json!(metric)), "{reply:?}");
        reply
    };
    let (built_in, doubled) = (asked("events").await, asked("doubled").await);
    assert_eq!((flagged(&built_in), flagged(&doubled)), (vec![10, 30], vec![10, 30]), "{doubled:?}");
    let of = |reply: &Reply, field: &str| reply.body["data"][10][field].as_f64().unwrap();
    assert_eq!(of(&doubled, "value"), 2.0 * of(&built_in, "value"));
    assert!((of(&doubled, "expected") - 2.0 * of(&built_in, "expected")).abs() < 0.1, "{doubled:?}");
    assert_eq!(doubled.body["meta"]["model"]["learned_points"], built_in.body["meta"]["model"]["learned_points"]);
    assert_eq!(doubled.body["meta"]["newest_event"], built_in.body["meta"]["newest_event"]);
    // A share of nothing is not an outage, and one that never changes is nothing to look at.
    let share = asked("views_share").await;
    assert_eq!((flagged(&share), &share.body["data"][30]["value"]), (vec![], &Value::Null), "{share:?}");
    assert_eq!(share.body["data"][10]["value"], json!(1.0));
    let unknown = service.get(&project, "/v1/metrics/view_share/anomalies").await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.body["did_you_mean"][0]),
        (404, &json!("views_share")),
        "{unknown:?}"
    );
    service.stop().await;
}

#[tokio::test]
async fn too_little_and_nonsense_are_refused_with_what_would_do() {
    let (engine, project, empty) = (support::engine().await, new_project(), new_project());
    insert_hours(&engine.writer(), &project, this_hour() - 5 * 3_600, 5, &[]).await;
    let service = Service::start(engine.reader(), &[&project, &empty], None).await;
    for (project, given) in [(&project, 4..=5), (&empty, 0..=0)] {
        let reply = service.get(project, "/v1/metrics/events/anomalies").await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (422, &json!("too_few_points")), "{reply:?}");
        assert_eq!(reply.body["needed"], 14);
        // The last hour counts from a minute after its end on.
        assert!(given.contains(&reply.body["given"].as_u64().unwrap()), "{reply:?}");
    }
    for (query, status, code) in [
        ("events/anomalies?sensitivity=extreme", 400, "bad_parameter"),
        ("events/anomalies?direction=sideways", 400, "bad_parameter"),
        ("events/anomalies?groupBy=country", 400, "bad_parameter"),
        ("events/anomalies?granularity=minute&startTime=2026-10-01&endTime=2026-10-30", 422, "too_many_points"),
        ("revenu/anomalies", 404, "unknown_metric"),
    ] {
        let reply = service.get(&project, &format!("/v1/metrics/{query}")).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{query}: {reply:?}");
    }
    for parameter in ["startTime", "granularity", "timezone", "sensitivity", "direction"] {
        for hostile in ["%27", "1%27%20OR%201%3D1--", "%7Bproject%3AString%7D", "%5C", "%00", "%ff"] {
            let path = format!("/v1/metrics/events/anomalies?{parameter}={hostile}");
            assert_eq!(service.get(&project, &path).await.status, 400, "{path}");
        }
    }
    assert_eq!(service.get("nobody", "/v1/metrics/events/anomalies").await.status, 401);
    service.stop().await;
}
