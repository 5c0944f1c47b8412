//! `POST /v1/sql` against a real ClickHouse: legitimate statements work, and the caller can act on every refusal.

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::query_admission::clinging;
use tallyhouse_testkit::query_service::{Reply, Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

/// A service that takes SQL of these projects.
pub async fn service(projects: &[&str]) -> Service {
    let engine = support::engine().await;
    let settings = Settings { analyst: Some(engine.analyst()), ..Settings::of(engine.reader()) };
    Service::start_with(settings, projects).await
}

/// Posts a body as it is; the answer's body is JSON, or its bytes as a text.
pub async fn post(service: &Service, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::post(format!("{}/v1/sql", service.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, body) = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    Reply { status: parts.status, headers: parts.headers, body }
}

/// Asks as the holder of a project's key.
pub async fn ask(service: &Service, project: &str, request: &Value) -> Reply {
    post(service, &[("x-api-key", project), ("content-type", "application/json")], request.to_string()).await
}

#[tokio::test]
async fn what_an_analyst_needs_works() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 2).await;
    let service = service(&[&project]).await;
    for (sql, expected) in [
        ("SELECT count() FROM events", json!([[6]])),
        ("SELECT count() FROM tallyhouse.events FINAL WHERE event_type = 'purchase'", json!([[2]])),
        (
            "SELECT event_type, count() FROM events GROUP BY event_type ORDER BY 2",
            json!([["purchase", 2], ["view", 4]]),
        ),
        ("SELECT sum(events) FROM rollup_1h WHERE dim_set = ''", json!([[6]])),
        ("SELECT uniqCombined64Merge(14)(users) FROM rollup_1d WHERE dim_set = ''", json!([[3]])),
        ("WITH big AS (SELECT * FROM events WHERE value > 15) SELECT count() FROM big;", json!([[2]])),
        ("SELECT count() FROM events AS a JOIN events AS b ON a.event_id = b.event_id", json!([[6]])),
        (
            "SELECT max(n) FROM (SELECT row_number() OVER (PARTITION BY event_type ORDER BY ts) AS n FROM events)",
            json!([[4]]),
        ),
        (
            "SELECT arrayMap(x -> x * 2, [1, 2]), map('a', 1)['a'], NULL, nan, 'a\nb'",
            json!([[[2, 4], 1, null, null, "a\nb"]]),
        ),
        ("SELECT max(number) FROM numbers(10)", json!([[9]])),
        ("SELECT 18446744073709551615", json!([[18_446_744_073_709_551_615_u64]])),
        ("SELECT 1 WHERE 0", json!([])),
    ] {
        let reply = ask(&service, &project, &json!({"sql": sql})).await;
        assert_eq!((reply.status.as_u16(), &reply.body["rows"]), (200, &expected), "{sql}: {reply:?}");
    }
    let described = ask(&service, &project, &json!({"sql": "DESCRIBE TABLE events"})).await;
    assert_eq!(described.body["rows"][0][0], json!("project_id"), "{described:?}");
    let bound = json!({"sql": "SELECT {n:UInt8} + 1 AS n, {t:String}, {a:Array(String)}", "params": {"n": 1, "t": "it's", "a": ["x'"]}});
    let reply = ask(&service, &project, &bound).await;
    assert_eq!(reply.body["rows"], json!([[2, "it's", ["x'"]]]), "{reply:?}");
    assert_eq!(reply.body["columns"][0], json!({"name": "n", "type": "UInt16"}));
    let reply = ask(&service, &project, &json!({"sql": "SELECT event_id FROM events"})).await;
    assert_eq!((&reply.body["meta"]["rows"], &reply.body["meta"]["truncated"]), (&json!(6), &json!(false)));
    assert_eq!(reply.body["meta"]["rows_read"], json!(null), "what is read holds rows of others: {reply:?}");
    service.stop().await;
}

#[tokio::test]
async fn every_format_has_its_type() {
    let service = service(&["x"]).await;
    for (format, kind, begins) in [
        ("json", "application/json", ""),
        ("csv", "text/csv; charset=utf-8; header=present", "\"a\",\"b\"\n1,\"x\"\n"),
        ("ndjson", "application/x-ndjson", ""),
        ("parquet", "application/vnd.apache.parquet", "PAR1"),
    ] {
        let reply = ask(&service, "x", &json!({"sql": "SELECT 1 AS a, 'x' AS b", "format": format})).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, kind), "{reply:?}");
        assert!(reply.body.as_str().unwrap_or_default().starts_with(begins), "{reply:?}");
        assert_eq!(reply.header("cache-control"), "private, no-store");
    }
    let ndjson = ask(&service, "x", &json!({"sql": "SELECT 1 AS a", "format": "ndjson"})).await;
    assert_eq!(ndjson.body, json!({"a": 1}));
    service.stop().await;
}

#[tokio::test]
async fn every_refusal_says_what_to_do() {
    let service = service(&["x"]).await;
    for (sql, status, code, says) in [
        ("SELEC 1", 400, "bad_sql", "starts with SELECT"),
        ("SELECT 1 +", 400, "bad_sql", "Syntax error"),
        ("SELECT countt() FROM events", 400, "bad_sql", "countt"),
        ("SELECT nope FROM events", 400, "bad_sql", "nope"),
        ("SELECT * FROM dead_letters", 400, "bad_sql", "only SELECT on the tables events"),
        ("SELECT toUInt8('/etc/passwd')", 400, "bad_sql", "Cannot parse"),
        ("SELECT 1 FORMAT TSV", 400, "bad_sql", "leave FORMAT out"),
        ("SELECT {missing:UInt8}", 400, "bad_sql", "missing"),
        ("SELECT number FROM numbers(2000000)", 422, "too_expensive", "1,000,000 rows"),
        ("SELECT repeat(toString(number), 100) FROM numbers(900000)", 422, "too_expensive", "100 MB"),
        ("SELECT count() FROM numbers(2000000000)", 422, "too_expensive", "1,000,000,000 rows read"),
        (
            "SELECT length(groupArray(repeat(toString(number), 100))) FROM numbers(100000000)",
            422,
            "too_expensive",
            "memory",
        ),
    ] {
        let reply = ask(&service, "x", &json!({"sql": sql})).await;
        let message = reply.body["message"].as_str().unwrap_or_default();
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{sql}: {reply:?}");
        assert!(message.contains(says), "{sql}: {message}");
        for internal in ["DB::Exception", "version 2", "127.0.0.1", "/etc", "analyst", "getClientHTTPHeader"] {
            assert!(!message.contains(internal), "{sql}: {message}");
        }
    }
    // A constant is one value until it is written: what waits in ClickHouse is limited too.
    let reply = ask(&service, "x", &json!({"sql": "SELECT repeat('x', 4000) FROM numbers(1000000)"})).await;
    assert_eq!(reply.status, 422, "{}", reply.body["message"]);
    let reply = ask(&service, "x", &json!({"sql": "SELECT 1 +* 2"})).await;
    assert!(reply.body["position"].is_number(), "{reply:?}");
    service.stop().await;
}

#[tokio::test]
async fn bad_bodies_and_keys_are_refused() {
    let service = service(&["x"]).await;
    const JSON: (&str, &str) = ("content-type", "application/json");
    let long = format!("{{\"sql\":\"{}\"}}", "x".repeat(65_536));
    for (headers, body, status, code) in [
        (&[JSON][..], "{}", 401, "missing_key"),
        (&[JSON, ("x-api-key", "nobody")], "{}", 401, "unknown_key"),
        (&[JSON, ("x-api-key", "ingest-x")], "{}", 403, "missing_right"),
        (&[("x-api-key", "x")], "{}", 415, "unknown_media_type"),
        (&[("x-api-key", "x"), ("content-type", "text/plain")], "{}", 415, "unknown_media_type"),
        (&[JSON, ("x-api-key", "x")], "{", 400, "invalid_json"),
        (&[JSON, ("x-api-key", "x")], "[]", 400, "not_an_object"),
        (&[JSON, ("x-api-key", "x")], "{\"sqll\":\"\"}", 400, "unknown_field"),
        (&[JSON, ("x-api-key", "x")], "{\"sql\":\"\"}", 400, "bad_field"),
        (&[JSON, ("x-api-key", "x")], &long, 413, "body_too_large"),
    ] {
        let reply = post(&service, headers, body.to_owned()).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{body:.40}: {reply:?}");
    }
    let without = Service::start(support::engine().await.reader(), &["x"], None).await;
    let reply = ask(&without, "x", &json!({"sql": "SELECT 1"})).await;
    assert_eq!((reply.status.as_u16(), &reply.body["code"]), (501, &json!("sql_not_set_up")));
    service.stop().await;
    without.stop().await;
}

#[tokio::test]
async fn a_quota_is_a_projects_own() {
    let (engine, greedy, modest) = (support::engine().await, new_project(), new_project());
    let service = service(&[&greedy, &modest]).await;
    let request = json!({"sql": "SELECT count() FROM rollup_1d"});
    assert_eq!(ask(&service, &greedy, &request).await.status, 200);
    // The rest of the hour's, side by side.
    let analyst = engine.analyst().client();
    let one = |_| async {
        analyst.query("SELECT count() FROM rollup_1d").with_setting("quota_key", &greedy).fetch_one::<u64>().await
    };
    let answered = stream::iter(0..1_010).map(one).buffer_unordered(8).filter(|one| ready(one.is_ok())).count().await;
    assert!((990..=1_000).contains(&answered), "{answered} were answered");
    let last = ask(&service, &greedy, &request).await;
    assert_eq!((last.status.as_u16(), &last.body["code"]), (429, &json!("quota_exceeded")), "{last:?}");
    let wait: u32 = last.header("retry-after").parse().unwrap();
    assert!((1..=3_600).contains(&wait), "{wait}");
    assert_eq!(ask(&service, &modest, &request).await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_statement() {
    let (engine, project) = (support::engine().await, new_project());
    // ClickHouse does not see its client go, so nothing but a KILL ends it.
    let settings = Settings { analyst: Some(clinging(engine.analyst()).await), ..Settings::of(engine.reader()) };
    let service = Service::start_with(settings, &[&project]).await;
    let writer = engine.writer();
    let running = async || {
        let count = "SELECT count() FROM system.processes WHERE user = 'analyst' AND query LIKE '%leaver%'";
        support::ask(&writer, count).await.unwrap()
    };
    let slow = json!({"sql": "SELECT sum(sipHash64(number)) AS leaver FROM numbers_mt(900000000)"});
    let headers = [("x-api-key", project.as_str()), ("content-type", "application/json")];
    {
        let asked = post(&service, &headers, slow.to_string());
        let seen = eventually("the statement runs", async || running().await != "0");
        tokio::select! {
            reply = asked => panic!("it was to be slow: {reply:?}"),
            () = seen => {}
        }
    }
    // Ad hoc questions have one slot: it is free once the statement is gone.
    let next = post(&service, &headers, json!({"sql": "SELECT 1"}).to_string()).await;
    assert_eq!((next.status.as_u16(), running().await.as_str()), (200, "0"), "{next:?}");
    assert_eq!(service.counted("tallyhouse_query_clickhouse_queries_total", "cancelled"), 1);
    eventually("it was stopped", async || service.counted("tallyhouse_query_kills_total", "stopped") == 1).await;
    assert_eq!(service.gauge("tallyhouse_query_clickhouse_in_flight"), 0);
    service.stop().await;
}

/// Sends a statement over a connection of its own, and reads no more than the status.
async fn unread(service: &Service, project: &str, sql: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(service.url().trim_start_matches("http://")).await.unwrap();
    let body = json!({"sql": sql, "format": "csv"}).to_string();
    let request = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: x\r\nx-api-key: {project}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
}

#[tokio::test]
async fn answers_that_nobody_reads_are_few() {
    let (hoarder, other) = (new_project(), new_project());
    let service = service(&[&hoarder, &other]).await;
    // More than what is on the way between two sockets.
    let large = "SELECT repeat('x', 1000) AS text FROM numbers(30000)";
    let (mut statuses, mut held) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let (status, stream) = unread(&service, &hoarder, large).await;
        statuses.push(status);
        held.push(stream);
    }
    assert_eq!(statuses, ["200", "200", "200", "200", "200", "200", "429"]);
    let small = json!({"sql": "SELECT 1"});
    let refused = ask(&service, &hoarder, &small).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (429, &json!("too_many_queries")), "{refused:?}");
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(ask(&service, &other, &small).await.status, 200);
    // Read to its end, an answer gives its permit back; so does one whose reader leaves.
    let mut whole = Vec::new();
    held[0].read_to_end(&mut whole).await.unwrap();
    assert!(whole.len() > 30_000_000 && whole.ends_with(b"\r\n0\r\n\r\n"), "{} bytes", whole.len());
    eventually("a permit is free", async || ask(&service, &hoarder, &small).await.status == 200).await;
    held.clear();
    eventually("they were given up", async || service.counted("tallyhouse_query_streams_cut_total", "left") == 5).await;
    service.stop().await;
}
