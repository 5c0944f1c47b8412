//! What an answer holds besides its numbers: warnings, what was left out, what was compared.

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_query_api::time::Zone;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

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
    // A refusal that it explains tells it too.
    let refused = service.get(&project, "/v1/metrics/events/anomalies?eventType=purchse").await;
    assert_eq!((refused.status, &refused.body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_few_points")));
    assert_eq!(refused.body["warnings"][0]["nearest"], json!(["purchase"]), "{refused:?}");
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

/// An event on each whole hour, so many back from an instant.
async fn insert_hourly(writer: &Connection, project: &str, newest: i64, hours: u64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, toString(number), 'tick',
            fromUnixTimestamp64Milli(({newest:Int64} - toInt64(number) * 3600) * 1000, 'UTC') AS t, 2, number + 1, 'DE', 'web',
            [('country', 'DE'), ('device', 'web'), ('country,device', concat('DE', char(31), 'web'))], now64(3), 730
        FROM numbers({rows:UInt64})";
    let insert = writer.client().query(INSERT).param("project", project).param("newest", newest).param("rows", hours);
    insert.execute().await.unwrap();
}

#[tokio::test]
async fn one_event_an_hour_shows_no_change_in_whatever_is_asked() {
    let (engine, project) = (support::engine().await, new_project());
    // Yesterday at 15:20: the day has whole hours before that in every zone below.
    let now_ms = (tallyhouse_service::clock::now_ms() / 86_400_000 - 1) * 86_400_000 + 55_200_000;
    insert_hourly(&engine.writer(), &project, now_ms / 3_600_000 * 3_600, 24 * 70).await;
    let settings = Settings { now_ms: Some(now_ms), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    for range in ["day", "week", "month", "24h", "7d", "30d"] {
        for zone in ["UTC", "America/New_York", "Asia/Kolkata"] {
            for dimensions in [json!([]), json!(["time:day"]), json!(["country"]), json!(["time:day", "event_type"])] {
                let query = json!({"metrics": ["events", "value_sum"], "date_range": range, "timezone": zone, "dimensions": dimensions,
                    "include": {"totals": true, "comparisons": "previous_period"}});
                let reply = service.post(&project, "/v1/query", query.to_string()).await;
                assert_eq!(reply.status, StatusCode::OK, "{query}: {reply:?}");
                let is_even = |comparison: &Value| {
                    let changes = comparison["change_percent"].as_array().unwrap();
                    changes.iter().all(|change| change == 0.0)
                };
                assert!(is_even(&reply.body["totals"]["comparison"]), "{query}: {reply:?}");
                let rows = reply.body["results"].as_array().unwrap();
                assert!(!rows.is_empty(), "{query}");
                let last = rows.last().unwrap();
                assert!(is_even(&last["comparison"]), "{query}: {last}");
                assert!(dimensions != json!([]) || last["comparison"]["metrics"][0].as_u64() > Some(0), "{last}");
                let meta = &reply.body["meta"];
                assert_eq!(meta["comparison_span"], "equal", "{meta}");
                assert!(
                    meta["compared_range"]["to"].is_string() && meta["comparison_range"]["to"].is_string(),
                    "{meta}"
                );
                if dimensions == json!(["time:day"]) {
                    assert_eq!(
                        meta["partial_buckets"].as_array().unwrap().last(),
                        Some(&meta["partial_bucket"]),
                        "{meta}"
                    );
                    assert_eq!(meta["comparison_partial_buckets"].as_array().map(Vec::len), Some(1), "{meta}");
                }
                // What is echoed asks the same.
                let again = service.post(&project, "/v1/query", reply.body["query"].to_string()).await;
                assert_eq!(again.body["results"], reply.body["results"], "{query}");
                assert_eq!(again.body["totals"], reply.body["totals"], "{query}");
            }
        }
    }
    let whole = json!({"metrics": ["events"], "date_range": "day",
        "include": {"comparisons": {"period": "previous_period", "span": "whole"}}});
    let reply = service.post(&project, "/v1/query", whole.to_string()).await;
    assert_eq!(reply.body["results"][0]["comparison"]["metrics"], json!([24]), "{reply:?}");
    assert_eq!(
        (&reply.body["meta"]["comparison_span"], &reply.body["query"]["include"]["comparisons"]["span"]),
        (&json!("whole"), &json!("whole"))
    );
    // A report of the running day too, by minutes.
    let today = Zone::utc().date(now_ms / 1_000);
    let report = service.get(&project, &format!("/v1/reports/daily?date={today}")).await;
    let data = &report.body["data"];
    assert_eq!(data["totals"]["events"], data["previous_day"]["events"], "{report:?}");
    assert!(report.body["meta"]["comparison_range"]["to"].is_string(), "{report:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_time_series_is_whole_and_what_is_cut_is_said() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 48).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let ask = async |query: Value| {
        let reply = service.post(&project, "/v1/query", query.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {reply:?}");
        reply.body
    };
    let day = ask(json!({"metrics": ["events"], "date_range": "24h", "dimensions": ["time"]})).await;
    assert_eq!((day["results"].as_array().unwrap().len(), &day["meta"]["cut"]), (1_440, &Value::Null));
    let range = json!([Zone::utc().rfc3339(from), Zone::utc().rfc3339(from + 48 * 3_600)]);
    for limit in [1, 5] {
        let alone = ask(json!({"metrics": ["events"], "date_range": range, "dimensions": ["time:hour"], "pagination": {"limit": limit}})).await;
        assert_eq!((alone["results"].as_array().unwrap().len(), &alone["meta"]["cut"]), (48, &Value::Null));
    }
    // Of groups the greatest over the whole range, each with all of its buckets.
    let paged = json!({"metrics": ["events"], "date_range": range, "dimensions": ["time:hour", "event_type"], "pagination": {"limit": 1}});
    let first = ask(paged.clone()).await;
    let groups = |body: &Value| -> Vec<Value> {
        body["results"].as_array().unwrap().iter().map(|row| row["dimensions"][1].clone()).collect()
    };
    assert_eq!(groups(&first), vec![json!("view"); 48]);
    assert_eq!(first["meta"]["cut"], json!({"what": "groups", "shown": 1, "of": 2, "next_offset": 1}));
    let mut next = paged;
    next["pagination"]["offset"] = first["meta"]["cut"]["next_offset"].clone();
    let second = ask(next).await;
    assert_eq!((groups(&second), &second["meta"]["cut"]), (vec![json!("purchase"); 48], &Value::Null));
    // Rows without time are pages of rows.
    let rows = ask(
        json!({"metrics": ["events"], "date_range": range, "dimensions": ["event_type"], "pagination": {"limit": 1}}),
    )
    .await;
    assert_eq!(rows["meta"]["cut"], json!({"what": "rows", "shown": 1, "of": 2, "next_offset": 1}));
    let url = format!(
        "/v1/metrics/events?granularity=day&groupBy=country&limit=1&startTime={}&endTime={}",
        from * 1_000,
        (from + 86_400) * 1_000
    );
    let series = service.get(&project, &url).await;
    assert_eq!(series.body["meta"]["cut"], json!({"what": "groups", "shown": 1, "at_least": 2}), "{series:?}");
    service.stop().await;
}

#[tokio::test]
async fn empty_parameters_and_fields_are_refused_by_name() {
    let project = new_project();
    let service = Service::start(support::engine().await.reader(), &[&project], None).await;
    for (path, names) in [
        (
            "/v1/metrics/events",
            ["startTime", "endTime", "timezone", "granularity", "groupBy", "filter", "eventType", "limit", "fresh"]
                .as_slice(),
        ),
        ("/v1/metrics/events/anomalies", &["startTime", "sensitivity", "direction", "eventType"]),
        ("/v1/metrics/events/stream", &["window", "interval", "limit", "filter"]),
        ("/v1/reports/daily", &["date", "timezone", "fresh"]),
        ("/v1/export", &["startTime", "endTime", "eventType", "format", "timezone"]),
    ] {
        for name in names {
            for value in ["=", "", "=%20", "=+%09"] {
                let reply = service.get(&project, &format!("{path}?{name}{value}")).await;
                assert_eq!(
                    (reply.status, &reply.body["code"], reply.body["parameter"].as_str()),
                    (StatusCode::BAD_REQUEST, &json!("bad_parameter"), Some(*name)),
                    "{path}?{name}{value}: {reply:?}"
                );
            }
            let twice = service.get(&project, &format!("{path}?{name}=UTC&{name}=")).await;
            assert_eq!(twice.status, StatusCode::BAD_REQUEST, "{path} {name}: {twice:?}");
        }
    }
    // This one has a meaning: events without the dimension.
    assert_eq!(service.get(&project, "/v1/metrics/events?filter=country:").await.status, StatusCode::OK);
    let cleared = service.delete_as_operator("/v1/cache?project=").await;
    assert_eq!(cleared.status, StatusCode::BAD_REQUEST, "an empty project is not every project: {cleared:?}");
    for (field, value, named) in [
        ("timezone", json!(""), "timezone"),
        ("date_range", json!(""), "date_range"),
        ("date_range", json!([]), "date_range"),
        ("date_range", Value::Null, "date_range"),
        ("metrics", json!([]), "metrics"),
        ("metrics", json!([""]), "metrics[0]"),
        ("dimensions", json!([""]), "dimensions[0]"),
        ("dimensions", json!([null]), "dimensions[0]"),
        ("filters", json!(""), "filters"),
        ("filters", json!([[]]), "filters[0]"),
        ("filters", json!([["is", "country", []]]), "filters[0][2]"),
        ("filters", json!([["is", "event_type", [""]]]), "filters[0][2][0]"),
        ("filters", json!([["contains", "country", [""]]]), "filters[0][2][0]"),
        ("order_by", json!([[]]), "order_by[0]"),
        ("pagination", json!({"limit": ""}), "pagination.limit"),
        ("include", json!({"comparisons": ""}), "include.comparisons"),
    ] {
        let mut document = json!({"metrics": ["events"], "date_range": "7d", "raw": true});
        document[field] = value;
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!(
            (reply.status, reply.body["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some(named)),
            "{document}: {reply:?}"
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn a_question_that_is_too_much_is_refused_from_memory_for_some_seconds() {
    let (engine, project) = (support::engine().await, new_project());
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, toString(number), 'x',
            fromUnixTimestamp64Milli(({from:Int64} + intDiv(number, 25) * 3600) * 1000, 'UTC'), 1,
            toString(number % 25) AS c, 'web',
            [('country', c), ('device', 'web'), ('country,device', concat(c, char(31), 'web'))], now64(3), 730
        FROM numbers(102000)";
    let from = ten_days_ago() - 200 * 86_400;
    let insert = engine.writer().client().query(INSERT).param("project", &project).param("from", from);
    insert.execute().await.unwrap();
    let service = Service::start(engine.reader(), &[&project], None).await;
    let utc = Zone::utc();
    let query = json!({"metrics": ["events"], "dimensions": ["time:hour", "country"],
        "date_range": [utc.rfc3339(from), utc.rfc3339(from + 4_080 * 3_600)]});
    let ask = async |query: &Value, path: &str| service.post(&project, path, query.to_string()).await;
    let refused = |reply: &tallyhouse_testkit::query_service::Reply| {
        assert_eq!(
            (reply.status, &reply.body["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_expensive")),
            "{reply:?}"
        );
    };
    refused(&ask(&query, "/v1/query").await);
    let asked = service.queries();
    assert!(asked > 0);
    for _ in 0..5 {
        refused(&ask(&query, "/v1/query").await);
    }
    assert_eq!(service.queries(), asked, "it was asked again");
    refused(&ask(&query, "/v1/query?fresh=true").await);
    let afresh = service.queries();
    assert!(afresh > asked, "fresh goes past what is remembered");
    // Another question is another.
    let mut shorter = query.clone();
    shorter["date_range"] = json!([utc.rfc3339(from), utc.rfc3339(from + 3_600)]);
    assert_eq!(ask(&shorter, "/v1/query").await.status, StatusCode::OK);
    let before = service.queries();
    service.pass(std::time::Duration::from_secs(6));
    refused(&ask(&query, "/v1/query").await);
    assert!(service.queries() > before, "it is tried again");
    service.stop().await;
}
