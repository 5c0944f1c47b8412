//! `tallyhouse schemas`: from a file to exact numbers, while both services run.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tallyhouse_testkit::ingest_service::{self, FOLLOWS, everywhere};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, Folder, eventually, new_project};

/// Runs a command on the ClickHouse of the tests.
async fn tallyhouse(arguments: &[&str]) -> Output {
    let engine = support::engine().await;
    let env = [("CLICKHOUSE_URL", engine.http_url()), ("CLICKHOUSE_USER", "writer"), ("CLICKHOUSE_PASSWORD", "dev")];
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.args(arguments).envs(env);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs a command on a query service, with a key.
async fn tallyhouse_at(url: &str, key: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.args(arguments).envs([("TALLYHOUSE_URL", url), ("TALLYHOUSE_KEY", key)]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn file(folder: &Path, document: &Value) -> String {
    let path = folder.join("order.json");
    std::fs::write(&path, document.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dimension_of_a_file_is_counted_within_seconds_and_back_filled() {
    let (data, project, writer) = (Folder::create(), new_project(), support::shared().await.engine.writer());
    let ingest = ingest_service::Service::start_with(writer.clone(), &data, &project, &[(FOLLOWS, "1")]).await;
    let engine = support::engine().await;
    let settings =
        Settings { writer: Some(engine.writer()), days: Some(ingest.days.clone()), ..Settings::of(engine.reader()) };
    let query = Service::start_with(settings, &[&project]).await;
    let orders = |ids: std::ops::Range<u32>| {
        let order = |n: u32| json!({"eventId": n.to_string(), "eventType": "order", "properties": {"channel": format!("c{}", n % 2), "amount": n}});
        Value::from_iter(ids.map(order)).to_string()
    };
    let by_channel = async || {
        query.get(&project, "/v1/metrics/events?eventType=order&groupBy=channel&granularity=hour&fresh=true").await
    };
    let total = async || by_channel().await.values().iter().map(|value| value.as_f64().unwrap()).sum::<f64>();
    assert_eq!(ingest.send_stored(orders(0..5)).await.status, 200);

    let unknown = tallyhouse(&["schemas", "list", "--project", &project]).await;
    assert!(!unknown.status.success() && printed(&unknown).contains("there is no project"), "{unknown:?}");
    let made = tallyhouse(&["projects", "create", &project]).await;
    assert!(made.status.success(), "{made:?}");
    let absent = tallyhouse(&["schemas", "apply", "--project", &project, "--json", "absent.json"]).await;
    let absent_results: Value = serde_json::from_slice(&absent.stdout).unwrap();
    assert!(!absent.status.success() && absent_results[0]["error"].as_str().unwrap().contains("absent.json"));
    let wrong =
        file(data.path(), &json!({"eventType": "order", "schema": {"properties": {"amount": {"type": "money"}}}}));
    let refused = tallyhouse(&["schemas", "apply", "--project", &project, &wrong]).await;
    assert!(!refused.status.success() && printed(&refused).contains("/schema/properties/amount/type"), "{refused:?}");
    let schema = json!({"properties": {"amount": {"type": "number"}}});
    let path = file(
        data.path(),
        &json!({"eventType": "order", "value": "amount", "dimensions": ["channel"], "schema": schema}),
    );
    let diff = tallyhouse(&["schemas", "diff", "--project", &project, &path]).await;
    assert!(diff.status.success() && printed(&diff).contains("order  new"), "{diff:?}");
    let applied = tallyhouse(&["schemas", "apply", "--project", &project, &path]).await;
    assert!(applied.status.success() && printed(&applied).contains("registered (version 1)"), "{applied:?}");
    let began = Instant::now();
    // One event, however often it is sent until it is refused.
    let violation = json!({"eventId": "probe", "eventType": "order", "properties": {"amount": "much"}}).to_string();
    eventually("the ingester enforces it", async || ingest.send(violation.clone()).await.status == 400).await;
    eventually("the query API knows it", async || by_channel().await.status == 200).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    assert_eq!(ingest.send_stored(orders(100..107)).await.status, 200);
    // An answer may be a second old, and is asked for anew once in five.
    eventually("what came since it was declared is counted", async || total().await == 7.0).await;
    let again = tallyhouse(&["schemas", "apply", "--project", &project, "--json", &path]).await;
    assert!(printed(&again).contains(r#""unchanged":true"#), "{again:?}");
    let filled = tallyhouse(&["rollups", "backfill", "--project", &project, "--dimension", "channel"]).await;
    assert!(filled.status.success(), "{}", printed(&filled));
    let all = everywhere(&writer, &project).await;
    assert!(all == [12; 4] || all == [13; 4], "the probe may have come before: {all:?}");
    eventually("what was stored before counts too", async || total().await == all[0] as f64).await;

    let listed = tallyhouse(&["schemas", "list", "--project", &project, "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let order = listed.as_array().unwrap().iter().find(|entry| entry["declaration"]["eventType"] == "order").unwrap();
    assert_eq!((&order["version"], &order["level"]), (&json!(1), &json!("project")));
    let deleted = tallyhouse(&["schemas", "delete", "--project", &project, "order"]).await;
    assert!(deleted.status.success(), "{deleted:?}");
    let shown = tallyhouse(&["schemas", "show", "--project", &project, "order"]).await;
    assert!(!shown.status.success() && printed(&shown).contains("is not declared"), "{shown:?}");

    // The same over the admin API: one that was taken away is registered again.
    let (url, key) = (query.url().to_owned(), format!("admin-{project}"));
    let remote = async |arguments: &[&str]| tallyhouse_at(&url, &key, arguments).await;
    let path = file(data.path(), &json!({"eventType": "order"}));
    eventually("the query API knows that it was taken away", async || {
        query.get(&project, "/v1/schemas/order").await.status == 404
    })
    .await;
    let applied = remote(&["schemas", "apply", "--project", &project, &path]).await;
    assert!(printed(&applied).contains("order  registered (version 3)"), "{applied:?}");
    let listed = remote(&["schemas", "list", "--project", &project]).await;
    assert!(printed(&listed).contains("order"), "{listed:?}");
    let deleted = remote(&["schemas", "delete", "--project", &project, "order"]).await;
    assert!(printed(&deleted).contains("taken away (version 4)"), "{deleted:?}");
    let other = remote(&["schemas", "list", "--project", "other"]).await;
    assert!(!other.status.success() && printed(&other).contains("no project `other`"), "{other:?}");
    ingest.stop().await;
    query.stop().await;
}
