//! `meta.newest_event`: the instant of the newest event counted, however coarse the table that answers.

use serde_json::{Value, json};
use tallyhouse_query_api::time::Zone;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{self as support, new_project, ten_days_ago};

const DAY: i64 = 86_400;

/// Of a day: the newest view, from DE, at 17:43:12.345, and a purchase from FR at 16:02:00.5; many earlier ones of both.
async fn insert(writer: &Connection, project: &str, day: i64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, toString(({day:Int64}, number)), if(number % 2 = 0, 'view', 'purchase') AS type,
            fromUnixTimestamp64Milli({day:Int64} * 1000 + if(type = 'view', 63792345, 57720500) - intDiv(number, 2) * 61000, 'UTC'),
            5, 7, if(type = 'view', 'DE', 'FR') AS c, 'web',
            [('country', c), ('device', 'web'), ('country,device', concat(c, char(31), 'web'))], now64(3), 730
        FROM numbers(200)";
    writer.client().query(INSERT).param("project", project).param("day", day).execute().await.unwrap();
}

fn told(reply: &Reply) -> (&Value, &Value) {
    (&reply.body["meta"]["newest_event"], &reply.body["meta"]["newest_event_precision"])
}

/// What is to be told of an instant after the start of a day.
fn at(day: i64, seconds: i64, ms: &str) -> Value {
    let whole = Zone::utc().rfc3339(day + seconds);
    json!(whole.replace('Z', &format!("{ms}Z")))
}

#[tokio::test]
async fn it_is_the_instant_whatever_is_asked() {
    let (engine, project, day) = (support::engine().await, new_project(), ten_days_ago());
    insert(&engine.writer(), &project, day).await;
    insert(&engine.writer(), &project, day - 110 * DAY).await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    for metric in [
        r#"{"name":"bought","ratio":[{"measure":"count","event_type":"purchase"},{"measure":"count","event_type":"view"}]}"#,
        r#"{"name":"seen","measure":"count","event_type":"view"}"#,
    ] {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", metric.to_owned()).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }
    let exact = json!("millisecond");
    let (view, purchase) = (at(day, 63_792, ".345"), at(day, 57_720, ".500"));
    let old = at(day - 110 * DAY, 63_792, ".345");
    let range = |from: i64, days: i64| format!("startTime={}&endTime={}", from * 1_000, (from + days * DAY) * 1_000);
    let of_a_day = range(day, 1);
    for (question, expected) in [
        ("events?granularity=day", &view),
        ("events?granularity=hour", &view),
        ("events?granularity=15m", &view),
        ("events?granularity=day&timezone=Asia/Kolkata", &view),
        ("users?granularity=day&groupBy=country", &view),
        // One group is shown, and the newest event is of the other or of it.
        ("events?granularity=day&groupBy=country&limit=1", &view),
        ("events?granularity=hour&groupBy=country,device&limit=1", &view),
        ("events?granularity=day&filter=country:FR", &purchase),
        ("events?granularity=hour&filter=country:FR&filter=device:web", &purchase),
        ("revenue?granularity=day", &purchase),
        ("bought?granularity=day", &view),
        ("events?granularity=day&eventType=purchase&groupBy=country,device", &purchase),
    ] {
        let reply = service.get(&project, &format!("/v1/metrics/{question}&{of_a_day}")).await;
        assert_eq!(told(&reply), (expected, &exact), "{question}: {reply:?}");
        let again = service.get(&project, &format!("/v1/metrics/{question}&{of_a_day}")).await;
        assert_eq!((told(&again), again.header("x-cache")), ((expected, &exact), "HIT"), "{question}");
    }
    // Of minutes the minute is told.
    let minutes = service.get(&project, &format!("/v1/metrics/events?granularity=minute&{of_a_day}")).await;
    assert_eq!(told(&minutes), (&at(day, 63_780, ""), &json!("minute")), "{minutes:?}");
    for (granularity, from, days, expected) in [
        ("week", day - 14 * DAY, 21, &view),
        ("month", day - 40 * DAY, 60, &view),
        ("day", day - 115 * DAY, 30, &old),
        ("hour", day - 115 * DAY, 20, &old),
    ] {
        let question = format!("/v1/metrics/events?granularity={granularity}&{}", range(from, days));
        let reply = service.get(&project, &question).await;
        assert_eq!(told(&reply), (expected, &exact), "{question}: {reply:?}");
    }
    for (document, expected) in [
        (json!({"metrics": ["events"]}), &view),
        (
            json!({"metrics": ["users", "value_p95"], "dimensions": ["time:day", "event_type"], "pagination": {"limit": 1}}),
            &view,
        ),
        (json!({"metrics": ["bought", "events"], "dimensions": ["country"]}), &view),
        (json!({"metrics": ["events"], "filters": [["is", "country", ["FR"]]]}), &purchase),
        (json!({"metrics": ["events"], "raw": true, "dimensions": ["os"]}), &view),
        (
            json!({"metrics": ["events"], "raw": true, "dimensions": ["os"], "filters": [["is_not", "country", ["DE"]]]}),
            &purchase,
        ),
    ] {
        let mut document = document;
        document["date_range"] = json!([Zone::utc().rfc3339(day - DAY), Zone::utc().rfc3339(day + DAY)]);
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!(told(&reply), (expected, &exact), "{document}: {reply:?}");
    }
    let date = Zone::utc().date(day).to_string();
    for question in [
        format!("/v1/reports/daily?date={date}"),
        format!("/v1/event-types?{}", range(day - DAY, 3)),
        format!("/v1/metrics/events/anomalies?granularity=hour&{}", range(day - DAY, 3)),
        format!("/v1/metrics/seen/anomalies?granularity=hour&{}", range(day - DAY, 3)),
    ] {
        let reply = service.get(&project, &question).await;
        assert_eq!(told(&reply), (&view, &exact), "{question}: {reply:?}");
    }
    let nothing = service.get(&project, &format!("/v1/metrics/events?granularity=day&{}", range(day + DAY, 2))).await;
    assert_eq!(told(&nothing), (&Value::Null, &Value::Null), "{nothing:?}");
    service.stop().await;
}

#[tokio::test]
async fn without_raw_events_it_is_the_minute_and_without_minutes_the_hour() {
    let (engine, project, day) = (support::engine().await, new_project(), ten_days_ago());
    insert(&engine.writer(), &project, day).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let gone = async |table: &str| {
        let statement = format!("DELETE FROM tallyhouse.{table} WHERE project_id = '{project}'");
        support::execute(&engine.writer(), &statement).await.unwrap();
    };
    let ask = async |granularity: &str| {
        let range = format!("startTime={}&endTime={}", day * 1_000, (day + DAY) * 1_000);
        let path = format!("/v1/metrics/events?granularity={granularity}&fresh=true&{range}");
        let reply = service.get(&project, &path).await;
        service.pass(std::time::Duration::from_secs(3_700));
        (reply.body["meta"]["newest_event"].clone(), reply.body["meta"]["newest_event_precision"].clone())
    };
    gone("events").await;
    assert_eq!(ask("day").await, (at(day, 63_780, ""), json!("minute")));
    assert_eq!(ask("hour").await, (at(day, 63_780, ""), json!("minute")));
    gone("rollup_1m").await;
    assert_eq!(ask("hour").await, (at(day, 17 * 3_600, ""), json!("hour")));
    assert_eq!(ask("day").await, (at(day, 0, ""), json!("day")));
    service.stop().await;
}

#[tokio::test]
async fn metrics_of_one_document_are_looked_up_together() {
    let (engine, project, day) = (support::engine().await, new_project(), ten_days_ago());
    insert(&engine.writer(), &project, day).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let ask = async |metrics: Value, dimensions: Value| {
        let before = service.look_ups();
        let range = json!([Zone::utc().rfc3339(day), Zone::utc().rfc3339(day + DAY)]);
        let document = json!({"metrics": metrics, "dimensions": dimensions, "date_range": range});
        let reply = service.post(&project, "/v1/query", document.to_string()).await;
        assert_eq!(told(&reply), (&at(day, 63_792, ".345"), &json!("millisecond")), "{document}: {reply:?}");
        service.look_ups() - before
    };
    assert_eq!(ask(json!(["revenue", "events"]), json!(["time:hour"])).await, 2, "minutes and raw events");
    assert_eq!(ask(json!(["users"]), json!(["time:hour", "country"])).await, 0, "the next panel shares it");
    service.stop().await;
}
