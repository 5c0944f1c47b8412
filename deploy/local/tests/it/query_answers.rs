//! What an answer says beside its numbers: warnings, what was left out, what was compared.

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_sql::Connection;

use crate::query::{insert_events, ten_days_ago};
use crate::query_service::{Service, Settings, eventually, new_project};
use crate::support;

async fn insert_one(writer: &Connection, project: &str, event_type: &str, ts_ms: i64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, {id:String}, {type:String}, fromUnixTimestamp64Milli({ts:Int64}, 'UTC'), 7, 'DE', 'web',
            [('country', 'DE'), ('device', 'web'), ('country,device', concat('DE', char(31), 'web'))], now64(3), 730";
    let insert = writer.client().query(INSERT).param("project", project).param("type", event_type);
    insert.param("ts", ts_ms).param("id", ulid::Ulid::generate().to_string()).execute().await.unwrap();
}

#[tokio::test]
async fn a_misspelt_event_type_is_warned_of_with_the_nearest_wherever_it_stands() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 2).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let warned = |body: &Value| -> Vec<(String, Value)> {
        let warnings = body["meta"]["warnings"].as_array().cloned().unwrap_or_default();
        let one = |warning: Value| {
            assert_eq!(warning["code"], "unknown_event_type", "{warning}");
            (warning["event_type"].as_str().unwrap().to_owned(), warning["nearest"].clone())
        };
        warnings.into_iter().map(one).collect()
    };
    let purchase = |name: &str| vec![(name.to_owned(), json!(["purchase"]))];
    let reply = service.get(&project, "/v1/metrics/events?eventType=purchse").await;
    assert_eq!((reply.status, warned(&reply.body)), (StatusCode::OK, purchase("purchse")), "{reply:?}");
    // Known, and nothing of it in the range.
    for path in ["/v1/metrics/events?eventType=purchase", "/v1/metrics/revenue", "/v1/metrics/events?eventType=view"] {
        let reply = service.get(&project, path).await;
        assert_eq!((reply.status, warned(&reply.body)), (StatusCode::OK, vec![]), "{path}");
    }
    let metric = r#"{"name":"misspelt","measure":"count","event_type":"purchas"}"#;
    let registered = service.post(&format!("admin-{project}"), "/v1/metrics", metric.to_owned()).await;
    assert_eq!(registered.status, StatusCode::CREATED, "{registered:?}");
    for (document, expected) in [
        (
            json!({"metrics": ["events"], "date_range": "30d", "filters": [["is", "event_type", ["purchse", "view"]]]}),
            "purchse",
        ),
        (
            json!({"metrics": ["events"], "date_range": "30d", "filters": [["not", ["is", "event_type", ["purchse"]]]]}),
            "purchse",
        ),
        (json!({"metrics": ["misspelt"], "date_range": "30d"}), "purchas"),
        (
            json!({"kind": "funnel", "date_range": "30d", "window": "1d",
                "steps": [{"event_type": "view"}, {"event_type": "purchasee"}]}),
            "purchasee",
        ),
        (
            json!({"kind": "retention", "date_range": "30d", "unit": "day", "periods": 2,
                "cohort": {"event_type": "purcase"}, "return": {}}),
            "purcase",
        ),
    ] {
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!((reply.status, warned(&reply.body)), (StatusCode::OK, purchase(expected)), "{document}: {reply:?}");
    }
    let export = service.get(&project, "/v1/export?eventType=purchse&format=csv").await;
    let told: Value = serde_json::from_str(export.header("x-warnings")).unwrap();
    assert_eq!((&told[0]["code"], &told[0]["nearest"]), (&json!("unknown_event_type"), &json!(["purchase"])));
    // A tag is of the warnings too, and the first event of a type ends them although the answer is remembered.
    let path = "/v1/metrics/events?eventType=brand-new&startTime=2026-01-01&endTime=2026-02-01";
    let before = service.get(&project, path).await;
    assert_eq!(warned(&before.body).len(), 1, "{before:?}");
    insert_one(&engine.writer(), &project, "brand-new", tallyhouse_service::clock::now_ms()).await;
    let mut reply = service.get(&project, path).await;
    eventually("the type is known", async || {
        reply = service.get(&project, path).await;
        warned(&reply.body).is_empty()
    })
    .await;
    assert_eq!(reply.header("x-cache"), "HIT", "{reply:?}");
    assert_ne!(reply.header("etag"), before.header("etag"));
    service.stop().await;
}
