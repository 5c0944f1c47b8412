//! Who may do what: each route with each scope of a key, each role of a person, an operator, and strangers.

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tallyhouse_control::operations::Operations;
use tallyhouse_control::{Control, FixedKeys};
use tallyhouse_query_api::http::routes;
use tallyhouse_service::access::{Access, GuardedRouter, Right, Role, Scope};
use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{self as support, IdentityProvider, route_table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A route, a request to it, what whoever may ask is answered, and who that is.
struct Line {
    rule: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    scopes: &'static [&'static str],
    roles: &'static [&'static str],
}

const READERS: &[&str] = &["viewer", "developer", "analyst", "admin"];

const fn reads(rule: &'static str, path: &'static str, status: u16) -> Line {
    Line { rule, path, body: "", status, scopes: &["query"], roles: READERS }
}

/// Of our own routes; those of the control plane are tested beside it.
const LINES: [Line; 13] = [
    reads("GET /v1/metrics", "/v1/metrics", 200),
    Line {
        rule: "POST /v1/metrics",
        path: "/v1/metrics",
        body: "{}",
        status: 400,
        scopes: &["admin"],
        roles: &["developer", "analyst", "admin"],
    },
    reads("GET /v1/metrics/{name}", "/v1/metrics/events", 200),
    reads("GET /v1/metrics/{name}/stream", "/v1/metrics/events/stream", 200),
    reads("GET /v1/metrics/{name}/anomalies", "/v1/metrics/events/anomalies?granularity=day", 422),
    Line {
        rule: "POST /v1/query",
        path: "/v1/query",
        body: r#"{"metrics":["events"],"date_range":"24h"}"#,
        status: 200,
        scopes: &["query"],
        roles: READERS,
    },
    reads("GET /v1/dashboards/realtime", "/v1/dashboards/realtime", 200),
    reads("GET /v1/reports/daily", "/v1/reports/daily", 200),
    reads("GET /v1/event-types", "/v1/event-types", 200),
    reads("GET /v1/schemas/{type}", "/v1/schemas/purchase", 200),
    Line {
        rule: "GET /v1/schemas/{type}/observed",
        path: "/v1/schemas/purchase/observed",
        body: "",
        status: 404,
        scopes: &["admin"],
        roles: &["developer", "admin"],
    },
    Line {
        rule: "POST /v1/sql",
        path: "/v1/sql",
        body: r#"{"sql":"SELECT 1"}"#,
        status: 200,
        scopes: &["sql"],
        roles: &["analyst", "admin"],
    },
    Line {
        rule: "GET /v1/export",
        path: "/v1/export",
        body: "",
        status: 200,
        scopes: &["export"],
        roles: &["analyst", "admin"],
    },
];

async fn service(provider: &IdentityProvider, projects: &[&str]) -> Service {
    let engine = support::engine().await;
    let settings =
        Settings { analyst: Some(engine.analyst()), writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let settings =
        provider.variables().into_iter().fold(settings, |settings, (name, value)| settings.with(name, value));
    Service::start_with(settings, projects).await
}

/// Status and code. Streams go on, so nothing of a good answer is read.
async fn ask(service: &Service, line: &Line, headers: &[(&str, &str)]) -> (u16, String) {
    let (method, _) = line.rule.split_once(' ').unwrap();
    let json = [("content-type", "application/json")];
    let response = service.request(method.parse().unwrap(), line.path, &[headers, &json].concat(), line.body).await;
    if response.status().is_success() {
        return (response.status().as_u16(), String::new());
    }
    let Reply { status, body, .. } = Reply::of(response).await;
    (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_route_is_for_who_has_its_right_and_nobody_else() {
    let provider = IdentityProvider::start().await;
    let service = service(&provider, &["x", "y"]).await;
    let bearer = |roles: Value| format!("Bearer {}", provider.token(&roles));
    let weak = provider.sign(&json!({"tallyhouse": {"projects": {"x": "admin"}}}));
    let (of_y, weak) = (bearer(json!({"y": "admin"})), format!("Bearer {weak}"));
    let nobody = bearer(json!({"x": "root"}));
    for line in &LINES {
        let is = async |who: &str, headers: &[(&str, &str)], expected: (u16, &str)| {
            let answer = ask(&service, line, headers).await;
            assert_eq!((answer.0, answer.1.as_str()), expected, "{} as {who}", line.rule);
        };
        let allowed = async |who: &str, may: bool, headers: &[(&str, &str)]| {
            let (status, code) = ask(&service, line, headers).await;
            match may {
                true => assert_eq!(status, line.status, "{} as {who}: {code}", line.rule),
                false => assert_eq!((status, code.as_str()), (403, "missing_right"), "{} as {who}", line.rule),
            }
        };
        is("nobody", &[], (401, "missing_key")).await;
        is("a stranger", &[("x-api-key", "nobody")], (401, "unknown_key")).await;
        is("an operator", &[("x-api-key", "operator")], (403, "missing_right")).await;
        for scope in Scope::ALL.map(Scope::name) {
            let key = format!("only-{scope}-x");
            allowed(scope, line.scopes.contains(&scope), &[("x-api-key", &key)]).await;
            let other = [("x-api-key", key.as_str()), ("x-tallyhouse-project", "y")];
            is("a key of another project", &other, (403, "wrong_project")).await;
        }
        for role in Role::ALL.map(Role::name) {
            let token = bearer(json!({"x": role, "y": "admin"}));
            let headers = [("authorization", token.as_str()), ("x-tallyhouse-project", "x")];
            allowed(role, line.roles.contains(&role), &headers).await;
            is("no project", &headers[..1], (400, "project_needed")).await;
        }
        allowed("an administrator without a second factor", !line.roles.is_empty(), &[("authorization", &weak)]).await;
        let other = [("authorization", of_y.as_str()), ("x-tallyhouse-project", "x")];
        is("somebody of another project", &other, (403, "wrong_project")).await;
        is("nobody's role", &[("authorization", &nobody)], (403, "no_project")).await;
        let key = ("x-api-key", "admin-x");
        is("two", &[key, ("authorization", of_y.as_str())], (400, "ambiguous_credentials")).await;
    }
    assert_eq!(provider.asked(), 1);
    service.stop().await;
}

/// All that administers, and what whoever may is answered where nothing is kept.
#[tokio::test]
async fn only_administrators_and_operators_administer() {
    let provider = IdentityProvider::start().await;
    let service = service(&provider, &["x", "y"]).await;
    let (admin, weak) = (json!({"x": "admin"}), json!({"tallyhouse": {"projects": {"x": "admin"}}}));
    let (admin, weak) = (format!("Bearer {}", provider.token(&admin)), format!("Bearer {}", provider.sign(&weak)));
    for rule in admin_routes().rules().iter() {
        let path = rule.path.replace("{name}", "z").replace("{id}", "z");
        let is_of_operators = rule.access == Access::Needs(Right::ManageInstallation);
        let ask = async |headers: &[(&str, &str)]| {
            let json = [("content-type", "application/json")];
            let response = service.request(rule.method.clone(), &path, &[headers, &json].concat(), "{}").await;
            let Reply { status, body, .. } = Reply::of(response).await;
            (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
        };
        let denied = |status: u16, code: &str| (status, code.to_owned());
        assert_eq!(ask(&[]).await, denied(401, "missing_key"), "{path}");
        for scope in Scope::ALL.map(Scope::name) {
            let answer = ask(&[("x-api-key", &format!("only-{scope}-x"))]).await;
            let may = scope == "admin" && !is_of_operators;
            assert_eq!(answer == denied(403, "missing_right"), !may, "{path} with {scope}: {answer:?}");
            assert_ne!(answer.0, 401);
        }
        for role in Role::ALL.map(Role::name) {
            let token = format!("Bearer {}", provider.token(&json!({"x": role})));
            let answer = ask(&[("authorization", &token)]).await;
            let may = role == "admin" && !is_of_operators;
            assert_eq!(answer == denied(403, "missing_right"), !may, "{path} as {role}: {answer:?}");
        }
        let expected = if is_of_operators { "missing_right" } else { "second_factor_needed" };
        assert_eq!(ask(&[("authorization", &weak)]).await, denied(403, expected), "{path}");
        let elsewhere = [("authorization", admin.as_str()), ("x-tallyhouse-project", "y")];
        assert_eq!(ask(&elsewhere).await, denied(403, "wrong_project"), "{path}");
        let (status, code) = ask(&[("x-api-key", "operator")]).await;
        assert!(status != 401 && code != "missing_right", "{path}: {status} {code}");
    }
    service.stop().await;
}

fn admin_routes() -> GuardedRouter {
    tallyhouse_control::http::routes(Operations::new(Control::fixed(FixedKeys::default())))
}

#[test]
fn every_route_has_a_line_above_and_one_in_the_readme() {
    let rules: Vec<_> = routes().rules().iter().cloned().collect();
    let others = rules.iter().filter(|rule| !rule.path.starts_with("/v1/admin/"));
    let names: Vec<String> = others.map(|rule| format!("{} {}", rule.method, rule.path)).collect();
    assert_eq!(names, LINES.map(|line| line.rule));
    assert!(rules.iter().all(|rule| matches!(rule.access, Access::Needs(_))), "none is public yet");
    let readme = include_str!("../../README.md");
    for line in [route_table(routes().rules()), route_table(admin_routes().rules())].concat() {
        assert!(readme.contains(&line), "README.md lacks the line\n{line}");
    }
}

#[tokio::test]
async fn tokens_are_for_the_project_that_they_name() {
    let provider = IdentityProvider::start().await;
    let service = service(&provider, &["x", "y"]).await;
    let get = async |token: &str, project: Option<&str>| {
        let bearer = format!("bearer {token}");
        let headers = [Some(("authorization", bearer.as_str())), project.map(|name| ("x-tallyhouse-project", name))];
        let headers: Vec<_> = headers.into_iter().flatten().collect();
        let reply = service.get_with("/v1/metrics/events", &headers).await;
        (reply.status.as_u16(), reply.body["code"].as_str().unwrap_or_default().to_owned())
    };
    let answer = |status: u16, code: &str| (status, code.to_owned());
    let both = provider.token(&json!({"x": "viewer", "y": "viewer", "gone": "viewer"}));
    assert_eq!(get(&both, Some("x")).await, answer(200, ""));
    assert_eq!(get(&both, Some("y")).await, answer(200, ""));
    for other in ["z", "gone", "X", "x/../y", "x,y", ""] {
        assert_eq!(get(&both, Some(other)).await, answer(403, "wrong_project"), "{other}");
    }
    let lists = provider.sign(&json!({"projects": ["y"], "roles": ["viewer"]}));
    assert_eq!(get(&lists, None).await, answer(200, ""));
    assert_eq!(get(&format!("{both}x"), Some("x")).await, answer(401, "invalid_token"));
    assert_eq!(get(&both[..both.rfind('.').unwrap() + 1], Some("x")).await, answer(401, "invalid_token"));
    let expired = provider.sign(&json!({"exp": 1_000_000_000, "projects": "x", "roles": "viewer"}));
    let reply = service.get_with("/v1/metrics", &[("authorization", &format!("Bearer {expired}"))]).await;
    assert_eq!((reply.status, &reply.body["code"]), (StatusCode::UNAUTHORIZED, &json!("expired_token")));
    assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"tallyhouse\", error=\"invalid_token\"");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_credentials_is_refused_and_asks_nobody() {
    let provider = IdentityProvider::start().await;
    let service = service(&provider, &["x"]).await;
    let good = provider.token(&json!({"x": "viewer"}));
    let [head, body, _] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let flood = (0..10).map(async |part: u32| {
        for n in 0..200 {
            let headers = match n % 4 {
                0 => ("x-api-key", format!("wrong-{part}-{n}")),
                1 => ("x-api-key", format!("th_qry_{part:021}{n:021}")),
                2 => ("authorization", format!("Bearer {head}.{body}.{part:043}{n:043}")),
                // {"alg":"ES256","kid":"invented"}
                _ => ("authorization", format!("Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Imludm{part}udGVkIn0.{body}.AA")),
            };
            let reply = service.get_with("/v1/metrics", &[(headers.0, headers.1.as_str())]).await;
            assert_eq!(reply.status, 401, "{headers:?}: {:?}", reply.body);
        }
    });
    join_all(flood).await;
    assert_eq!(service.counted("tallyhouse_http_denied_total", ""), 2_000);
    assert!(provider.asked() <= 2, "{}", provider.asked());
    assert_eq!(service.queries(), 0);
    assert_eq!(service.get("x", "/v1/metrics").await.status, 200);
    service.stop().await;
}

/// The first line of what comes back for a head that is sent as it is.
async fn raw(service: &Service, head: &str) -> String {
    let mut stream = TcpStream::connect(service.url().trim_start_matches("http://")).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn neither_paths_nor_headers_get_round_a_rule() {
    let provider = IdentityProvider::start().await;
    let service = service(&provider, &["x", "y"]).await;
    let key = "host: x\r\nconnection: close\r\nx-api-key: only-query-x\r\n";
    for (line, status) in [
        ("GET /v1/metrics HTTP/1.1", "200"),
        ("GET //v1/metrics HTTP/1.1", "404"),
        ("GET /v1//metrics HTTP/1.1", "404"),
        ("GET /v1/metrics/ HTTP/1.1", "404"),
        ("GET /v1/export/../metrics HTTP/1.1", "404"),
        ("GET /v1/./export HTTP/1.1", "404"),
        ("GET /v1%2Fexport HTTP/1.1", "404"),
        ("GET /v1/metrics%2F..%2Fexport HTTP/1.1", "404"),
        ("GET /v1/metrics/..%2F..%2Fexport HTTP/1.1", "404"),
        ("GET /v1/export HTTP/1.1", "403"),
        ("GET /v1/export?key=only-export-x HTTP/1.1", "400"),
        ("GET /v1/%65xport HTTP/1.1", "404"),
        ("GET http://x/v1/export HTTP/1.1", "403"),
        ("HEAD /v1/export HTTP/1.1", "403"),
        ("POST /v1/export HTTP/1.1", "405"),
        ("TRACE /v1/metrics HTTP/1.1", "405"),
        ("FETCH /v1/metrics HTTP/1.1", "405"),
        ("GET /v1/metrics\u{0} HTTP/1.1", "400"),
        ("GET /v1/metrics HTTP/1.1\r\nx-api-key: only-export-x", "400"),
        ("GET /v1/metrics HTTP/1.1\r\nX-Tallyhouse-Project: y", "403"),
        ("GET /v1/metrics HTTP/1.1\r\nx-tallyhouse-project: x\r\n y", "400"),
        ("GET /v1/metrics HTTP/1.1\r\nauthorization: Basic b25seS1leHBvcnQteDo=", "400"),
        ("GET /v1/metrics HTTP/1.1\r\nauthorization: Basic b25seS1xdWVyeS14Og==", "200"),
    ] {
        let answer = raw(&service, &format!("{line}\r\n{key}\r\n")).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{line}: {answer}");
    }
    let long = format!(
        "GET /v1/metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n\r\n",
        "k".repeat(20_000)
    );
    assert!(raw(&service, &long).await.contains(" 400 "));
    let method = service.request(Method::DELETE, "/v1/metrics", &[("x-api-key", "x")], "").await;
    assert_eq!(method.headers()["allow"], "GET, POST, HEAD");
    service.stop().await;
}
