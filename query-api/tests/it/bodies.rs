//! Posted bodies: without a good key they are not read, and a slow one is not waited for without end.

use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tallyhouse_testkit as support;
use tallyhouse_testkit::query_service::{Service, Settings};

/// Routes that take a document, and a key that may post there.
const ROUTES: [(&str, &str); 3] = [("/v1/query", "x"), ("/v1/metrics", "admin-x"), ("/v1/sql", "x")];

/// Sends a head and some of a body; status and code of the answer, which comes while the connection stays open.
async fn post(service: &Service, path: &str, key: &str, length: &str, sent: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(service.url().trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n{length}\r\n\r\n{sent}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let problem = loop {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|end| &answer[end + 4..]);
        if let Some(Ok(problem)) = body.map(serde_json::from_slice::<Value>) {
            break problem;
        }
    };
    assert!(problem["message"].is_string(), "{problem}");
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, problem["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_body_is_read_for_who_may_send_it_and_no_longer_than_it_may_take() {
    let engine = support::engine().await;
    let settings =
        Settings { analyst: Some(engine.analyst()), writer: Some(engine.writer()), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &["x"]).await;
    let too_long = format!("20000\r\n{}", "x".repeat(0x20000));
    let asked = ROUTES.iter().flat_map(|(path, key)| {
        [
            // Who comes without a good key is told so while the body is still to come.
            (*path, "nobody", "content-length: 100", "", 401, "unknown_key"),
            (*path, "ingest-x", "content-length: 100", "{", 403, "missing_right"),
            (*path, *key, "content-length: 100000", "", 413, "body_too_large"),
            (*path, *key, "transfer-encoding: chunked", too_long.as_str(), 413, "body_too_large"),
            (*path, *key, "content-length: 100", "{\"metrics\":", 408, "body_timeout"),
        ]
    });
    let no_admin = ("/v1/metrics", "x", "content-length: 100", "", 403, "missing_right");
    let answered = asked.chain([no_admin]).map(async |(path, key, length, sent, status, code)| {
        let answer = post(&service, path, key, length, sent).await;
        assert_eq!(answer, (status, code.to_owned()), "{path} {key} {length}");
    });
    join_all(answered).await;
    assert_eq!(service.counted("tallyhouse_query_requests_total", "408"), 3, "they are counted");
    service.stop().await;
}
