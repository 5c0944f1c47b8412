//! People are exported and erased, and a project deleted, over HTTP.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tallyhouse_sql::Connection;
use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{Folder, ask, engine_in, eventually, execute, ten_days_ago};

const SHOP: &str = "shop";

/// Of a project that is made and deleted.
const LEAVING: &str = "leaving";

/// Ten events of Ann and ten of Bob, and a dead letter of each.
async fn insert(writer: &Connection, project: &str) {
    let from = ten_days_ago();
    let events = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, user_hash, received_at, retention_days) \
         SELECT '{project}', concat('e', toString(number)), 'view', fromUnixTimestamp64Milli(({from} + number) * 1000, 'UTC'), \
         ['ann', 'bob'][number % 2 + 1], number % 2 + 1, now64(3) - 5, 730 FROM numbers(20) SETTINGS async_insert = 0"
    );
    let dead_letters = format!(
        "INSERT INTO tallyhouse.dead_letters (project_id, id, kind, payload, received_at, failed_at) \
         SELECT '{project}', user, 'json', concat('{{\"userId\":\"', user, '\"}}'), now64(3) - 5, now64(3) \
         FROM (SELECT arrayJoin(['ann', 'bob']) AS user) SETTINGS async_insert = 0"
    );
    for statement in [events, dead_letters] {
        execute(writer, &statement).await.unwrap();
    }
}

async fn rows(writer: &Connection, project: &str) -> [u64; 2] {
    let mut found = [0; 2];
    for (table, found) in ["events", "dead_letters"].into_iter().zip(&mut found) {
        let sql = format!("SELECT count() FROM tallyhouse.{table} WHERE project_id = '{project}'");
        *found = ask(writer, &sql).await.unwrap().parse().unwrap();
    }
    found
}

async fn counted(service: &Service) -> Value {
    let from = ten_days_ago() / 86_400 * 86_400;
    let range = format!("startTime={}&endTime={}", from * 1_000, (from + 2 * 86_400) * 1_000);
    let reply = service.get(SHOP, &format!("/v1/metrics/events?granularity=day&{range}")).await;
    reply.values().iter().filter_map(Value::as_u64).sum::<u64>().into()
}

#[tokio::test]
async fn people_and_projects_are_exported_erased_and_deleted() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    insert(&writer, SHOP).await;
    insert(&writer, "neighbour").await;
    let settings = Settings { writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings.with("USER_HASH_KEY", &"07".repeat(16)), &[SHOP, "neighbour"]).await;
    let (admin, ann) = (format!("admin-{SHOP}"), json!({"userId": "ann"}).to_string());

    refuses(&service, &admin, &ann).await;
    exports(&service, &admin, &ann).await;

    assert_eq!(counted(&service).await, 20);
    let asked = service.post(&admin, "/v1/privacy/erasures", ann).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    let path = asked.header("location").to_owned();
    assert_eq!(path, format!("/v1/privacy/erasures/{}", asked.body["id"].as_str().unwrap()));
    eventually("answers are right", async || service.get(&admin, &path).await.body["answersAreRight"] == true).await;
    assert_eq!(counted(&service).await, 10, "also those that were cached");
    assert_eq!((rows(&writer, SHOP).await, rows(&writer, "neighbour").await), ([10, 1], [20, 2]));
    let job = service.get(&admin, &path).await;
    assert_eq!((&job.body["counts"]["rawEvents"], &job.body["counts"]["deadLetters"]), (&json!(10), &json!(1)));
    assert_eq!(service.get("admin-neighbour", &path).await.status, StatusCode::NOT_FOUND);

    deletes(&service, &writer).await;
    assert_eq!((rows(&writer, SHOP).await, rows(&writer, "neighbour").await), ([10, 1], [20, 2]));
    service.stop().await;
    engine.stop(std::time::Duration::from_secs(10)).await;
}

async fn refuses(service: &Service, admin: &str, ann: &str) {
    for (key, path, body, status, code) in [
        (SHOP, "erasures", ann, 403, "missing_right"),
        (SHOP, "exports", ann, 403, "missing_right"),
        ("operator", "exports?project=shop", ann, 403, "missing_right"),
        ("operator", "erasures", ann, 400, "bad_parameter"),
        (admin, "erasures?project=neighbour", ann, 404, "not_found"),
        (admin, "erasures", "{}", 400, "bad_person"),
        (admin, "exports", r#"{"userId":"ann","keepSuppressed":true}"#, 400, "bad_person"),
    ] {
        let reply = service.post(key, &format!("/v1/privacy/{path}"), body.to_owned()).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{key} {path} {reply:?}");
    }
}

async fn exports(service: &Service, admin: &str, ann: &str) {
    let exported = service.post(admin, "/v1/privacy/exports", ann.to_owned()).await;
    assert_eq!((exported.status, exported.header("content-type")), (StatusCode::OK, "application/x-ndjson"));
    let lines: Vec<Value> =
        exported.body.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |table: &str| lines.iter().filter(|line| line["table"] == table).count();
    assert_eq!((of("events"), of("dead_letters"), lines.len()), (10, 1, 11), "{lines:?}");
    assert!(lines.iter().all(|line| line["project_id"] == SHOP) && !exported.body.to_string().contains("bob"));
}

async fn deletes(service: &Service, writer: &Connection) {
    let operate = async |method, path: &str, body| {
        let headers = [("x-api-key", "operator"), ("content-type", "application/json")];
        Reply::of(service.request(method, &format!("/v1/admin/projects{path}"), &headers, body).await).await
    };
    let made = operate(Method::POST, "", r#"{"name":"leaving"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    insert(writer, LEAVING).await;
    let delete = async |body| operate(Method::DELETE, "/leaving", body).await;
    let misspelt = delete(r#"{"confirm":"leavin"}"#).await;
    assert_eq!((misspelt.status, &misspelt.body["field"]), (StatusCode::BAD_REQUEST, &json!("confirm")));
    assert_eq!(rows(writer, LEAVING).await, [20, 2]);
    assert_eq!(delete(r#"{"confirm":"leaving"}"#).await.status, StatusCode::ACCEPTED);
    eventually("nothing is left", async || rows(writer, LEAVING).await == [0, 0]).await;
    assert_eq!(delete(r#"{"confirm":"leaving"}"#).await.status, StatusCode::NOT_FOUND);
}
