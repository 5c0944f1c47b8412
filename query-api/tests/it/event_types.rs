//! `GET /v1/event-types` against a real ClickHouse.

use serde_json::{Value, json};
use tallyhouse_sql::Connection;

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

/// So many events of a type, one a minute from `from_s`, with these properties as SQL.
async fn insert(writer: &Connection, project: &str, event_type: &str, events: u32, from_s: i64, properties: [&str; 2]) {
    let [props, num_props] = properties;
    let insert = format!(
        "INSERT INTO events_in (project_id, event_id, event_type, ts, props, num_props, user_hash, received_at, retention_days) \
         SELECT {{project:String}}, concat({{type:String}}, toString(number)), {{type:String}}, \
         fromUnixTimestamp64Milli(({{from:Int64}} + number * 60) * 1000, 'UTC'), {props}, {num_props}, 1, now64(3), 730 \
         FROM numbers({events})"
    );
    let insert = writer.client().query(&insert).param("project", project).param("type", event_type);
    insert.param("from", from_s).execute().await.unwrap();
}

fn named<'a>(body: &'a Value, name: &str) -> &'a Value {
    let types = body["event_types"].as_array().unwrap_or_else(|| panic!("{body}"));
    types.iter().find(|one| one["event_type"] == name).unwrap_or_else(|| panic!("{name}: {body}"))
}

/// The instant is looked up within half a second or not at all; a busy machine may need another answer for that.
async fn says_newest(service: &Service, project: &str, query: &str, expected: &str) {
    let path = format!("/v1/event-types?{query}");
    eventually("the newest event is looked up", async || {
        let is_said = service.get(project, &path).await.body["meta"]["newest_event"] == expected;
        if !is_said {
            // Longer than the answer is remembered.
            service.pass(std::time::Duration::from_secs(71));
        }
        is_said
    })
    .await;
}

#[tokio::test]
async fn types_are_listed_with_what_is_counted_declared_and_sampled() {
    let (engine, project, other, from) = (support::engine().await, new_project(), new_project(), ten_days_ago());
    let writer = engine.writer();
    insert_events(&writer, &project, from, 2).await;
    let nothing = "CAST(map(), 'Map(String, Float64)')";
    let mixed = [
        "if(number < 3, map('plan', 'a', 'amount', 'x'), map('plan', 'b'))",
        "if(number < 3, CAST(map(), 'Map(String, Float64)'), map('amount', 1.5))",
    ];
    insert(&writer, &project, "signup", 10, from + 7_200, mixed).await;
    insert(&writer, &project, "odd \"'\\ {x:String} ü", 1, from, ["map('k\"', 'v')", nothing]).await;
    insert(&writer, &other, "secret", 5, from, ["map('theirs', 'v')", nothing]).await;
    let service = Service::start(engine.reader(), &[&project, &other], None).await;
    let reply = service.get(&project, "/v1/event-types").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-cache")), (200, "MISS"), "{reply:?}");
    let names: Vec<_> = reply.body["event_types"].as_array().unwrap().iter().map(|one| &one["event_type"]).collect();
    assert_eq!(names, ["signup", "view", "purchase", "odd \"'\\ {x:String} ü"]);
    let at = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap().to_string();
    assert_eq!(
        named(&reply.body, "signup"),
        &json!({
            "event_type": "signup", "events": 10, "first_seen": at(from + 7_200), "last_seen": at(from + 7_200),
            "declared": false, "value_properties": ["value", "amount", "revenue"], "dimensions": ["country", "device"],
            "combinations": [["country", "device"]], "sampled_events": 10,
            "properties": [
                {"name": "amount", "kind": "mixed", "events": 10, "share": 1.0},
                {"name": "plan", "kind": "text", "events": 10, "share": 1.0},
            ],
        })
    );
    let view = named(&reply.body, "view");
    assert_eq!(
        (&view["events"], &view["first_seen"], &view["last_seen"], &view["properties"]),
        (&json!(4), &json!(at(from)), &json!(at(from + 3_600)), &json!([]))
    );
    let purchase = named(&reply.body, "purchase");
    assert_eq!((&purchase["declared"], &purchase["events"]), (&json!(true), &json!(2)));
    assert_eq!(named(&reply.body, names[3].as_str().unwrap())["properties"][0]["name"], "k\"");
    let meta = &reply.body["meta"];
    assert_eq!((&meta["source"], &meta["truncated"]), (&json!("rollup_1h,events"), &json!(false)));
    assert_eq!(meta["sample"]["events_per_type"], 500);
    says_newest(&service, &project, "", &at(from + 7_740)).await;
    assert!(!reply.body.to_string().contains("theirs") && !reply.body.to_string().contains("secret"));
    assert_eq!(service.get(&project, "/v1/event-types").await.header("x-cache"), "HIT");
    service.stop().await;
}

#[tokio::test]
async fn one_type_a_range_a_zone_and_a_list_that_is_cut() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    let writer = engine.writer();
    insert_events(&writer, &project, from, 2).await;
    // More than are looked at of a list, and more properties than are told.
    let many = [
        "mapFromArrays(arrayMap(i -> concat('p', toString(i)), range(300)), arrayMap(i -> 'x', range(300)))",
        "CAST(map(), 'Map(String, Float64)')",
    ];
    insert(&writer, &project, "signup", 1_200, from, many).await;
    // Fewer events than any other, and newer than all.
    insert(&writer, &project, "rare", 1, from + 3 * 86_400, many).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let get = async |query: &str| service.get(&project, &format!("/v1/event-types?{query}")).await;

    let list = get("").await;
    let signup = named(&list.body, "signup");
    assert_eq!((&signup["events"], &signup["sampled_events"]), (&json!(1_200), &json!(500)));
    assert_eq!(signup["properties"].as_array().unwrap().len(), 200);
    let one = get("eventType=signup&timezone=Asia/Kolkata").await;
    let signup = named(&one.body, "signup");
    assert_eq!((&signup["events"], &signup["sampled_events"]), (&json!(1_200), &json!(1_200)));
    assert!(signup["first_seen"].as_str().unwrap().ends_with("T05:30:00+05:30"), "{signup}");
    assert_eq!(one.body["event_types"].as_array().unwrap().len(), 1);

    let cut = get("limit=1&properties=none").await;
    assert_eq!(cut.body["event_types"].as_array().unwrap().len(), 1);
    assert_eq!((&cut.body["meta"]["truncated"], &cut.body["meta"]["source"]), (&json!(true), &json!("rollup_1h")));
    assert_eq!((&cut.body["event_types"][0]["properties"], &cut.body["meta"]["sample"]), (&Value::Null, &Value::Null));
    // Of a type that is not shown, too.
    let newest = jiff::Timestamp::from_second(from + 3 * 86_400).unwrap().to_string();
    says_newest(&service, &project, "limit=1&properties=none", &newest).await;

    // The second hour alone: a view and a purchase more are in the first.
    let hour = get(&format!("startTime={}&endTime={}", (from + 3_600) * 1_000, (from + 7_200) * 1_000)).await;
    assert_eq!(named(&hour.body, "view")["events"], 2);
    let before = get(&format!("startTime={}&endTime={}", (from - 86_400) * 1_000, from * 1_000)).await;
    assert_eq!(before.body["event_types"], json!([]));

    let misspelt = get("eventType=signp").await;
    assert_eq!((misspelt.status.as_u16(), &misspelt.body["event_types"]), (200, &json!([])));
    assert_eq!(misspelt.body["meta"]["warnings"][0]["nearest"], json!(["signup"]), "{misspelt:?}");
    for (query, code) in [
        ("limit=0", "bad_parameter"),
        ("properties=all", "bad_parameter"),
        ("evenType=x", "unknown_parameter"),
        ("timezone=Mars", "unknown_timezone"),
        ("startTime=2020-01-01", "range_too_long"),
        ("startTime=2016-01-01&endTime=2016-01-02", "no_longer_kept"),
    ] {
        let refused = get(query).await;
        assert_eq!((refused.status.as_u16(), &refused.body["code"]), (400, &json!(code)), "{query}: {refused:?}");
    }
    assert_eq!(service.get("nobody", "/v1/event-types").await.status, 401);
    assert_eq!(service.get(&format!("ingest-{project}"), "/v1/event-types").await.status, 403);
    service.stop().await;
}

#[tokio::test]
async fn a_list_of_many_types_is_sampled_for_the_greatest() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    let insert = "INSERT INTO events_in (project_id, event_id, event_type, ts, props, user_hash, received_at, retention_days) \
        SELECT {project:String}, toString(number), concat('type ', toString(number % 60)), \
        fromUnixTimestamp64Milli({from:Int64} * 1000, 'UTC'), map('p', 'v'), 1, now64(3), 730 FROM numbers(600)";
    let insert = engine.writer().client().query(insert).param("project", &project).param("from", from);
    insert.execute().await.unwrap();
    let service = Service::start(engine.reader(), &[&project], None).await;
    let reply = service.get(&project, "/v1/event-types").await;
    let types = reply.body["event_types"].as_array().unwrap();
    assert_eq!(types.len(), 60, "{reply:?}");
    assert!(
        types[..50]
            .iter()
            .all(|one| one["properties"] == json!([{"name": "p", "kind": "text", "events": 10, "share": 1.0}]))
    );
    assert!(types[50..].iter().all(|one| one["properties"].is_null() && one["events"] == 10));
    assert_eq!(reply.body["meta"]["sample"]["types"], 50);
    service.stop().await;
}

#[tokio::test]
async fn of_a_week_of_events_a_sample_reads_those_of_the_last_day() {
    const DAY: i64 = 86_400;
    let (engine, project) = (support::engine().await, new_project());
    // Monday: a week is in one part, in which the key has to find the hours.
    let monday = (ten_days_ago() - 4 * DAY).div_euclid(7 * DAY) * 7 * DAY + 4 * DAY;
    let insert = "INSERT INTO events_in (project_id, event_id, event_type, ts, props, user_hash, received_at, retention_days) \
        SELECT {project:String}, toString(number), 'view', fromUnixTimestamp64Milli(({from:Int64} + number) * 1000, 'UTC'), \
        map('p', 'v'), number, now64(3), 730 FROM numbers(432000) SETTINGS max_partitions_per_insert_block = 1000";
    let insert = engine.writer().client().query(insert).param("project", &project).param("from", monday);
    insert.execute().await.unwrap();
    let service = Service::start(engine.reader(), &[&project], None).await;
    let range = format!("startTime={}&endTime={}", monday * 1_000, (monday + 7 * DAY) * 1_000);
    let reply = service.get(&project, &format!("/v1/event-types?{range}")).await;
    let view = named(&reply.body, "view");
    assert_eq!((&view["events"], &view["sampled_events"]), (&json!(432_000), &json!(500)), "{reply:?}");
    assert!(reply.body["meta"]["rows_read"].as_u64().unwrap() < 150_000, "{reply:?}");
    service.stop().await;
}
