//! Dead letters: kept beside the answer, found again, sent again once, put away.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse_ingest::dead_letters::{DeadLetter, DeadLetterState, Kind, Origin, block};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;
use tallyhouse_sql::insert::insert_block;

use tallyhouse_testkit::ingest_service::{Service, count, everywhere, json};
use tallyhouse_testkit::{self as support, Folder, eventually, new_project, programs};

const OPEN: &str = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String} AND state = 'open'";

/// Writes a project's settings and gives the folder.
fn settings(data: &Folder, project: &str, settings: &str) -> String {
    let folder = data.path().join("projects");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("project.json"), format!(r#"{{"project":"{project}",{settings}}}"#)).unwrap();
    folder.display().to_string()
}

async fn keeping_dead_letters(writer: &Connection, data: &Folder, project: &str) -> Service {
    let folder = settings(data, project, r#""deadLetters":true"#);
    Service::start_with(writer.clone(), data, project, &[("TALLYHOUSE_PROJECTS", &folder)]).await
}

async fn dlq(arguments: &[&str]) -> Output {
    let url = support::engine().await.http_url();
    let mut command = tokio::process::Command::new(programs::tallyhouse());
    let env = [("CLICKHOUSE_URL", url), ("CLICKHOUSE_USER", "writer"), ("CLICKHOUSE_PASSWORD", "dev")];
    command.arg("dlq").args(arguments).envs(env).output().await.unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_is_kept_found_and_replayed_once() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = keeping_dead_letters(&writer, &data, &project).await;
    let old = now_ms() - 20 * 86_400_000;
    let body = json!([
        {"eventId": "good", "eventType": "a"},
        {"eventId": "old", "eventType": "a", "timestamp": old + 3_600_000, "sentAt": now_ms() + 3_600_000},
        {"eventId": "typeless"},
    ]);
    let reply = service.send(body.to_string()).await;
    assert_eq!((reply.status.as_u16(), json(&reply)["rejected"].as_array().unwrap().len()), (202, 2));
    eventually("two dead letters", async || count(&writer, &project, OPEN).await == 2).await;

    let listed = dlq(&["list", "--project", &project, "--json"]).await;
    let mut lines: Vec<Value> = printed(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Dead letters of one request have one time; their order among each other means nothing.
    lines.sort_by_key(|line| std::cmp::Reverse(line["code"].to_string()));
    assert_eq!(lines.iter().map(|line| &line["code"]).collect::<Vec<_>>(), ["too_old", "missing_field"]);
    assert_eq!((&lines[0]["eventId"], &lines[0]["keyId"]), (&json!("old"), &json!("ingest")));
    assert_eq!(lines[0]["reason"], json(&reply)["rejected"][0]["message"]);
    let shown = dlq(&["show", lines[1]["id"].as_str().unwrap()]).await;
    assert!(printed(&shown).contains(r#"{"eventId":"typeless"}"#), "{}", printed(&shown));

    let import = format!("import-{project}");
    let replay = ["replay", "--project", &project, "--url", &service.url, "--key", &import];
    let first = dlq(&replay).await;
    assert!(printed(&first).contains("stays open: missing_field: `eventType` is required"), "{}", printed(&first));
    assert!(printed(&first).contains("1 replayed, 1 still open") && !first.status.success(), "{}", printed(&first));
    // Whatever was marked, the event is counted once, at the time that it had.
    let again = dlq(&[&replay[..], &["--state", "all", "--code", "too_old"]].concat()).await;
    assert!(printed(&again).contains("1 replayed, 0 still open"), "{}", printed(&again));
    assert_eq!(service.send_stored(r#"{"eventType":"last"}"#).await.status, 200);
    assert_eq!(everywhere(&writer, &project).await, [3; 4]);
    let at = format!(
        "SELECT count() FROM events WHERE project_id = {{project:String}} AND event_id = 'old' \
         AND abs(toUnixTimestamp64Milli(ts) - {old}) < 5000"
    );
    assert_eq!(count(&writer, &project, &at).await, 1);

    let dry = dlq(&["discard", "--project", &project, "--dry-run"]).await;
    assert!(printed(&dry).contains("1 dead letters would be discarded"), "{}", printed(&dry));
    assert_eq!(count(&writer, &project, OPEN).await, 1);
    dlq(&["discard", "--project", &project]).await;
    assert_eq!(count(&writer, &project, OPEN).await, 0);
    // It writes what dead letters it still has.
    service.stop().await;
    let all = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String}";
    assert_eq!(count(&writer, &project, all).await, 2, "what is refused again is no other dead letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_json_is_kept_and_stopping_flushes_it() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = keeping_dead_letters(&writer, &data, &project).await;
    let endpoint = service.endpoint().header(hyper::header::CONTENT_TYPE, "application/x-ndjson").unwrap();
    let reply = endpoint.post("{\"eventType\":\"a\"}\n{oops \"quoted\"\n".into()).await.unwrap();
    assert_eq!(reply.status.as_u16(), 202);
    assert_eq!(service.metric("tallyhouse_ingest_dead_letters_dropped_total"), 0);
    service.stop().await;
    let kept = "SELECT count() FROM dead_letters WHERE project_id = {project:String} AND code = 'invalid_json' \
        AND payload = '{oops \"quoted\"' AND source_partition = -1 AND source_offset = -1";
    assert_eq!(count(&writer, &project, kept).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_did_not_ask_has_no_dead_letters() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    assert_eq!(service.send(r#"{"eventId":"typeless"}"#).await.status.as_u16(), 400);
    service.stop().await;
    assert_eq!(
        count(&writer, &project, "SELECT count() FROM dead_letters WHERE project_id = {project:String}").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_come_back_as_they_were() {
    let (writer, project) = (support::shared().await.engine.writer(), new_project());
    let id = ulid::Ulid::generate().to_string();
    let now = now_ms();
    let dead_letter = DeadLetter {
        project: project.clone(),
        id: id.clone(),
        kind: Kind::Record,
        code: "unreadable".into(),
        reason: "not JSON".into(),
        payload: vec![0xff, 0x00, 0x1f],
        event_id: String::new(),
        origin: Origin { topic: "events".into(), partition: 7, offset: 1 << 40, key_id: String::new() },
        received_at: now,
        failed_at: now,
        state: DeadLetterState::Open,
        updated_at: now,
    };
    let token = format!("test-{id}");
    for _ in 0..2 {
        let dead_letters = block(std::slice::from_ref(&dead_letter));
        insert_block(&writer.client(), "dead_letters", &token, &dead_letters, Duration::from_secs(10)).await.unwrap();
    }
    let all = "SELECT count() FROM dead_letters WHERE project_id = {project:String} AND source_offset = 1099511627776";
    assert_eq!(count(&writer, &project, all).await, 1, "the token makes both inserts one");
    let shown = dlq(&["show", &id]).await;
    assert!(printed(&shown).contains("\nff001f\n"), "{}", printed(&shown));
    let replayed =
        dlq(&["replay", "--id", &id, "--project", &project, "--url", "http://127.0.0.1:1/", "--key", "k"]).await;
    assert!(printed(&replayed).contains("it is a Kafka record"), "{}", printed(&replayed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_attaches_to_the_embedded_clickhouse_that_runs() {
    let (shared, folder) = (support::shared().await, Folder::create());
    shared.options.credentials.keep(folder.path()).unwrap();
    let mut command = tokio::process::Command::new(programs::tallyhouse());
    let output = command
        .args(["dlq", "list", "--project", "nobody"])
        .env("TALLYHOUSE_DEV", "1")
        .env("TALLYHOUSE_DATA", folder.path())
        .env("CLICKHOUSE_HTTP_PORT", shared.options.http_port.to_string())
        .output()
        .await
        .unwrap();
    // Starting another one on this port would have failed.
    assert!(output.status.success() && printed(&output).starts_with("ID "), "{}", printed(&output));
}
