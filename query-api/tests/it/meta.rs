//! The `meta` of an answer is the same for every kind of question.

use serde_json::{Value, json};

use tallyhouse_testkit::query_service::{Reply, Service};
use tallyhouse_testkit::{self as support, insert_events, new_project, ten_days_ago};

type IsRight = fn(&Value) -> bool;

/// What is in every `meta`, and of which kind.
const CORE: [(&str, IsRight); 11] = [
    ("source", Value::is_string),
    ("range", |range| range["from"].is_string() && range["to"].is_string()),
    ("newest_event", Value::is_string),
    ("approx", Value::is_boolean),
    ("errors", Value::is_object),
    ("overflowed", Value::is_array),
    ("generated_at", Value::is_string),
    ("rows_read", Value::is_u64),
    ("bytes_read", Value::is_u64),
    ("elapsed_ms", Value::is_f64),
    ("cache", |cache| cache["status"].is_string() && cache["age_s"].is_u64() && cache["ttl_s"].is_u64()),
];

/// Ten days of events, and two just now, whose country was one too many.
async fn insert(project: &str, from: i64) {
    let writer = support::engine().await.writer();
    insert_events(&writer, project, from, 240).await;
    let recent = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, country, dims, user_hash, received_at, \
         retention_days) SELECT '{project}', concat('r', toString(number)), 'view', now64(3), \
         '__other__', [('country', '__other__')], 1, now64(3), 730 FROM numbers(2)"
    );
    support::execute(&writer, &recent).await.unwrap();
}

#[tokio::test]
async fn every_answer_says_the_same_of_itself() {
    let (project, from) = (new_project(), ten_days_ago());
    insert(&project, from).await;
    let service = Service::start(support::engine().await.reader(), &[&project], None).await;
    let today = tallyhouse_query_api::time::Zone::utc().rfc3339(from + 10 * 86_400);
    let day = today.split('T').next().unwrap();
    let funnel = json!({"kind": "funnel", "date_range": "30d", "window": "1d",
        "steps": [{"event_type": "view"}, {"event_type": "purchase"}]});
    let retention = json!({"kind": "retention", "date_range": "30d", "unit": "day", "periods": 1,
        "cohort": {"event_type": "view"}, "return": {}});
    let query = json!({"metrics": ["users", "events"], "date_range": "30d", "dimensions": ["country"]});
    let ask = async |path: &str, document: &Value| -> Reply {
        match document {
            Value::Null => service.get(&project, path).await,
            document => service.post(&project, path, document.to_string()).await,
        }
    };
    let daily = format!("/v1/reports/daily?date={day}");
    for (path, document, source, estimated, overflowed) in [
        ("/v1/metrics/users?groupBy=country", Value::Null, "rollup_1m", json!(["users"]), json!(["country"])),
        ("/v1/metrics/events", Value::Null, "rollup_1m", json!([]), json!([])),
        ("/v1/query", query, "rollup_1d", json!(["users"]), json!(["country"])),
        ("/v1/dashboards/realtime", Value::Null, "rollup_1m", json!(["users"]), json!([])),
        (&daily, Value::Null, "rollup_1h,rollup_1m", json!(["users"]), json!(["country"])),
        (
            "/v1/metrics/users/anomalies?filter=country:DE",
            Value::Null,
            "rollup_1h",
            json!(["users"]),
            json!(["country"]),
        ),
        ("/v1/query", funnel, "events", json!([]), json!([])),
        ("/v1/query", retention, "events", json!([]), json!([])),
    ] {
        // Computed, then remembered.
        for _ in 0..2 {
            let reply = ask(path, &document).await;
            let meta = &reply.body["meta"];
            for (name, is_right) in CORE {
                assert!(is_right(&meta[name]), "{path} {document}: {name} in {meta}");
            }
            let told: Vec<&String> = meta["errors"].as_object().unwrap().keys().collect();
            // A report until the end of a quarter of an hour needs no minutes.
            let until = meta["compared_range"]["to"].as_str().unwrap_or_default();
            let needs_minutes = [":00:00Z", ":15:00Z", ":30:00Z", ":45:00Z"].iter().all(|end| !until.ends_with(end));
            let source = if needs_minutes { source } else { source.trim_end_matches(",rollup_1m") };
            assert_eq!((&meta["source"], json!(told)), (&json!(source), estimated.clone()), "{path}: {meta}");
            assert_eq!(meta["approx"], json!(!told.is_empty()), "{path}: {meta}");
            assert_eq!(
                (&meta["overflowed"], &meta["cache"]["status"]),
                (&overflowed, &json!(reply.header("x-cache"))),
                "{path}: {meta}"
            );
            assert!(meta["rows_read"].as_u64() > Some(0), "{path}: {meta}");
        }
    }
    service.stop().await;
}
