//! What web pages and other machines may ask of a running system. Pages of the attacker at admin ports: also `loadtest siege`.

use std::net::SocketAddr;
use std::time::Duration;

use tallyhouse_loadtest::development::{INGEST_KEY, QUERY_KEY};
use tallyhouse_loadtest::ports::free_address;
use tallyhouse_loadtest::system::{System, SystemError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "a-token-for-the-admin-ports";
const APP: &str = "origin: https://app.example";
const EVIL: &str = "origin: https://evil.example";
const HERE: &str = "origin: http://localhost:3000";
const JSON: &str = "content-type: application/json";

/// The answer with its headers in lower case.
async fn ask(port: u16, line: &str, headers: &[&str], body: &str) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let host = if headers.iter().any(|header| header.starts_with("host:")) { "" } else { "host: localhost\r\n" };
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\n{host}{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer));
    read.await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{}\r\n\r\n{body}", head.to_lowercase())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_strangers_get_what_they_are_allowed() {
    let variables = [("ADMIN_TOKEN", TOKEN), ("QUERY_ORIGINS", "https://app.example")];
    let system = System::start_with(env!("CARGO_BIN_EXE_tallyhouse").as_ref(), &variables).await.unwrap();
    let ports = system.ports();

    // Admin: probes are open, everything else needs the token, and no page gets through with it.
    let bearer = format!("authorization: Bearer {TOKEN}");
    let days = r#"[{"project":"demo","day":20000}]"#;
    for port in [ports.ingest_admin, ports.query_admin] {
        for probe in ["GET /health/live", "GET /health/ready"] {
            assert_eq!(status(&ask(port, probe, &[], "").await), "200", "{probe}");
        }
        for page in ["GET /metrics", "GET /health"] {
            let refused = ask(port, page, &[], "").await;
            assert_eq!((status(&refused), header(&refused, "www-authenticate")), ("401", Some("bearer")), "{page}");
            assert_eq!(status(&ask(port, page, &[&bearer], "").await), "200", "{page}");
            let rebound = ask(port, page, &[&bearer, "host: evil.example"], "").await;
            assert_eq!((status(&rebound), rebound.contains("unknown_host")), ("403", true), "{page}");
        }
    }
    let admin = async |line: &str, headers: &[&str]| {
        let answer = ask(ports.query_admin, line, headers, if line.starts_with("POST") { days } else { "" }).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{line}");
        status(&answer).to_owned()
    };
    assert_eq!(admin("POST /v1/touched", &[&bearer, JSON]).await, "200");
    assert_eq!(admin("DELETE /v1/cache", &[&bearer]).await, "200");
    assert_eq!(admin("POST /v1/touched", &[JSON]).await, "401");
    assert_eq!(admin("DELETE /v1/cache", &[]).await, "401");
    assert_eq!(admin("POST /v1/touched", &[&bearer, "content-type: text/plain"]).await, "415");
    assert_eq!(admin("POST /v1/touched", &[&bearer]).await, "415");
    assert_eq!(admin("POST /v1/touched", &[&bearer, JSON, EVIL]).await, "403");
    assert_eq!(admin("DELETE /v1/cache", &[&bearer, EVIL]).await, "403");
    let preflight = ["access-control-request-method: POST", "access-control-request-headers: content-type"];
    assert_eq!(admin("OPTIONS /v1/touched", &[&[EVIL, &bearer], &preflight[..]].concat()).await, "405");

    // Public: an origin of the key, or of the list.
    let (ingest_key, query_key) = (format!("x-api-key: {INGEST_KEY}"), format!("x-api-key: {QUERY_KEY}"));
    let asks = ["access-control-request-method: POST", "access-control-request-headers: content-type,x-api-key"];
    for (port, path, key, method, allowed, others) in [
        (ports.ingest, "/v1/events", &ingest_key, "POST", HERE, [APP, EVIL, "origin: null"]),
        (ports.query, "/v1/event-types", &query_key, "GET", APP, [HERE, EVIL, "origin: null"]),
    ] {
        let origin = allowed.strip_prefix("origin: ").unwrap();
        let (options, line) = (format!("OPTIONS {path}"), format!("{method} {path}"));
        let body = if method == "POST" { r#"[{"eventType":"page_view"}]"# } else { "" };
        let preflight = ask(port, &options, &[&[allowed], &asks[..]].concat(), "").await;
        assert_eq!(header(&preflight, "access-control-allow-origin"), Some(origin));
        assert!(header(&preflight, "access-control-allow-methods").unwrap().contains("post"));
        let headers = header(&preflight, "access-control-allow-headers").unwrap();
        assert!(
            ["authorization", "content-type", "content-encoding", "x-api-key"]
                .iter()
                .all(|name| headers.contains(name))
        );
        let answer = ask(port, &line, &[allowed, key, JSON], body).await;
        assert!(status(&answer).starts_with('2'), "{answer}");
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
        for other in others {
            let preflight = ask(port, &options, &[&[other], &asks[..]].concat(), "").await;
            let answer = ask(port, &line, &[other, key, JSON], body).await;
            for answer in [&preflight, &answer] {
                assert_eq!(header(answer, "access-control-allow-origin"), None, "{other}: {answer}");
            }
        }
        let answers = [
            ask(port, &line, &[allowed, key, JSON], body).await,
            ask(port, &line, &[EVIL, key, JSON], body).await,
            ask(port, &line, &[key, JSON], body).await,
            preflight,
        ];
        for answer in &answers {
            let varies = answer.lines().any(|line| line.starts_with("vary:") && line.contains("origin"));
            assert!(varies, "{answer}");
            assert_eq!(header(answer, "access-control-allow-credentials"), None);
            assert_ne!(header(answer, "access-control-allow-origin"), Some("*"));
        }
    }
    system.stop().await.unwrap();
}

#[tokio::test]
async fn an_admin_port_that_others_reach_is_not_opened_without_a_token() {
    for variable in ["INGEST_ADMIN_ADDR", "QUERY_ADMIN_ADDR"] {
        let address = free_address().unwrap().replace("127.0.0.1", "0.0.0.0");
        let started = System::start_with(env!("CARGO_BIN_EXE_tallyhouse").as_ref(), &[(variable, &address)]).await;
        let Err(SystemError::Ended { log }) = started else { panic!("it started") };
        assert!(log.contains(variable) && log.contains("ADMIN_TOKEN"), "{log}");
    }
}
