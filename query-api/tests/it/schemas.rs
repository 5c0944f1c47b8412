//! Declarations at run time: registered, compared, in force without a restart, taken away, and proposed from events.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tallyhouse_control::records::SchemaDocument;
use tallyhouse_control::{ControlStore, Kind, New};
use tallyhouse_testkit::ingest_service::count;
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, new_project, ten_days_ago};

async fn service(projects: &[&str]) -> Service {
    let engine = support::engine().await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    Service::start_with(settings, projects).await
}

fn order(dimensions: &Value, replaces: u32) -> Value {
    json!({"eventType": "order", "value": "amount", "dimensions": dimensions, "replaces": replaces,
           "schema": {"properties": {"amount": {"type": "number"}}}})
}

/// Events of the type `order` that are counted under these sets.
async fn insert(project: &str, from: i64, events: u32, sets: &[&str]) {
    let dims: Vec<String> = sets.iter().map(|set| format!("('{set}', concat('v', toString(number % 2)))")).collect();
    let statement = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_hash, props, dims, received_at, retention_days) \
         SELECT '{project}', concat('{from}-', toString(number)), 'order', fromUnixTimestamp64Milli(({from} + number) * 1000, 'UTC'), 1, \
         number + 1, map('channel', concat('v', toString(number % 2))), [('country', ''), ('device', ''), ('country,device', '\x1f'){}{}], \
         now64(3), 730 FROM numbers({events})",
        if dims.is_empty() { "" } else { ", " },
        dims.join(", ")
    );
    support::execute(&support::engine().await.writer(), &statement).await.unwrap();
}

#[tokio::test]
async fn a_declaration_is_registered_compared_and_in_force_everywhere_without_a_restart() {
    let project = new_project();
    let (one, two) = (service(&[&project]).await, service(&[&project]).await);
    let admin = format!("admin-{project}");
    let register = async |body: Value| one.post(&admin, "/v1/admin/schemas", body.to_string()).await;
    let grouped = async |service: &Service| {
        service.get(&project, "/v1/metrics/events?eventType=order&groupBy=channel&granularity=hour").await
    };
    assert_eq!(grouped(&two).await.body["code"], "unknown_dimension");
    let made = register(order(&json!(["channel"]), 0)).await;
    assert_eq!((made.status, &made.body["version"]), (StatusCode::CREATED, &json!(1)), "{made:?}");
    assert_eq!(made.body["notes"][0]["pointer"], "/dimensions", "{made:?}");
    assert_eq!(grouped(&one).await.status, StatusCode::OK, "where it was registered at once");
    let began = std::time::Instant::now();
    eventually("the other instance knows the dimension", async || grouped(&two).await.status == StatusCode::OK).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    for (body, status, code) in [
        (order(&json!(["channel"]), 0), 409, "version_conflict"),
        (order(&json!(["channel"]), 7), 409, "version_conflict"),
        (
            json!({"eventType": "order", "replaces": 1, "schema": {"properties": {"amount": {"type": "string"}}}}),
            422,
            "incompatible_schema",
        ),
        (
            json!({"eventType": "order", "replaces": 1, "schema": {"properties": {"amount": {"type": "money"}}}}),
            400,
            "bad_schema",
        ),
        (
            json!({"eventType": "order", "replaces": 1, "schema": {"$ref": "https://example.org/schema.json"}}),
            400,
            "bad_schema",
        ),
        (json!({"eventType": "order", "replaces": 1, "colour": "red"}), 400, "bad_declaration"),
        (json!({"eventType": "", "dimensions": ["a"]}), 400, "bad_declaration"),
        (json!({"eventType": "order", "replaces": "one"}), 400, "bad_field"),
        (json!([]), 400, "bad_declaration"),
    ] {
        let reply = register(body.clone()).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{body} {reply:?}");
    }
    let broken = register(
        json!({"eventType": "order", "replaces": 1, "schema": {"properties": {"amount": {"type": "string"}}}}),
    )
    .await;
    assert_eq!(broken.body["breaks"][0]["pointer"], "/schema/properties/amount/type", "{broken:?}");
    let unchanged = register(order(&json!(["channel"]), 1)).await;
    assert_eq!((unchanged.status, &unchanged.body["unchanged"]), (StatusCode::OK, &json!(true)), "{unchanged:?}");
    let dry =
        one.post(&admin, "/v1/admin/schemas?dry_run=true", order(&json!(["channel", "till"]), 0).to_string()).await;
    assert_eq!((dry.status, dry.body["notes"].as_array().unwrap().len()), (StatusCode::OK, 1), "{dry:?}");

    let shown = one.get(&project, "/v1/schemas/order").await;
    assert_eq!((&shown.body["version"], &shown.body["level"]), (&json!(1), &json!("project")), "{shown:?}");
    let listed = one.get(&admin, "/v1/admin/schemas").await;
    let names: Vec<_> = listed.body["data"].as_array().unwrap().iter().map(|d| d["event_type"].clone()).collect();
    assert!(names.contains(&json!("order")) && names.contains(&json!("purchase")), "{listed:?}");
    for (key, path) in [(&project, "/v1/admin/schemas"), (&"nobody".to_owned(), "/v1/admin/schemas")] {
        let refused = one.post(key, path, order(&json!([]), 1).to_string()).await;
        assert!(matches!(refused.status.as_u16(), 401 | 403), "{refused:?}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_dimension_counts_from_its_declaration_on_and_a_cached_answer_follows_each_change() {
    let (project, from) = (new_project(), ten_days_ago());
    let service = service(&[&project]).await;
    let admin = format!("admin-{project}");
    let register = async |body: Value| {
        let reply = service.post(&admin, "/v1/admin/schemas", body.to_string()).await;
        assert!(reply.status.is_success(), "{reply:?}");
    };
    insert(&project, from, 10, &[]).await;
    register(order(&json!(["till"]), 0)).await;
    let range =
        format!("eventType=order&granularity=day&startTime={}&endTime={}", from * 1_000, (from + 86_400) * 1_000);
    let by =
        async |dimension: &str| service.get(&project, &format!("/v1/metrics/events?{range}&groupBy={dimension}")).await;
    let total = async |dimension: &str| {
        let reply = by(dimension).await;
        reply.values().iter().map(|value| value.as_f64().unwrap()).sum::<f64>()
    };
    // Nothing is counted by it yet, which is said; the same question is then in the cache.
    let early = by("till").await;
    assert_eq!(early.body["meta"]["warnings"][0]["code"], "not_rolled_up_then", "{early:?}");
    insert(&project, from + 3_600, 4, &["till"]).await;
    // An ingester would have said which day changed.
    assert!(service.delete_as_operator("/v1/cache").await.status.is_success());
    eventually("what is counted since shows", async || total("till").await == 4.0).await;
    // From raw, all are there.
    let instants = [from, from + 86_400].map(|at| jiff::Timestamp::from_second(at).unwrap().to_string());
    let raw = json!({"metrics": ["events"], "date_range": instants, "dimensions": ["channel"], "raw": true,
                     "filters": [["is", "event_type", ["order"]]]});
    let raw = async || service.post(&project, "/v1/query", raw.to_string()).await;
    let all = |reply: &tallyhouse_testkit::query_service::Reply| {
        let rows = reply.body["results"].as_array().unwrap_or_else(|| panic!("{reply:?}")).clone();
        rows.iter().map(|row| row["metrics"][0].as_f64().unwrap()).sum::<f64>()
    };
    assert_eq!(all(&raw().await), 14.0);
    // Declared now, the rollup has none of the past: raw goes on being read.
    register(order(&json!(["till", "channel"]), 1)).await;
    let after = raw().await;
    assert_eq!((all(&after), &after.body["meta"]["source"]), (14.0, &json!("events")), "{after:?}");

    // Taken away, it cannot be asked for, however fresh an answer is remembered; and again, when it is declared again.
    assert_eq!(by("till").await.status, StatusCode::OK);
    register(order(&json!(["channel"]), 2)).await;
    assert_eq!(by("till").await.status, StatusCode::BAD_REQUEST);
    insert(&project, from + 7_200, 5, &[]).await;
    register(order(&json!(["channel", "till"]), 3)).await;
    let again = by("till").await;
    assert_eq!(again.header("x-cache"), "MISS", "the answer of before is not found: {again:?}");
    eventually("what it misses is said", async || by("till").await.body["meta"]["warnings"][0]["missing_events"] == 15)
        .await;

    let gone = service.delete(&admin, "/v1/admin/schemas/order?replaces=4").await;
    assert_eq!((gone.status, &gone.body["version"]), (StatusCode::OK, &json!(5)), "{gone:?}");
    assert_eq!(service.get(&project, "/v1/schemas/order").await.status, StatusCode::NOT_FOUND);
    assert_eq!(service.delete(&admin, "/v1/admin/schemas/order?replaces=5").await.status, StatusCode::NOT_FOUND);
    let anew = service.post(&admin, "/v1/admin/schemas", order(&json!([]), 5).to_string()).await;
    assert_eq!(anew.body["version"], 6, "versions go on: {anew:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_set_that_was_kept_all_the_time_answers_for_one_that_was_declared_later() {
    let (project, from) = (new_project(), ten_days_ago());
    let engine = support::engine().await;
    // Registered long ago, as the installation began.
    let declaration = json!({"eventType": "order", "combinations": [["channel", "till"]]});
    let document = json!(SchemaDocument {
        declaration: Some(serde_json::from_value(declaration).unwrap()),
        since: Default::default()
    });
    let store = ControlStore::new(&engine.writer(), Some(&engine.writer()));
    let document = document.to_string();
    let new =
        New { kind: Kind::Schema, project: &project, name: "order", replaces: 0, document: &document, by: "test" };
    store.create(&new).await.unwrap();
    insert(&project, from, 10, &["channel,till"]).await;
    let service = service(&[&project]).await;
    let range =
        format!("eventType=order&granularity=day&startTime={}&endTime={}", from * 1_000, (from + 86_400) * 1_000);
    let total = async || {
        let reply = service.get(&project, &format!("/v1/metrics/events?{range}&groupBy=channel")).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        assert_eq!(reply.body["meta"]["warnings"], Value::Null, "{reply:?}");
        reply.values().iter().map(|value| value.as_f64().unwrap()).sum::<f64>()
    };
    eventually("the declaration is in force", async || {
        service.get(&project, "/v1/schemas/order").await.status == StatusCode::OK
    })
    .await;
    assert_eq!(total().await, 10.0);
    let more =
        json!({"eventType": "order", "dimensions": ["channel"], "combinations": [["channel", "till"]], "replaces": 1});
    let made = service.post(&format!("admin-{project}"), "/v1/admin/schemas", more.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(total().await, 10.0, "the smaller set has nothing of the past");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_who_register_one_version_one_wins_and_all_instances_have_it() {
    let project = new_project();
    let mut services = Vec::new();
    for _ in 0..4 {
        services.push(service(&[&project]).await);
    }
    let admin = format!("admin-{project}");
    let attempts = (0..200).map(|n| {
        let service = services.get(n % 4).unwrap();
        service.post(&admin, "/v1/admin/schemas", order(&json!([format!("d{n}")]), 0).to_string())
    });
    let replies = futures_util::future::join_all(attempts).await;
    let with = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!((with(StatusCode::CREATED), with(StatusCode::CONFLICT)), (1, 199));
    let winner = replies.iter().position(|reply| reply.status == StatusCode::CREATED).unwrap();
    let kept = "SELECT count() FROM control WHERE kind = 'schema' AND project_id = {project:String}";
    assert_eq!(count(&support::engine().await.writer(), &project, kept).await, 1);
    for service in &services {
        eventually("it is in force", async || {
            let shown = service.get(&project, "/v1/schemas/order").await;
            shown.body["declaration"]["dimensions"] == json!([format!("d{winner}")])
        })
        .await;
    }
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn a_schema_is_proposed_from_events_and_can_be_registered_as_it_is() {
    let (project, now_s) = (new_project(), tallyhouse_service::clock::now_ms() / 1_000 - 3_600);
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_hash, props, num_props, dims, received_at, retention_days) \
         SELECT '{project}', toString(number), 'order', fromUnixTimestamp64Milli(({now_s} - number) * 1000, 'UTC'), number + 1, \
         map('channel', if(number % 2 = 0, 'web', 'app'), 'paid', 'true', 'at', '2026-11-28T10:00:00Z', 'note', toString(cityHash64(number))), \
         map('amount', number / 2, 'items', number), [], now64(3), 730 FROM numbers(500)"
    );
    support::execute(&support::engine().await.writer(), &insert).await.unwrap();
    let service = service(&[&project]).await;
    let observed = service.get(&format!("admin-{project}"), "/v1/schemas/order/observed").await;
    assert_eq!(observed.status, StatusCode::OK, "{observed:?}");
    let properties = &observed.body["declaration"]["schema"]["properties"];
    assert_eq!(
        (&properties["channel"]["enum"], &properties["amount"]["type"]),
        (&json!(["app", "web"]), &json!("number")),
        "{observed:?}"
    );
    assert_eq!((&properties["items"]["type"], &properties["paid"]["type"]), (&json!("integer"), &json!("boolean")));
    assert_eq!((&properties["at"]["format"], &observed.body["sample"]["events"]), (&json!("date-time"), &json!(500)));
    let made =
        service.post(&format!("admin-{project}"), "/v1/admin/schemas", observed.body["declaration"].to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(
        service.get(&format!("admin-{project}"), "/v1/schemas/none/observed").await.body["code"],
        "nothing_observed"
    );
    service.stop().await;
}
