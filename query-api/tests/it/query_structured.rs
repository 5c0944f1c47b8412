//! `POST /v1/query` against real rollups, and rollups against raw events for random questions.

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_query_api::time::Zone;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, insert_events, new_project, ten_days_ago};

fn rfc3339(at: i64) -> String {
    Zone::utc().rfc3339(at)
}

#[tokio::test]
async fn metrics_dimensions_filters_order_and_pages() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 48).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let ask = async |mut query: Value| {
        if query.get("date_range").is_none() {
            query["date_range"] = json!([rfc3339(from), rfc3339(from + 48 * 3_600)]);
        }
        let reply = service.post(&project, "/v1/query", query.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {reply:?}");
        reply.body
    };
    for (query, source, expected) in [
        (
            json!({"metrics": ["events", "users", "revenue", "value_avg"]}),
            "rollup_1d",
            json!([{"dimensions": [], "metrics": [144, 3, 480.0, 15.0]}]),
        ),
        (
            json!({"metrics": ["events"], "dimensions": ["time:day", "country"]}),
            "rollup_1d",
            json!([{"dimensions": [rfc3339(from), "DE"], "metrics": [48]}, {"dimensions": [rfc3339(from), ""], "metrics": [24]},
                {"dimensions": [rfc3339(from + 86_400), "DE"], "metrics": [48]}, {"dimensions": [rfc3339(from + 86_400), ""], "metrics": [24]}]),
        ),
        (
            json!({"metrics": ["events"], "dimensions": ["event_type"], "order_by": [["event_type", "asc"]]}),
            "rollup_1d",
            json!([{"dimensions": ["purchase"], "metrics": [48]}, {"dimensions": ["view"], "metrics": [96]}]),
        ),
        (
            json!({"metrics": ["events"], "dimensions": ["event_type"], "pagination": {"limit": 1, "offset": 1}}),
            "rollup_1d",
            json!([{"dimensions": ["purchase"], "metrics": [48]}]),
        ),
        (
            json!({"metrics": ["events"], "filters": [["or", [["is", "country", ["DE"]], ["contains", "device", ["WE"]]]], ["is_not", "country", [""]]]}),
            "rollup_1d",
            json!([{"dimensions": [], "metrics": [96]}]),
        ),
        (
            json!({"metrics": ["events"], "filters": [["is", "country", ["nowhere"]]]}),
            "rollup_1d",
            json!([{"dimensions": [], "metrics": [0]}]),
        ),
        (
            json!({"metrics": ["value_avg"], "filters": [["is", "country", [""]]]}),
            "rollup_1d",
            json!([{"dimensions": [], "metrics": [null]}]),
        ),
        (
            json!({"metrics": ["events"], "timezone": "Asia/Kolkata", "dimensions": ["time:day"],
                "date_range": [rfc3339(from), rfc3339(from + 86_400)]}),
            "rollup_1h",
            json!([{"dimensions": ["x"], "metrics": [57]}, {"dimensions": ["x"], "metrics": [15]}]),
        ),
        // No rollup has it: raw events are asked because they may be.
        (
            json!({"metrics": ["events"], "dimensions": ["os"], "raw": true}),
            "events",
            json!([{"dimensions": [""], "metrics": [144]}]),
        ),
    ] {
        let answer = ask(query.clone()).await;
        let mut results = answer["results"].clone();
        if query["timezone"] == "Asia/Kolkata" {
            results.as_array_mut().unwrap().iter_mut().for_each(|row| row["dimensions"] = json!(["x"]));
        }
        assert_eq!(results, expected, "{query}");
        assert_eq!(answer["meta"]["source"], source, "{query}");
        // What is echoed asks the same.
        let again = ask(answer["query"].clone()).await;
        assert_eq!(again["results"], answer["results"], "{query}");
    }
    let answer = ask(json!({"metrics": ["events"], "dimensions": ["time:day"], "date_range": [rfc3339(from + 86_400), rfc3339(from + 3 * 86_400)],
        "include": {"totals": true, "total_rows": true, "time_labels": true, "comparisons": "previous_period"}})).await;
    assert_eq!(answer["results"][0]["comparison"], json!({"metrics": [0], "change_percent": [null]}), "{answer}");
    assert_eq!(answer["results"][1]["metrics"], json!([0]), "{answer}");
    assert_eq!(answer["results"][1]["comparison"], json!({"metrics": [72], "change_percent": [-100.0]}), "{answer}");
    assert_eq!(answer["totals"], json!({"metrics": [72], "comparison": {"metrics": [72], "change_percent": [0.0]}}));
    assert_eq!(
        (&answer["meta"]["total_rows"], answer["meta"]["time_labels"].as_array().unwrap().len()),
        (&json!(2), 2)
    );
    service.stop().await;
}

#[tokio::test]
async fn bad_documents_are_explained_with_the_field() {
    let project = new_project();
    let service = Service::start(support::engine().await.reader(), &[&project], None).await;
    let long = format!(r#"{{"metrics":["{}"]}}"#, "x".repeat(20_000));
    for (body, status, code, field) in [
        ("{", StatusCode::BAD_REQUEST, "invalid_json", None),
        ("\u{0}", StatusCode::BAD_REQUEST, "invalid_json", None),
        (&long, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", None),
        (r#"{"metrics":["event"],"date_range":"7d"}"#, StatusCode::BAD_REQUEST, "bad_field", Some("metrics[0]")),
        (
            r#"{"metrics":["events"],"date_range":"7d","metrics":["users"]}"#,
            StatusCode::BAD_REQUEST,
            "bad_field",
            Some("metrics"),
        ),
        (
            r#"{"metrics":["events"],"date_range":"7d","filters":[["is","country",[true]]]}"#,
            StatusCode::BAD_REQUEST,
            "bad_field",
            Some("filters[0][2][0]"),
        ),
        (
            r#"{"metrics":["events"],"date_range":"7d","dimensions":["plan"]}"#,
            StatusCode::BAD_REQUEST,
            "unknown_dimension",
            None,
        ),
        (
            r#"{"metrics":["events"],"date_range":"7d","dimensions":["origin"]}"#,
            StatusCode::BAD_REQUEST,
            "not_rolled_up",
            None,
        ),
        (
            r#"{"metrics":["events"],"date_range":"90d","dimensions":["time:minute"]}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
            "too_many_points",
            None,
        ),
    ] {
        let reply = service.post(&project, "/v1/query", body.to_owned()).await;
        assert_eq!((reply.status, reply.body["code"].as_str()), (status, Some(code)), "{body}: {reply:?}");
        if let Some(field) = field {
            assert_eq!(reply.body["field"], field, "{reply:?}");
        }
    }
    let reply = service.get(&project, "/v1/query").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    service.stop().await;
}

#[tokio::test]
async fn funnels_and_retention_have_the_same_path() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 24).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let range = json!([rfc3339(from), rfc3339(from + 86_400)]);
    let funnel = json!({"kind": "funnel", "date_range": range, "window": "1d", "steps": [{"event_type": "purchase"}, {"event_type": "view"}]});
    let reply = service.post(&project, "/v1/query", funnel.to_string()).await;
    assert_eq!((reply.status, reply.header("x-cache")), (StatusCode::OK, "MISS"), "{reply:?}");
    assert_eq!(reply.body["meta"]["source"], "events");
    assert!(reply.body["meta"]["rows_read"].as_u64().is_some_and(|rows| rows >= 72), "{reply:?}");
    assert_eq!(service.post(&project, "/v1/query", funnel.to_string()).await.header("x-cache"), "HIT");
    let reply = service.post(&project, "/v1/query", r#"{"kind":"funel"}"#).await;
    assert_eq!((&reply.body["field"], &reply.body["did_you_mean"]), (&json!("kind"), &json!(["funnel"])), "{reply:?}");
    service.stop().await;
}

#[tokio::test]
async fn readings_of_one_answer_are_limited_together() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    // 90,720 rows of the table of minutes.
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_hash, received_at, retention_days) \
         SELECT '{project}', toString(number), concat('t', toString(number % 9)), \
         fromUnixTimestamp64Milli(({from} + intDiv(number, 9) * 60) * 1000, 'UTC'), 1, now64(3), 730 FROM numbers(90720)"
    );
    support::execute(&engine.writer(), &insert).await.unwrap();
    // The present stands still: a list of event types that is older than two seconds would be read again in between.
    let now_ms = Some(tallyhouse_service::clock::now_ms());
    let settings = Settings { writer: Some(engine.writer()), now_ms, ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings.with("QUERY_DEADLINE_DASHBOARD_MS", "60000"), &[&project]).await;
    let names: Vec<String> = (0..8).map(|place| format!("but_{place}")).collect();
    for name in &names {
        let metric = json!({"name": name, "measure": "count", "filters": [["is_not", "event_type", [name]]]});
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", metric.to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    let ask = async |metrics: &[String]| {
        let query = json!({"metrics": metrics, "dimensions": ["time:minute", "event_type"], "include": {"total_rows": true},
            "date_range": [rfc3339(from), rfc3339(from + 7 * 86_400)], "pagination": {"limit": 1}});
        service.post(&project, "/v1/query", query.to_string()).await
    };
    let fits = ask(&names[..5]).await;
    assert_eq!((fits.status, &fits.body["meta"]["total_rows"]), (StatusCode::OK, &json!(90_720)), "{fits:?}");
    let before = service.queries();
    let refused = ask(&names).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_expensive")),
        "{refused:?}"
    );
    // What was remembered of the first five counts too, and after the sixth nothing is read.
    assert_eq!(service.queries() - before, 1);
    service.stop().await;
}

/// Midnight on the first of a month of last year, or before it.
fn first_of(month: i8) -> i64 {
    let year = Zone::utc().date(tallyhouse_service::clock::now_ms() / 1_000).year();
    Zone::utc().day_start(jiff::civil::date(if month == 12 { year - 2 } else { year - 1 }, month, 1))
}

#[tokio::test]
async fn an_hour_is_compared_with_an_hour() {
    let (engine, project) = (support::engine().await, new_project());
    let (december, february) = (first_of(12), first_of(2));
    for from in [december, february] {
        insert_events(&engine.writer(), &project, from, 2).await;
    }
    let service = Service::start(engine.reader(), &[&project], None).await;
    // 62 days of hours are too many for a chart, 59 are not.
    let query = json!({"metrics": ["events"], "dimensions": ["time"], "date_range": [rfc3339(february), rfc3339(first_of(4))],
        "include": {"comparisons": "previous_period"}, "pagination": {"limit": 3}});
    let reply = service.post(&project, "/v1/query", query.to_string()).await;
    let rows = |name: &str| -> Vec<Value> {
        reply.body["results"].as_array().unwrap().iter().take(3).map(|row| row[name].clone()).collect()
    };
    assert_eq!(reply.body["query"]["dimensions"], json!(["time:hour"]), "{reply:?}");
    assert_eq!(reply.body["meta"]["comparison_range"]["from"], rfc3339(december), "{reply:?}");
    assert_eq!(rows("metrics"), [json!([3]), json!([3]), json!([0])], "{reply:?}");
    let before: Vec<_> = rows("comparison").into_iter().map(|comparison| comparison["metrics"].clone()).collect();
    assert_eq!(before, [json!([3]), json!([3]), json!([0])], "{reply:?}");
    service.stop().await;
}

#[tokio::test]
async fn raw_events_are_put_into_minutes_that_are_no_longer_kept() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 2).await;
    let settings = Settings { now_ms: Some((from + 120 * 86_400) * 1_000), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let mut query = json!({"metrics": ["events"], "dimensions": ["time"],
        "date_range": [rfc3339(from + 1_800), rfc3339(from + 3_720)]});
    let refused = service.post(&project, "/v1/query", query.to_string()).await;
    assert_eq!(refused.body["code"], "no_longer_kept_in_minutes", "{refused:?}");
    query["raw"] = true.into();
    let reply = service.post(&project, "/v1/query", query.to_string()).await;
    assert_eq!((reply.status, &reply.body["meta"]["source"]), (StatusCode::OK, &json!("events")), "{reply:?}");
    let rows = reply.body["results"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[31]["metrics"]), (32, &json!([1])), "{reply:?}");
    service.stop().await;
}

/// So many different tests of a field, in lists of the length that is read, in one filter each.
fn filters(field: impl Fn(usize) -> String, many: usize) -> Vec<Value> {
    let tests: Vec<Value> = (0..many).map(|place| json!(["is_not", field(place), [format!("v{place}")]])).collect();
    tests.chunks(30).map(|some| json!(["and", some])).collect()
}

#[tokio::test]
async fn documents_with_as_many_tests_as_they_may_have_are_answered() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 24).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let (range, property) = (json!([rfc3339(from), rfc3339(from + 86_400)]), |place| format!("property_{place}"));
    let purchases = |many| json!({"event_type": "purchase", "filters": filters(property, many)});
    let measures = |many| json!({"measure": "count", "filters": filters(|_| "country".to_owned(), many)});
    let metric = json!({"name": "many", "ratio": [measures(50), measures(50)]});
    let made = service.post(&format!("admin-{project}"), "/v1/metrics", metric.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let steps = |many, of_last| [vec![purchases(many); 9], vec![purchases(of_last)]].concat();
    for (document, expected) in [
        // Nine steps of nine, one of thirteen, a breakdown, and five of all.
        (
            json!({"kind": "funnel", "date_range": range, "window": "1d", "breakdown": "property_x",
                "steps": steps(8, 12), "filters": filters(property, 5)}),
            json!(1),
        ),
        (
            json!({"kind": "funnel", "date_range": range, "window": "1d", "order": "strict_order",
                "steps": steps(9, 9)}),
            json!(1),
        ),
        (
            json!({"kind": "retention", "date_range": range, "unit": "day", "periods": 1,
                "cohort": purchases(49), "return": purchases(49)}),
            Value::Null,
        ),
        (
            json!({"metrics": ["events"], "date_range": range, "raw": true, "filters": filters(property, 100),
                "dimensions": (0..8).map(property).collect::<Vec<_>>()}),
            json!(72),
        ),
        (
            json!({"metrics": ["many", "events"], "date_range": range, "filters": filters(|_| "device".to_owned(), 50)}),
            json!(1.0),
        ),
    ] {
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{document}: {reply:?}");
        let found = match document["kind"].as_str() {
            Some("funnel") => reply.body["data"]["steps"][0]["users"].clone(),
            Some(_) => Value::Null,
            None => reply.body["results"][0]["metrics"][0].clone(),
        };
        assert_eq!(found, expected, "{document}: {reply:?}");
    }
    // Ten steps of 26 tests fit into a body, and are a thousand parameters and more.
    let document = json!({"kind": "funnel", "date_range": range, "window": "1d", "steps": vec![purchases(26); 10]});
    let reply = service.post(&project, "/v1/query", document.to_string()).await;
    assert_eq!(
        (reply.status, &reply.body["field"]),
        (StatusCode::BAD_REQUEST, &json!("steps[3].filters[0][1][18]")),
        "{reply:?}"
    );
    service.stop().await;
}
