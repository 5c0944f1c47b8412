//! `/v1/admin` behind its gate: operators, administrators of a project, and strangers.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tallyhouse_control::access::Gate;
use tallyhouse_control::http::routes;
use tallyhouse_control::operations::keys::NewKey;
use tallyhouse_control::operations::{Actor, Operations};
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::RateLimits;
use tallyhouse_testkit::project_names::{NO_NAMES, in_url};
use tallyhouse_testkit::{engine, route_table};
use tower::ServiceExt as _;

use crate::support::control;

/// A query service, as far as it administers.
struct Api {
    router: Router,
    operator: String,
}

impl Api {
    async fn start() -> Self {
        let control = control(&engine().await.writer(), None);
        control.refresh().await.unwrap();
        let operations = Operations::new(control.clone());
        let new = NewKey { operator: true, ..NewKey::default() };
        let operator = operations.create_key(&Actor::command_line(), new).await.unwrap().key;
        let metrics = AccessMetrics::register(&Registry::new()).unwrap();
        let gate = Gate { listener: "test", control, tokens: None, metrics, limits: RateLimits::off().unwrap() };
        Self { router: gate.protect(routes(operations)), operator }
    }

    async fn ask(&self, key: &str, line: &str, body: impl Into<Body>) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path).header("x-api-key", key);
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Status and code.
    async fn refused(&self, key: &str, line: &str, body: impl Into<Body>) -> (u16, String) {
        let (status, body) = self.ask(key, line, body).await;
        (status, body["code"].as_str().unwrap_or_else(|| panic!("{line}: {status} {body}")).to_owned())
    }

    async fn project(&self, name: &str) {
        let body = json!({ "name": name }).to_string();
        assert_eq!(self.ask(&self.operator, "POST /v1/admin/projects", body).await.0, 201, "{name}");
    }

    async fn key(&self, project: &str, scope: &str) -> (String, String) {
        let body = json!({"project": project, "scopes": [scope]}).to_string();
        let (status, made) = self.ask(&self.operator, "POST /v1/admin/keys", body).await;
        assert_eq!(status, 201, "{made}");
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }
}

fn names(body: &Value, field: &str) -> Vec<String> {
    let data = body["data"].as_array().unwrap_or_else(|| panic!("{body}"));
    data.iter().map(|entry| entry[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn an_administrator_reaches_one_project_and_nothing_of_another() {
    let api = Api::start().await;
    api.project("admin-a").await;
    api.project("admin-b").await;
    let ((own, admin), (other, _)) = (api.key("admin-a", "admin").await, api.key("admin-b", "ingest").await);
    assert_eq!(names(&api.ask(&admin, "GET /v1/admin/projects", "").await.1, "name"), ["admin-a"]);
    assert_eq!(names(&api.ask(&admin, "GET /v1/admin/keys", "").await.1, "id"), [own.as_str()]);

    let not_found = (404, "not_found".to_owned());
    for line in [
        "GET /v1/admin/projects/admin-b".to_owned(),
        "GET /v1/admin/projects/nobody".to_owned(),
        "GET /v1/admin/keys?project=admin-b".to_owned(),
        "GET /v1/admin/audit?project=admin-b".to_owned(),
        "GET /v1/admin/jobs?project=admin-b".to_owned(),
        format!("POST /v1/admin/keys/{other}/rotate"),
        format!("POST /v1/admin/keys/{other}/revoke"),
        format!("DELETE /v1/admin/keys/{other}"),
    ] {
        assert_eq!(api.refused(&admin, &line, "").await, not_found, "{line}");
    }
    let set = r#"{"settings":{"retentionDays":30}}"#;
    assert_eq!(api.refused(&admin, "PATCH /v1/admin/projects/admin-b", set).await, not_found);
    let make = |project: &str| json!({"project": project, "scopes": ["ingest"]}).to_string();
    assert_eq!(api.refused(&admin, "POST /v1/admin/keys", make("admin-b")).await, not_found);
    for (line, body) in [
        ("PATCH /v1/admin/projects/admin-a", r#"{"settings":{"tier":"enterprise"}}"#),
        ("POST /v1/admin/keys", r#"{"operator":true}"#),
    ] {
        assert_eq!(api.refused(&admin, line, body).await, (403, "operators_only".to_owned()), "{line}");
    }
    let create = api.refused(&admin, "POST /v1/admin/projects", r#"{"name":"c"}"#).await;
    assert_eq!(create, (403, "missing_right".to_owned()));

    // Nor is a line of its in the other one's audit log.
    let log = api.ask(&api.operator, "GET /v1/admin/audit?project=admin-b", "").await.1;
    let mut actions = names(&log, "action");
    actions.sort();
    assert_eq!(actions, ["keys.create", "projects.create"], "{log}");
    // A version that this process does not know is not changed by what it knows.
    let stale = r#"{"settings":{"retentionDays":30},"version":7}"#;
    assert_eq!(api.refused(&admin, "PATCH /v1/admin/projects/admin-a", stale).await, (409, "conflict".to_owned()));

    // What is its own works, and only that is in its audit log.
    assert_eq!(api.ask(&admin, "PATCH /v1/admin/projects/admin-a", set).await.0, 200);
    let (status, made) = api.ask(&admin, "POST /v1/admin/keys", r#"{"scopes":["query"]}"#).await;
    assert_eq!((status, &made["project"]), (201, &json!("admin-a")));
    let log = api.ask(&admin, "GET /v1/admin/audit", "").await.1;
    assert!(names(&log, "project").iter().all(|project| project == "admin-a"), "{log}");
    assert!(names(&log, "result").contains(&"done".to_owned()) && !log.to_string().contains(&admin), "{log}");
    assert!(!log.to_string().contains(made["key"].as_str().unwrap()), "{log}");
}

#[tokio::test]
async fn a_key_is_rotated_and_revoked() {
    let api = Api::start().await;
    api.project("turns").await;
    let (id, old) = api.key("turns", "admin").await;
    let (status, made) = api.ask(&old, &format!("POST /v1/admin/keys/{id}/rotate"), r#"{"overlap":"1h"}"#).await;
    assert_eq!((status, made["id"].as_str()), (200, Some(id.as_str())), "{made}");
    let new = made["key"].as_str().unwrap();
    for key in [&old, new] {
        assert_eq!(api.ask(key, "GET /v1/admin/keys", "").await.0, 200);
    }
    // No text outlives its key.
    let (_, brief) = api.ask(&old, "POST /v1/admin/keys", r#"{"scopes":["query"],"expires":"1m"}"#).await;
    let line = format!("POST /v1/admin/keys/{}/rotate", brief["id"].as_str().unwrap());
    let (_, rotated) = api.ask(&old, &line, r#"{"overlap":"1h"}"#).await;
    assert_eq!(rotated["previousUntil"], brief["expires"], "{brief} {rotated}");
    // Without overlap the others end at once.
    let (_, made) = api.ask(new, &format!("POST /v1/admin/keys/{id}/rotate"), r#"{"overlap":"0s"}"#).await;
    for key in [&old, new] {
        assert_eq!(api.refused(key, "GET /v1/admin/keys", "").await, (401, "expired_key".to_owned()));
    }
    let newest = made["key"].as_str().unwrap();
    let (status, revoked) = api.ask(newest, &format!("DELETE /v1/admin/keys/{id}"), "").await;
    assert_eq!((status, &revoked["state"]), (200, &json!("revoked")));
    assert_eq!(api.refused(newest, "GET /v1/admin/keys", "").await, (401, "revoked_key".to_owned()));
    let (status, _) = api.ask(&api.operator, &format!("POST /v1/admin/keys/{id}/revoke"), "").await;
    assert_eq!(status, 200, "it is revoked already");
    let line = format!("POST /v1/admin/keys/{id}/rotate");
    assert_eq!(api.refused(&api.operator, &line, "").await, (400, "invalid".to_owned()));
}

#[tokio::test]
async fn of_those_who_change_a_version_at_once_one_wins() {
    let api = Api::start().await;
    api.project("races").await;
    let change = async |n: u32| {
        let body = json!({"version": 1, "settings": {"eventsPerDay": n + 1}}).to_string();
        api.ask(&api.operator, "PATCH /v1/admin/projects/races", body).await
    };
    let outcomes = futures_util::future::join_all((0..20).map(change)).await;
    let won: Vec<_> = outcomes.iter().filter(|(status, _)| *status == 200).collect();
    let lost = outcomes.iter().filter(|(status, body)| *status == 409 && body["in_force"] == 2).count();
    assert_eq!((won.len(), lost), (1, 19), "{outcomes:?}");
    let shown = api.ask(&api.operator, "GET /v1/admin/projects/races", "").await.1;
    assert_eq!((&shown["version"], &shown["settings"]), (&json!(2), &won[0].1["settings"]));
}

#[tokio::test]
async fn what_is_not_understood_is_refused_and_named() {
    let api = Api::start().await;
    let bad_name = (400, "bad_name".to_owned());
    for name in NO_NAMES {
        let text = in_url(name);
        let mut asked = vec![
            ("POST /v1/admin/projects".to_owned(), json!({ "name": name }).to_string()),
            ("POST /v1/admin/keys".to_owned(), json!({"project": name, "scopes": ["query"]}).to_string()),
        ];
        for list in ["keys", "grants", "jobs", "audit"] {
            asked.push((format!("GET /v1/admin/{list}?project={text}"), String::new()));
        }
        // Without a name it is another path.
        if !name.is_empty() {
            asked.push((format!("GET /v1/admin/projects/{text}"), String::new()));
            asked.push((format!("PATCH /v1/admin/projects/{text}"), r#"{"settings":{}}"#.to_owned()));
        }
        for (line, body) in asked {
            assert_eq!(api.refused(&api.operator, &line, body).await, bad_name, "{line}");
        }
    }
    api.project("odd").await;
    let large = "x".repeat(70_000);
    for (line, body, expected) in [
        ("POST /v1/admin/projects", r#"{"name":"odd"}"#, (409, "exists")),
        ("POST /v1/admin/projects", "{", (400, "invalid_json")),
        ("POST /v1/admin/projects", "", (400, "invalid_json")),
        ("POST /v1/admin/projects", r#"{"name":"x","deleted":true}"#, (400, "invalid_json")),
        ("POST /v1/admin/projects", r#"{"name":"x","settings":{"deleted":true}}"#, (400, "invalid")),
        ("POST /v1/admin/projects", large.as_str(), (413, "body_too_large")),
        ("PATCH /v1/admin/projects/odd", r#"{"settings":{"tier":"gold"}}"#, (400, "invalid")),
        ("PATCH /v1/admin/projects/odd", r#"{"version":9,"settings":{}}"#, (409, "conflict")),
        ("PATCH /v1/admin/projects/%ff", r#"{"settings":{}}"#, (400, "invalid")),
        ("POST /v1/admin/keys", r#"{"project":"odd","scopes":["root"]}"#, (400, "invalid_json")),
        ("POST /v1/admin/keys", r#"{"project":"odd"}"#, (400, "invalid")),
        ("POST /v1/admin/keys", r#"{"scopes":["query"]}"#, (400, "invalid")),
        ("POST /v1/admin/keys", r#"{"project":"none","scopes":["query"]}"#, (404, "not_found")),
        ("POST /v1/admin/keys", r#"{"project":"odd","scopes":["query"],"expires":"soon"}"#, (400, "invalid")),
        ("POST /v1/admin/keys", r#"{"project":"odd","scopes":["query"],"expires":"2001-01-01"}"#, (400, "invalid")),
        ("POST /v1/admin/keys/key_none/rotate", r#"{"overlap":"1 week"}"#, (400, "invalid")),
        ("POST /v1/admin/keys/key_none/revoke", "", (404, "not_found")),
        ("GET /v1/admin/keys?limit=0", "", (400, "invalid")),
        ("GET /v1/admin/keys?projct=odd", "", (400, "invalid")),
        ("GET /v1/admin/audit?limit=1001", "", (400, "invalid")),
    ] {
        let (status, code) = api.refused(&api.operator, line, body.to_owned()).await;
        assert_eq!((status, code.as_str()), expected, "{line} {}", &body[..body.len().min(60)]);
    }
}

#[tokio::test]
async fn every_route_is_in_the_readme_and_for_nobody_without_a_right() {
    let api = Api::start().await;
    api.project("scoped").await;
    let router = routes(Operations::new(control(&engine().await.writer(), None)));
    let readme = include_str!("../../../../query-api/README.md");
    for line in route_table(router.rules()) {
        assert!(readme.contains(&line), "query-api/README.md lacks the line\n{line}");
    }
    let mut keys = Vec::new();
    for scope in ["ingest", "import", "query", "export", "sql"] {
        keys.push(api.key("scoped", scope).await.1);
    }
    for rule in router.rules().iter() {
        let path = rule.path.replace("{name}", "scoped").replace("{id}", "key_1");
        for key in &keys {
            let refused = api.refused(key, &format!("{} {path}", rule.method), "{}").await;
            assert_eq!(refused, (403, "missing_right".to_owned()), "{path}");
        }
        assert_eq!(api.refused("nobody", &format!("{} {path}", rule.method), "{}").await.0, 401, "{path}");
    }
}
