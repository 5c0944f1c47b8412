//! The errors that an answer states, against estimates of a real engine.

use serde_json::{Value, json};
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, new_project, ten_days_ago};

/// `users` different people do something at `at`.
async fn insert(writer: &Connection, project: &str, event_type: &str, at: i64, users: u64) {
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, dims, received_at, retention_days)
        SELECT {project:String}, concat({type:String}, toString({at:Int64}), '-', toString(number)), {type:String},
            toDateTime64({at:Int64}, 3, 'UTC'), number % 100 + 1, sipHash64(number), 'DE', 'web', [('country', 'DE')], now64(3), 730
        FROM numbers({users:UInt64})";
    let insert = writer.client().query(INSERT).param("project", project).param("type", event_type);
    insert.param("at", at).param("users", users).execute().await.unwrap();
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[tokio::test]
async fn the_error_of_a_formula_is_that_of_the_formula() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    // Two days, of which the second is compared with the first.
    for (event_type, day, users) in
        [("visit", 0, 95_000), ("visit", 1, 100_000), ("login", 0, 94_500), ("login", 1, 99_000)]
    {
        insert(&engine.writer(), &project, event_type, from + day * 86_400 + 3_600, users).await;
    }
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let unique = |of: &str| json!({"measure": "unique", "event_type": of});
    for document in [
        json!({"name": "strangers", "formula": {"op": "subtract", "left": unique("visit"), "right": unique("login")}}),
        json!({"name": "known_share", "ratio": [unique("login"), unique("visit")]}),
        json!({"name": "per_stranger", "ratio": ["events", "strangers"]}),
        json!({"name": "per_visitor", "ratio": ["value_sum", unique("visit")]}),
        json!({"name": "doubled", "formula": {"op": "multiply", "left": 2, "right": "events"}}),
    ] {
        let made = service.post(&format!("admin-{project}"), "/v1/metrics", document.to_string()).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }
    let names = ["strangers", "known_share", "per_stranger", "per_visitor", "doubled", "users", "events", "value_p95"];
    let [start, end] = [from + 86_400, from + 2 * 86_400].map(|at| tallyhouse_query_api::time::Zone::utc().rfc3339(at));
    let query = json!({"metrics": names, "date_range": [start, end], "dimensions": ["time:day"],
        "include": {"totals": true, "comparisons": "previous_period"}});
    let reply = service.post(&project, "/v1/query", query.to_string()).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    let (errors, row) = (&reply.body["meta"]["errors"], &reply.body["results"][0]);
    let off = |place: usize, truth: f64| (number(&row["metrics"][place]) - truth).abs();

    // The truth is 1,000 of 100,000 less 99,000: each is off by 0.8 %, so the difference by up to 1.6 % of 100,000.
    let strangers = &errors["strangers"];
    assert!(strangers["relative"].is_null() && strangers["kind"] == "standard", "{errors}");
    assert!((1_600.0..1_640.0).contains(&number(&strangers["absolute"])), "{errors}");
    assert!(off(0, 1_000.0) <= number(&strangers["absolute"]), "{row}");
    // The difference before may have been 0: nothing can be said of the change.
    assert_eq!(strangers["change_percent"], Value::Null, "{errors}");
    assert!(strangers.as_object().unwrap().contains_key("change_percent"), "{errors}");

    let share = &errors["known_share"];
    assert!((0.016..0.0168).contains(&number(&share["relative"])), "{errors}");
    assert!(off(1, 0.99) <= 0.99 * number(&share["relative"]), "{row}");
    assert!((3.0..3.6).contains(&number(&share["change_percent"])), "{errors}");

    // A divisor that may be 0: no bound at all, and that is said.
    assert_eq!(errors["per_stranger"], json!({"kind": "standard", "relative": null, "change_percent": null}));
    assert!((0.0081..0.0083).contains(&number(&errors["per_visitor"]["relative"])), "{errors}");
    assert_eq!((&errors["doubled"], &errors["events"]), (&Value::Null, &Value::Null), "{errors}");
    assert_eq!((&errors["users"]["relative"], &errors["users"]["absolute"]), (&json!(0.0081), &Value::Null));
    assert!((1.6..1.8).contains(&number(&errors["users"]["change_percent"])), "{errors}");
    assert_eq!((&errors["value_p95"]["kind"], &errors["value_p95"]["relative"]), (&json!("bound"), &json!(0.01)));

    // The same by GET, whose minutes count users less exactly.
    let range = format!("startTime={start}&endTime={end}");
    for (granularity, least) in [("day", 1_600.0), ("minute", 3_200.0)] {
        let reply = service.get(&project, &format!("/v1/metrics/strangers?{range}&granularity={granularity}")).await;
        let strangers = &reply.body["meta"]["errors"]["strangers"];
        assert!(strangers["relative"].is_null(), "{reply:?}");
        assert!((least..least * 1.03).contains(&number(&strangers["absolute"])), "{granularity}: {strangers}");
    }
    service.stop().await;
}
