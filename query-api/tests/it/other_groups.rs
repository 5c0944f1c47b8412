//! The groups beyond the limit as one row: `include.other`, and `other=true` in GET.

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_query_api::time::Zone;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, new_project, ten_days_ago};

const DAY: i64 = 86_400;

/// Two days of 2,600 events, of 130 countries with 20 each: among them `''`, `other`, `__other__` and others that are easily mixed up. Of
/// 900 users; each fourth event has no value.
async fn insert(writer: &Connection, project: &str, from: i64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, toString(number), if(number % 3 = 0, 'purchase', 'view'),
            fromUnixTimestamp64Milli(({from:Int64} + number * 66) * 1000, 'UTC'),
            if(number % 4 = 0, NULL, number % 17 - 3), number % 900 + 1,
            arrayElement(arrayConcat(['', 'other', '__other__', 'a,b', 'a', 'b', '1:a', 'null', 'a''b', 'ä\\\\'],
                arrayMap(i -> concat('c', toString(i)), range(120))), number % 130 + 1) AS c,
            if(number % 7 < 3, 'web', '') AS d,
            [('country', c), ('device', d), ('country,device', concat(c, char(31), d))], now64(3), 730
        FROM numbers(2600)";
    writer.client().query(INSERT).param("project", project).param("from", from).execute().await.unwrap();
}

fn sum(rows: &[Value], of: impl Fn(&Value) -> f64) -> f64 {
    rows.iter().map(of).sum()
}

#[tokio::test]
async fn what_is_shown_and_the_rest_are_all_there_is() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert(&engine.writer(), &project, from).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    for metric in [
        r#"{"name":"share","ratio":[{"measure":"count","event_type":"purchase"},"events"]}"#,
        r#"{"name":"bought","measure":"count","event_type":"purchase"}"#,
    ] {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", metric.to_owned()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    let range = json!([Zone::utc().rfc3339(from), Zone::utc().rfc3339(from + 2 * DAY)]);
    let ask = async |mut document: Value| {
        document["date_range"] = range.clone();
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{document}: {reply:?}");
        reply.body
    };
    for dimensions in [
        json!(["country"]),
        json!(["country", "device"]),
        json!(["time:day", "country"]),
        json!(["country", "time:hour", "device"]),
        json!(["event_type"]),
    ] {
        for (limit, filters) in
            [(1, json!([])), (5, json!([])), (100, json!([["is_not", "device", ["web"]]])), (1_000, json!([]))]
        {
            let names = ["events", "value_sum", "users", "value_min", "value_max", "value_avg", "value_p95", "share"];
            let body = ask(json!({"metrics": names, "dimensions": dimensions, "filters": filters,
                "pagination": {"limit": limit}, "include": {"other": true, "totals": true, "comparisons": "previous_period"}}))
            .await;
            let rows = body["results"].as_array().unwrap();
            let (others, shown): (Vec<Value>, Vec<Value>) = rows.iter().cloned().partition(|row| row["other"] == true);
            let what = format!("{dimensions} {limit}: {:?} of {}", others.first(), body["meta"]);
            assert_eq!(others.is_empty(), body["meta"]["cut"].is_null(), "{what}");
            assert_eq!(body["meta"]["cut"]["rest"], if others.is_empty() { Value::Null } else { json!("other") });
            for place in 0..2 {
                let all = sum(rows, |row| row["metrics"][place].as_f64().unwrap());
                assert_eq!(Some(all), body["totals"]["metrics"][place].as_f64(), "{what}");
            }
            let is_time = |name: &Value| name.as_str().unwrap().starts_with("time");
            for row in &others {
                let values = dimensions.as_array().unwrap().iter().zip(row["dimensions"].as_array().unwrap());
                values.for_each(|(name, value)| assert_eq!(value.is_null(), !is_time(name), "{what}"));
                assert!(row["comparison"].is_object(), "{what}");
            }
            // As one group by itself: what a filter against those that are shown says.
            if dimensions == json!(["country"]) && !others.is_empty() {
                let countries: Vec<&Value> = shown.iter().map(|row| &row["dimensions"][0]).collect();
                let mut filters = filters.as_array().unwrap().clone();
                filters.push(json!(["is_not", "country", countries]));
                let rest = ask(json!({"metrics": names, "filters": filters})).await;
                assert_eq!(rest["results"][0]["metrics"], others[0]["metrics"], "{what}");
            }
            // What is echoed asks the same.
            let again = ask(body["query"].clone()).await;
            assert_eq!(again["results"], body["results"], "{what}");
        }
    }
    // The second page's rest comes after it.
    let page = ask(json!({"metrics": ["events"], "dimensions": ["country"], "pagination": {"limit": 20, "offset": 40}, "include": {"other": true}})).await;
    assert_eq!(page["results"].as_array().unwrap().last().unwrap()["metrics"], json!([70 * 20]), "{page}");

    let times = format!("startTime={}&endTime={}", from * 1_000, (from + 2 * DAY) * 1_000);
    let get = async |question: &str| {
        let reply = service.get(&project, &format!("/v1/metrics/{question}&{times}")).await;
        assert_eq!(reply.status, StatusCode::OK, "{question}: {reply:?}");
        reply.body
    };
    // Without a limit 100 are shown.
    for (name, by) in
        [("events", "country"), ("value_sum", "country,device"), ("bought", "country"), ("users", "country")]
    {
        for granularity in ["day", "hour"] {
            let whole = get(&format!("{name}?granularity={granularity}")).await;
            let cut = get(&format!("{name}?granularity={granularity}&groupBy={by}")).await;
            let body = get(&format!("{name}?granularity={granularity}&groupBy={by}&other=true")).await;
            let what = format!("{name} {by} {granularity}: {}", body["meta"]);
            let rows = body["data"].as_array().unwrap();
            let shown: Vec<Value> = rows.iter().filter(|row| row["other"].is_null()).cloned().collect();
            assert_eq!(Some(&shown), cut["data"].as_array(), "{what}");
            let others: Vec<&Value> = rows.iter().filter(|row| row["other"] == true).collect();
            assert!(!others.is_empty() && others.iter().all(|row| row["country"].is_null()), "{what}");
            assert_eq!((&body["meta"]["cut"]["rest"], &cut["meta"]["cut"]["rest"]), (&json!("other"), &Value::Null));
            if name != "users" {
                let value = |row: &Value| row["value"].as_f64().unwrap();
                assert_eq!(sum(rows, value), sum(whole["data"].as_array().unwrap(), value), "{what}");
            }
        }
    }
    let ratio = get("share?granularity=day&groupBy=country&limit=3&other=true").await;
    assert!(
        ratio["data"].as_array().unwrap().iter().any(|row| row["other"] == true && row["value"].is_f64()),
        "{ratio}"
    );
    for question in [
        "events?other=true",
        "events?other=yes&groupBy=country",
        "events/anomalies?other=true",
        "events/stream?other=true",
    ] {
        let reply = service.get(&project, &format!("/v1/metrics/{question}")).await;
        let message = reply.body["message"].as_str().unwrap_or_default();
        assert!(reply.status == StatusCode::BAD_REQUEST && message.contains("`other`"), "{question}: {reply:?}");
    }
    let bad =
        json!({"metrics": ["events"], "date_range": "7d", "dimensions": ["time:day"], "include": {"other": true}});
    let reply = service.post(&project, "/v1/query", bad.to_string()).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    service.stop().await;
}
