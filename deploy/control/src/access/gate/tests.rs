use axum::body::Bytes;
use axum::http::{HeaderName, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tallyhouse_service::access::Scope;
use tallyhouse_service::access::tokens::{Signer, TokenSettings};
use tallyhouse_service::cors::Origins;
use tallyhouse_testkit::IdentityProvider;
use tallyhouse_testkit::project_names::{NAMES, NO_NAMES};
use tower::ServiceExt as _;

use super::*;
use crate::snapshot::{FixedKey, FixedKeys};

const PAGE: &str = "https://app.example";

fn control() -> Control {
    let mut keys = FixedKeys::default();
    let of = |project: &str, scopes: &[Scope]| FixedKey::new(project, &format!("id-{project}"), scopes);
    keys.add("secret", of("shop", &[Scope::Ingest, Scope::Query]));
    keys.add("public", of("shop", &[Scope::Browser]).with_origins(Origins::Listed(vec![PAGE.parse().unwrap()])));
    keys.add("other", of("blog", &[Scope::Ingest, Scope::Query]));
    Control::fixed(keys)
}

/// What a handler sees.
async fn seen(Caller(caller): Caller, uri: Uri, headers: HeaderMap, body: Bytes) -> String {
    let announced = headers.get(header::CONTENT_LENGTH).map_or("-", |length| length.to_str().unwrap());
    format!("{} {uri} {announced} {}", caller.project().unwrap(), String::from_utf8_lossy(&body))
}

fn router() -> Router {
    let guarded = GuardedRouter::default()
        .post("/v1/events", Access::NeedsOrKeyInBody(Right::SendEvents), seen)
        .get("/v1/metrics/{name}", Access::Needs(Right::ReadMetrics), seen)
        .post("/v1/sql", Access::Needs(Right::Sql), seen)
        .get("/", Access::Public, async || "page")
        .map(|router| {
            router
                .route("/v1/forgotten", axum::routing::get(seen))
                .route("/v1/sql", axum::routing::delete(seen))
                .fallback(async || StatusCode::NOT_FOUND)
        });
    let metrics = AccessMetrics::unregistered().unwrap();
    Gate { listener: "test", control: control(), tokens: None, metrics, limits: RateLimits::off().unwrap() }
        .protect(guarded)
}

/// Status, and code or what the handler saw.
async fn ask(line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (u16, String) {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(uri);
    for (name, value) in headers {
        request =
            request.header(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let response = router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let code = serde_json::from_str::<Value>(&text).ok().and_then(|body| Some(body["code"].as_str()?.to_owned()));
    (status.as_u16(), code.unwrap_or(text))
}

async fn asked(line: &str, headers: &[(&str, &str)]) -> (u16, String) {
    ask(line, headers, Body::empty()).await
}

fn said(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

const SECRET: (&str, &str) = ("x-api-key", "secret");
const PUBLIC: (&str, &str) = ("x-api-key", "public");

#[tokio::test]
async fn what_has_no_rule_is_refused() {
    assert_eq!(asked("GET /", &[]).await, said(200, "page"));
    assert_eq!(asked("GET /v1/metrics/events", &[]).await, said(401, "missing_key"));
    assert_eq!(asked("GET /v1/metrics/events", &[SECRET]).await, said(200, "shop /v1/metrics/events - "));
    assert_eq!(asked("POST /v1/sql", &[SECRET]).await, said(403, "missing_right"));
    assert_eq!(asked("GET /v1/forgotten", &[SECRET]).await, said(403, "no_rule"));
    assert_eq!(asked("DELETE /v1/sql", &[SECRET]).await, said(405, "method_not_allowed"));
    assert_eq!(asked("OPTIONS /v1/sql", &[]).await, said(405, "method_not_allowed"));
    for nowhere in
        ["//v1/metrics/events", "/v1/metrics/a/../events", "/v1/metrics/", "/V1/sql", "/v1/sql/", "/v1%2fsql"]
    {
        assert_eq!(asked(&format!("GET {nowhere}"), &[SECRET]).await.0, 404, "{nowhere}");
    }
    let encoded = asked("GET /v1/metrics/..%2f..%2fsql", &[SECRET]).await;
    assert_eq!(encoded, said(200, "shop /v1/metrics/..%2f..%2fsql - "), "a name, not a path");
}

#[tokio::test]
async fn a_secret_key_is_only_in_headers() {
    for line in ["POST /v1/events?key=secret", "GET /v1/metrics/events?k%65y=secret"] {
        assert_eq!(asked(line, &[]).await, said(403, "key_in_wrong_place"), "{line}");
        assert_eq!(asked(line, &[SECRET]).await, said(403, "key_in_wrong_place"), "{line}, and in a header");
    }
    let beacon = ask("POST /v1/events", &[("content-type", "text/plain")], r#"{"key":"secret","eventType":"a"}"#).await;
    assert_eq!(beacon, said(403, "key_in_wrong_place"));
    assert_eq!(asked("POST /v1/events?key=wrong", &[]).await, said(401, "unknown_key"));
    assert_eq!(asked("POST /v1/events?key=public", &[SECRET]).await, said(400, "ambiguous_credentials"));
}

#[tokio::test]
async fn a_browsers_key_is_taken_out_of_where_it_stands() {
    let uri = asked("POST /v1/events?wait=stored&key=public", &[]).await;
    assert_eq!(uri, said(200, "shop /v1/events?wait=stored - "));
    assert_eq!(asked("POST /v1/events?key=public", &[PUBLIC]).await, said(200, "shop /v1/events - "));
    let text = [("content-type", "text/plain;charset=UTF-8"), ("content-length", "38")];
    let body = ask("POST /v1/events", &text, r#"{"key": "public", "eventType": "a"}   "#).await;
    assert_eq!(body, said(200, r#"shop /v1/events - {"eventType":"a"}"#));
    let property = ask("POST /v1/events", &[PUBLIC, text[0]], r#"{"key":"secret"}"#).await;
    assert_eq!(property, said(200, r#"shop /v1/events - {"key":"secret"}"#));
    assert_eq!(asked("GET /v1/metrics/events?key=public", &[]).await, said(403, "missing_right"));
}

#[tokio::test]
async fn a_body_is_looked_into_only_where_a_beacon_is_taken() {
    let body = r#"{"key":"public","eventType":"a"}"#;
    for kind in ["application/json", "application/x-www-form-urlencoded", "text/plainer", "text"] {
        assert_eq!(ask("POST /v1/events", &[("content-type", kind)], body).await, said(401, "missing_key"), "{kind}");
    }
    let text = ("content-type", "text/plain");
    let gzip = [text, ("content-encoding", "gzip")];
    assert_eq!(ask("POST /v1/events", &gzip, body).await, said(401, "missing_key"));
    assert_eq!(ask("POST /v1/sql", &[text], body).await, said(401, "missing_key"));
    for none in ["", "[]", r#"[{"key":"public"}]"#, r#"{"events":[{"key":"public"}]}"#, "{"] {
        assert_eq!(ask("POST /v1/events", &[text], none).await, said(401, "missing_key"), "{none}");
    }
    let long = format!(r#"{{"key":"public","a":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(ask("POST /v1/events", &[text], long).await, said(413, "body_too_large"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let pending = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let late = ask("POST /v1/events", &[("content-type", "text/plain")], pending()).await;
    assert_eq!(late, said(408, "body_timeout"));
    let beacons = Beacons::default();
    let mut reading: Vec<_> = (0..256).map(|_| Box::pin(beacons.read(pending()))).collect();
    for read in &mut reading {
        assert!(futures_util::poll!(read.as_mut()).is_pending());
    }
    assert_eq!(beacons.read(pending()).await.unwrap_err(), Denied::Busy);
    assert_eq!(reading.pop().unwrap().await.unwrap_err(), Denied::NoBody);
    drop(reading);
    assert!(beacons.read(Body::from(r#"{"key":"a"}"#)).await.is_ok());
}

#[tokio::test]
async fn only_pages_that_a_browsers_key_names_may_use_it() {
    let with = async |origin: &str| asked("POST /v1/events", &[PUBLIC, ("origin", origin)]).await.0;
    assert_eq!(with(PAGE).await, 200);
    for other in ["https://evil.example", "null", "http://app.example", "https://app.example.evil", ""] {
        assert_eq!(with(other).await, 403, "{other}");
    }
    assert_eq!(asked("POST /v1/events", &[SECRET, ("origin", "https://evil.example")]).await.0, 200);
    let page = asked("POST /v1/events?key=public", &[("origin", "https://evil.example")]).await;
    assert_eq!(page, said(403, "origin_not_allowed"));
    let (control, origin) = (control(), HeaderValue::from_static(PAGE));
    let allows = |line: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().uri(line);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        allows_origin(&control, &origin, &request.body(()).unwrap().into_parts().0)
    };
    assert!(allows("/v1/events", &[]) && allows("/v1/events", &[PUBLIC]) && allows("/v1/events?key=public", &[]));
    assert!(!allows("/v1/events", &[SECRET]) && !allows("/v1/events?key=wrong", &[]) && !allows("/?key=other", &[]));
    assert!(!allows("/v1/events?key=public", &[SECRET]));
}

#[tokio::test]
async fn no_header_chooses_another_project() {
    let with = async |name: &str| asked("GET /v1/metrics/a", &[SECRET, ("x-tallyhouse-project", name)]).await;
    assert_eq!(with("shop").await.0, 200);
    let odd = NO_NAMES.into_iter().filter(|name| HeaderValue::from_bytes(name.as_bytes()).is_ok());
    for other in ["blog", "Shop", "shop ", "shop,blog", "sh\u{f6}p"].into_iter().chain(odd) {
        let refused = with(other).await;
        // A header's blanks around it are no part of it, but this one came without HTTP.
        assert_eq!(refused, said(403, "wrong_project"), "{other:?}");
    }
    let twice = [SECRET, ("x-tallyhouse-project", "shop"), ("x-tallyhouse-project", "blog")];
    assert_eq!(asked("GET /v1/metrics/a", &twice).await, said(400, "bad_credentials"));
}

#[tokio::test]
async fn what_is_no_name_is_no_project_of_a_token() {
    let provider = IdentityProvider::start().await;
    let [(_, url), (_, issuer), (_, audience)] = provider.variables();
    let tokens = Tokens::new(
        TokenSettings {
            signer: Signer::Provider(url.parse().unwrap()),
            issuer: Some(issuer.to_owned()),
            audience: Some(audience.to_owned()),
            claim: "tallyhouse".to_owned(),
        },
        AccessMetrics::unregistered().unwrap(),
    );
    // Each spelling is there, as if it had come in before names were looked at.
    let mut keys = FixedKeys::default();
    for name in NAMES.into_iter().chain(NO_NAMES) {
        keys.add(&format!("key-{name}"), FixedKey::new(name, &format!("id-{name}"), &[Scope::Query]));
    }
    let metrics = AccessMetrics::unregistered().unwrap();
    let gate = Gate {
        listener: "test",
        control: Control::fixed(keys),
        tokens: Some(tokens.unwrap()),
        metrics,
        limits: RateLimits::off().unwrap(),
    };
    let enter = async |project: &str, header: Option<&str>| {
        let mut headers = HeaderMap::new();
        let token = format!("Bearer {}", provider.token(&serde_json::json!({ project: "analyst" })));
        headers.insert(header::AUTHORIZATION, token.parse().unwrap());
        headers.extend(header.map(|name| (presented::PROJECT, HeaderValue::from_bytes(name.as_bytes()).unwrap())));
        let shown = Presented::in_head(&headers, None).unwrap().unwrap();
        gate.enter(&shown, &headers).await.map(|entry| entry.principal.project().unwrap().to_owned())
    };
    for name in NAMES {
        assert_eq!(enter(name, None).await.as_deref(), Ok(name));
        assert_eq!(enter(name, Some(name)).await.as_deref(), Ok(name));
    }
    for odd in NO_NAMES {
        assert!(matches!(enter(odd, None).await, Err(Denied::InvalidToken(_))), "{odd:?}");
        if HeaderValue::from_bytes(odd.as_bytes()).is_ok() {
            assert_eq!(enter(odd, Some(odd)).await, Err(Denied::WrongProject), "{odd:?}");
        }
    }
    // They differ in case alone, and are two.
    assert_eq!(enter("shop", Some("Shop")).await, Err(Denied::WrongProject));
}

#[tokio::test]
async fn a_lease_ends_with_its_key_or_token() {
    let control = control();
    let key = control.find("secret").unwrap();
    let mut lease = Box::pin(Lease::of_key(&control, &key).ended());
    assert!(futures_util::poll!(lease.as_mut()).is_pending());
    let now = tallyhouse_service::clock::now_ms();
    Lease::until(now - 1).ended().await;
    Lease::until(now + 5).ended().await;
    let mut later = Box::pin(Lease::until(now + 600_000).ended());
    assert!(futures_util::poll!(later.as_mut()).is_pending());
}
