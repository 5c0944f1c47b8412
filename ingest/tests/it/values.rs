//! Values over their whole range: whatever is sent together or apart, states merge, and every answer is a right number.

use serde_json::{Value, json};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::ingest_service::{Service as Ingest, count, everywhere, json};
use tallyhouse_testkit::query_service::Service as Query;
use tallyhouse_testkit::{self as support, Folder, engine_in, execute, new_project};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// Values of two requests; in each some that count and some that do not.
const SENT: [&[&str]; 2] = [
    &["1e30", "1e-30", "0.0", "1.7976931348623157e308", "\"-1000000000000000000000000000000.5e9\"", "1.0"],
    &[
        "-1e30",
        "1e30",
        "\"1000000000000000000000000000000\"",
        "-1e-30",
        "5e-324",
        "-0.0",
        "1e300",
        "-1.7976931348623157e308",
    ],
];

/// Their metrics. Ten are counted: -1e30, -1e-30, three times 0, 1e-30, 1, and three times 1e30.
const EXPECTED: [(&str, f64); 7] = [
    ("value_sum", 2e30),
    ("value_avg", 2e29),
    ("value_min", -1e30),
    ("value_max", 1e30),
    ("value_p50", 0.0),
    ("value_p95", 1e30),
    ("value_p99", 1e30),
];

/// Sends [`SENT`], all within one minute of yesterday, which is given back.
async fn send(ingest: &Ingest) -> i64 {
    let minute = now_ms() / DAY_MS * DAY_MS - 10 * 60 * MINUTE_MS;
    let mut warned = 0;
    for values in SENT {
        let event = |value| format!(r#"{{"eventType":"a","timestamp":{minute},"properties":{{"amount":{value}}}}}"#);
        let events: Vec<String> = values.iter().map(event).collect();
        let reply = ingest.endpoint().post_with("wait=stored", format!("[{}]", events.join(",")).into()).await.unwrap();
        let answer = json(&reply);
        assert_eq!((reply.status.as_u16(), answer["accepted"].as_u64()), (200, Some(values.len() as u64)), "{answer}");
        warned += answer["warnings"].as_array().unwrap().len();
    }
    assert_eq!(warned, 5, "one for each that is not counted as it is");
    minute
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// Asks every metric of value of every rollup, and the daily report.
async fn check(connection: Connection, project: &str, minute: i64) {
    let query = Query::start(connection, &[project], None).await;
    for (metric, expected) in EXPECTED {
        for (granularity, length) in [("minute", MINUTE_MS), ("hour", 60 * MINUTE_MS), ("day", DAY_MS)] {
            let start = minute.div_euclid(length) * length;
            let path =
                format!("/v1/metrics/{metric}?granularity={granularity}&startTime={start}&endTime={}", start + length);
            let reply = query.get(project, &path).await;
            assert_eq!(reply.status.as_u16(), 200, "{path}: {reply:?}");
            let [Some(found)] = reply.values().iter().map(Value::as_f64).collect::<Vec<_>>()[..] else {
                panic!("{path}: {reply:?}")
            };
            let part = if metric.contains("_p") { 0.01 } else { 1e-12 };
            assert!((found - expected).abs() <= part * expected.abs(), "{path}: {found}, not {expected}");
        }
    }
    let anomalies = format!("/v1/metrics/value_sum/anomalies?granularity=hour&startTime={}", minute - DAY_MS);
    let [start, end] = [minute - DAY_MS, minute + DAY_MS];
    let metrics: Vec<_> = EXPECTED.iter().map(|(metric, _)| *metric).collect();
    let question =
        json!({"metrics": metrics, "date_range": [rfc3339(start), rfc3339(end)], "dimensions": ["event_type"]});
    let structured = query.post(project, "/v1/query", question.to_string()).await;
    assert_eq!(structured.status.as_u16(), 200, "{structured:?}");
    assert!(!structured.body["results"].to_string().contains("null"), "{structured:?}");
    for path in [anomalies, format!("/v1/export?startTime={start}&endTime={end}&format=csv")] {
        let reply = query.get(project, &path).await;
        assert!(reply.status.as_u16() < 500, "{path}: {reply:?}");
    }
    let date = jiff::Timestamp::from_millisecond(minute).unwrap().strftime("%F").to_string();
    let report = query.get(project, &format!("/v1/reports/daily?date={date}")).await;
    let value = report.body["data"]["totals"]["value"].as_f64();
    assert_eq!((report.status.as_u16(), value), (200, Some(2e30)), "{report:?}");
    query.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_all_values_merge_and_every_answer_is_a_right_number() {
    let (clickhouse, data, project) = (Folder::create(), Folder::create(), new_project());
    let engine = engine_in(&clickhouse).await;
    let (writer, reader) = (engine.writer(), engine.reader());
    let ingest = Ingest::start(writer.clone(), &data, &project).await;
    let minute = send(&ingest).await;
    assert_eq!(everywhere(&writer, &project).await, [14; 4]);
    check(reader.clone(), &project, minute).await;
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
        execute(&writer, &format!("OPTIMIZE TABLE tallyhouse.{table} FINAL")).await.unwrap();
    }
    check(reader, &project, minute).await;
    let raw = "SELECT count() FROM events WHERE project_id = {project:String} \
        AND bitAnd(flags, 64) = if(value IS NULL OR num_props['amount'] = 5e-324, 64, 0) \
        AND (mapContains(num_props, 'amount') OR mapContains(props, 'amount')) AND abs(ifNull(value, 0)) <= 1e30";
    assert_eq!(count(&writer, &project, raw).await, 14, "what is not counted is flagged, and the property stays");
    assert_eq!(
        count(&writer, &project, "SELECT count(value) FROM events WHERE project_id = {project:String}").await,
        10
    );
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quantiles_are_within_a_hundredth_of_values_of_any_size() {
    let (engine, data, project) = (support::engine().await, Folder::create(), new_project());
    let ingest = Ingest::start(engine.writer(), &data, &project).await;
    // 61 sizes from 1e-27 to 1e27, both signs, each an event type by itself, and what lies around 1.
    let sizes = (-90..=90).step_by(3).map(|tenths| 10_f64.powf(f64::from(tenths) * 0.3));
    let near_one = [0.97, 0.981, 0.99, 1.01, 1.019, 1.03, 0.0];
    let values: Vec<f64> = sizes.flat_map(|size| [size, -size]).chain(near_one).collect();
    let events = values.iter().map(|value| json!({"eventType": value.to_string(), "value": value}));
    let reply = ingest.endpoint().post_with("wait=stored", Value::from_iter(events).to_string().into()).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.excerpt());
    let query = Query::start(engine.reader(), &[&project], None).await;
    let question = json!({"metrics": ["value_p50", "value_p99"], "date_range": "24h", "dimensions": ["event_type"],
        "pagination": {"limit": 1_000}});
    let reply = query.post(&project, "/v1/query", question.to_string()).await;
    let rows = reply.body["results"].as_array().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!(rows.len(), values.len(), "{reply:?}");
    for row in rows {
        let value: f64 = row["dimensions"][0].as_str().unwrap().parse().unwrap();
        let part = if (0.98..=1.0203).contains(&value.abs()) { 0.0203 } else { 0.010_001 };
        for found in row["metrics"].as_array().unwrap() {
            let found = found.as_f64().unwrap_or_else(|| panic!("{row}"));
            assert!((found - value).abs() <= part * value.abs(), "quantile of {value}: {found}");
        }
    }
    query.stop().await;
    ingest.stop().await;
}
