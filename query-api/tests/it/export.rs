//! `GET /v1/export` against a real ClickHouse: complete or visibly broken off, and no query that nobody waits for.

use serde_json::{Value, json};
use tallyhouse_sql::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{self as support, eventually, insert_events, new_project, ten_days_ago};

async fn service(project: &str, variables: &[(&str, &str)]) -> Service {
    let settings = Settings::of(support::engine().await.reader());
    let settings = variables.iter().fold(settings, |settings, (name, value)| settings.with(name, value));
    Service::start_with(settings, &[project]).await
}

/// So many events of about 1 kB that does not compress, three days ago.
async fn insert_many(writer: &Connection, project: &str, rows: u64) {
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, page, user_hash, received_at, retention_days) \
         SELECT '{project}', toString(number), 'many', now64(3) - toIntervalDay(3), hex(randomString(500)), number % 10, \
         now64(3), 730 FROM numbers({rows})"
    );
    support::execute(writer, &insert).await.unwrap();
}

/// A request by hand, so that the test decides when the answer is read.
async fn open(service: &Service, project: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.url().trim_start_matches("http://")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {project}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Whether an export runs; no other test has one that lasts.
async fn running(writer: &Connection) -> bool {
    let count = "SELECT count() FROM system.processes WHERE user = 'reader' AND query LIKE '%FROM events AS t FINAL%'";
    support::ask(writer, count).await.unwrap() != "0"
}

#[tokio::test]
async fn every_event_once_in_every_format() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    // Twice: copies that wait to be merged away.
    insert_events(&engine.writer(), &project, from, 2).await;
    insert_events(&engine.writer(), &project, from, 2).await;
    let service = service(&project, &[]).await;
    let range = format!("startTime={}&endTime={}", from * 1_000, (from + 86_400) * 1_000);

    let ndjson = service.get(&project, &format!("/v1/export?{range}")).await;
    assert_eq!((ndjson.status.as_u16(), ndjson.header("content-type")), (200, "application/x-ndjson"));
    assert_eq!(ndjson.header("content-disposition"), "attachment; filename=\"events.ndjson\"");
    let lines: Vec<Value> =
        ndjson.body.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    let first = lines.iter().find(|line| line["event_id"] == "0").unwrap();
    assert_eq!((&first["event_type"], &first["value"], &first["props"]), (&json!("purchase"), &json!(10), &json!({})));
    let at = jiff::Timestamp::from_second(from).unwrap();
    assert_eq!(first["ts"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap(), at);
    assert!(first.get("project_id").is_none());

    let local = service.get(&project, &format!("/v1/export?{range}&timezone=Asia/Kolkata&eventType=view")).await;
    let line: Value = serde_json::from_str(local.body.as_str().unwrap().lines().next().unwrap()).unwrap();
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.ends_with("+05:30") && ts.parse::<jiff::Timestamp>().is_ok(), "{ts}");
    assert_eq!(local.body.as_str().unwrap().lines().count(), 4);

    let csv = service.get(&project, &format!("/v1/export?{range}&format=csv")).await;
    assert!(csv.body.as_str().unwrap().starts_with("\"event_id\",\"event_type\",\"ts\",\"value\","), "{csv:?}");
    assert_eq!(csv.body.as_str().unwrap().lines().count(), 7);
    let parquet = service.get(&project, &format!("/v1/export?{range}&format=parquet&timezone=Asia/Kolkata")).await;
    assert_eq!(parquet.header("content-type"), "application/vnd.apache.parquet");
    let text = parquet.body.as_str().unwrap();
    assert!(text.starts_with("PAR1") && text.ends_with("PAR1"), "{:.100}", text);

    // Outwards to whole minutes, so that the second, third and fourth event of six are in it.
    let (start, end) = (from * 1_000 + 119_999, from * 1_000 + 3_600_001);
    let some = service.get(&project, &format!("/v1/export?startTime={start}&endTime={end}")).await;
    let ids = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event_id"].as_str().unwrap().to_owned();
    let ids: std::collections::BTreeSet<_> = some.body.as_str().unwrap().lines().map(ids).collect();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["1", "2", "3"]);

    let none = service.get(&project, &format!("/v1/export?{range}&eventType=none")).await;
    assert_eq!((none.status.as_u16(), &none.body), (200, &json!("")));
    for (query, status, code) in [("format=xml", 400, "bad_parameter"), ("startTime=2020-01-01", 400, "range_too_long")]
    {
        let reply = service.get(&project, &format!("/v1/export?{query}")).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{reply:?}");
    }
    assert_eq!(service.get("nobody", "/v1/export").await.status, 401);
    service.stop().await;
}

#[tokio::test]
async fn too_much_is_broken_off_and_never_looks_complete() {
    let (engine, project) = (support::engine().await, new_project());
    insert_many(&engine.writer(), &project, 3_000).await;
    let service = service(&project, &[("QUERY_EXPORT_MAX_BYTES", "1000000")]).await;
    let path = format!("/v1/export?startTime={}", (ten_days_ago()) * 1_000);
    let mut stream = open(&service, &project, &path).await;
    let mut answer = Vec::new();
    // Whether the connection is closed or reset is the kernel's choice.
    drop(stream.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..100]));
    assert!(!answer.ends_with(b"\r\n0\r\n\r\n"), "the last chunk was sent");
    assert!(answer.len() < 1_100_000, "{}", answer.len());
    assert_eq!(service.counted("tallyhouse_query_streams_cut_total", "too_large"), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_stands_still_or_leaves_ends_its_export() {
    let (engine, project) = (support::engine().await, new_project());
    let writer = engine.writer();
    insert_many(&writer, &project, 60_000).await;
    let path = format!("/v1/export?startTime={}", (ten_days_ago()) * 1_000);

    // Nothing but its leaving ends it within the test.
    let lenient = service(&project, &[("QUERY_EXPORT_STALL_MS", "600000")]).await;
    let mut stream = open(&lenient, &project, &path).await;
    stream.read_exact(&mut [0; 12]).await.unwrap();
    eventually("the export runs", async || running(&writer).await).await;
    // It is held back: nothing was read, so it cannot end.
    assert_eq!(lenient.counted("tallyhouse_query_clickhouse_queries_total", ""), 0);
    drop(stream);
    eventually("the export is gone", async || !running(&writer).await).await;
    eventually("it is counted", async || lenient.counted("tallyhouse_query_streams_cut_total", "left") == 1).await;
    eventually("it was stopped", async || lenient.counted("tallyhouse_query_kills_total", "") == 1).await;
    assert_eq!(lenient.counted("tallyhouse_query_clickhouse_queries_total", "cancelled"), 1);
    lenient.stop().await;

    let hasty = service(&project, &[("QUERY_EXPORT_STALL_MS", "300")]).await;
    let mut stream = open(&hasty, &project, &path).await;
    eventually("it is broken off", async || hasty.counted("tallyhouse_query_streams_cut_total", "stalled") == 1).await;
    eventually("the export is gone", async || !running(&writer).await).await;
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(!answer.ends_with(b"\r\n0\r\n\r\n"), "the last chunk was sent");
    hasty.stop().await;
}

/// A ClickHouse that fails half-way, as 26.7 tells it: in an answer that ends well, and in two pieces.
async fn failing_half_way() -> Connection {
    const PIECES: [&str; 3] = [
        "{\"event_id\":\"1\"}\n",
        "\r\n__exception__\r\ntagtagtagtagtagt\r\nCode: 241. DB::Exception: x\n28 tagtagtagtagtagt\r\n__exce",
        "ption__\r\n",
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 16_384];
                let _ = stream.read(&mut request).await?;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-ClickHouse-Exception-Tag: tagtagtagtagtagt\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                for piece in PIECES {
                    stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
                    stream.flush().await?;
                }
                stream.write_all(b"0\r\n\r\n").await
            });
        }
    });
    Connection { url, user: "reader".to_owned(), password: String::new(), tls: None }
}

#[tokio::test]
async fn a_failure_half_way_is_not_a_short_file() {
    let project = new_project();
    let service = Service::start(failing_half_way().await, &[&project], None).await;
    let mut stream = open(&service, &project, "/v1/export").await;
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    assert_eq!(service.counted("tallyhouse_query_streams_cut_total", "failed"), 1, "{answer}");
    service.stop().await;
}
