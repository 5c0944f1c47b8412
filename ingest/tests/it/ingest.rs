//! The write path against a real ClickHouse: what is taken, what is refused, and that every event has one fate.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::json;
use tallyhouse_ingest::journal::{Journal, JournalFile};
use tallyhouse_schema::limits::{MAX_EVENT_BYTES, MAX_EVENTS};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::insert::insert_block;

use tallyhouse_testkit::ingest_service::{Service, block_of, count, everywhere, is_inserting, journaled, json};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{self as support, Folder, eventually, new_project};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_body_is_stored_and_counted() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let event = |id: &str| format!(r#"{{"eventId":"{id}","eventType":"page_view","userId":"u-{id}"}}"#);

    let one = service.send(event("one")).await;
    assert_eq!((one.status.as_u16(), json(&one)), (202, json!({"status": "accepted", "eventId": "one"})));
    for (body, headers) in [
        (format!("[{},{}]", event("a1"), event("a2")).into_bytes(), vec![]),
        (format!("{{\"events\":[{},{}]}}", event("b1"), event("b2")).into_bytes(), vec![]),
        (format!("{}\n{}\n", event("c1"), event("c2")).into_bytes(), vec![(CONTENT_TYPE, "application/x-ndjson")]),
        (gzip(format!("[{},{}]", event("d1"), event("d2")).as_bytes()), vec![(CONTENT_ENCODING, "gzip")]),
        (
            zstd::encode_all(format!("[{},{}]", event("e1"), event("e2")).as_bytes(), 1).unwrap(),
            vec![(CONTENT_ENCODING, "zstd")],
        ),
    ] {
        let endpoint = headers.into_iter().fold(service.endpoint(), |e, (name, value)| e.header(name, value).unwrap());
        let reply = endpoint.post(body.into()).await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), json(&reply)),
            (202, json!({"accepted": 2, "duplicates": 0, "rejected": []}))
        );
    }
    assert_eq!(service.send_stored(event("waited")).await.status.as_u16(), 200);
    assert_eq!(everywhere(&writer, &project).await, [12; 4]);
    let users = "SELECT toUInt64(uniqCombined64Merge(14)(users)) FROM rollup_1h WHERE project_id = {project:String} AND dim_set = ''";
    assert_eq!(count(&writer, &project, users).await, 12);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_hold_what_was_sent_after_normalisation() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let event = json!({
        "event_id": "e", "event_type": "purchase", "user_id": 7, "session_id": "s\u{0}1", "colour": "red",
        "timestamp": now_ms() + 3_595_000, "sentAt": now_ms() + 3_600_000,
        "properties": {"amount": 12.5, "currency": "EUR", "item": {"name": "x", "tags": ["a", 1]}, "gift": true, "none": null},
        "context": {"ip": "203.0.113.77", "country": "DE", "locale": "de-DE", "page": {"path": "/cart"},
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    });
    assert_eq!(service.send_stored(event.to_string()).await.status.as_u16(), 200);
    let sql = "SELECT count() FROM events WHERE project_id = {project:String} AND event_id = 'e' AND event_type = 'purchase' \
        AND user_id = '7' AND session_id = 's1' AND value = 12.5 AND ip = '203.0.113.0' AND country = 'DE' AND locale = 'de-DE' \
        AND device = 'desktop' AND os = 'Linux' AND browser = 'Firefox' AND page = '/cart' AND retention_days = 730 \
        AND abs(dateDiff('second', ts, received_at) - 5) <= 1 AND dateDiff('minute', received_at, original_ts) BETWEEN 58 AND 61 \
        AND mapSort(props) = map('colour', 'red', 'currency', 'EUR', 'gift', 'true', 'item.name', 'x', 'item.tags', '[\"a\",1]') \
        AND num_props = map('amount', 12.5) AND has(dims, ('currency', 'EUR')) AND has(dims, ('country,device', 'DE\\x1fdesktop'))";
    assert_eq!(count(&writer, &project, sql).await, 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_as_a_whole_and_say_why() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let many = format!("[{}1]", "1,".repeat(MAX_EVENTS));
    for (body, status, code) in [
        (Bytes::from_static(b"{\"eventType\":"), 400, "invalid_json"),
        (Bytes::from_static(b"[{\"eventType\":\"a\"},]"), 400, "invalid_json"),
        (Bytes::from_static(b"{\"eventType\":\"a\0\"}"), 400, "invalid_json"),
        (Bytes::from_static(b"[]"), 400, "empty_batch"),
        (Bytes::new(), 400, "empty_batch"),
        (Bytes::from_static(b"\"text\""), 400, "not_events"),
        (Bytes::from(many), 413, "too_many_events"),
        (Bytes::from(vec![b' '; (1 << 20) + 1]), 413, "body_too_large"),
    ] {
        let reply = service.send(body).await;
        assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (status, Some(code)), "{}", reply.excerpt());
        assert!(json(&reply)["message"].as_str().is_some_and(|message| message.len() > 10));
    }
    let answer = json(&service.send("[\n{\"eventType\":}]").await);
    let position = &answer["rejected"][0];
    assert_eq!((position["line"].as_u64(), position["column"].as_u64()), (Some(2), Some(14)));

    let gzipped = service.endpoint().header(CONTENT_ENCODING, "gzip").unwrap();
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    for (body, status, code) in [(bomb, 413, "body_too_large"), (b"not gzip".to_vec(), 400, "bad_compression")] {
        let reply = gzipped.post(body.into()).await.unwrap();
        assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (status, Some(code)));
    }
    for (name, value, code) in
        [(CONTENT_ENCODING, "br", "unknown_encoding"), (CONTENT_TYPE, "text/csv", "unknown_media_type")]
    {
        let reply = service.endpoint().header(name, value).unwrap().post(Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (415, Some(code)));
    }
    assert_eq!(service.send_stored(r#"{"eventType":"a"}"#).await.status.as_u16(), 200);
    assert_eq!(everywhere(&writer, &project).await, [1; 4], "nothing of the others");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_are_named_and_the_good_ones_are_taken() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let day = 86_400_000;
    let deep = format!(r#"{{"eventType":"a","properties":{}1{}}}"#, r#"{"a":"#.repeat(40), "}".repeat(40));
    let events = [
        (r#"{"eventId":"good-1","eventType":"a"}"#.to_owned(), None),
        (r#"{"eventId":"b1"}"#.to_owned(), Some("missing_field")),
        (r#"{"eventId":"b2","eventType":{}}"#.to_owned(), Some("wrong_type")),
        (format!(r#"{{"eventType":"a","eventId":"{}"}}"#, "x".repeat(101)), Some("too_long")),
        ("[1]".to_owned(), Some("not_an_object")),
        (deep, Some("too_deep")),
        (r#"{"eventType":"a","timestamp":"soon"}"#.to_owned(), Some("invalid_timestamp")),
        (format!(r#"{{"eventType":"a","timestamp":{}}}"#, now_ms() - 8 * day), Some("too_old")),
        (format!(r#"{{"eventType":"a","timestamp":{}}}"#, now_ms() - 800 * day), Some("expired")),
        (r#"{"eventType":"a","timestamp":-9223372036854775808}"#.to_owned(), Some("expired")),
        (r#"{"eventType":"a","x":NaN}"#.to_owned(), Some("invalid_json")),
        (format!(r#"{{"eventType":"a","x":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES)), Some("event_too_large")),
        (r#"{"eventId":"good-2","eventType":"a","timestamp":"9999-12-01T00:00:00Z"}"#.to_owned(), None),
        (format!(r#"{{"eventId":"ten-kb","eventType":"a","x":"{}"}}"#, "x".repeat(10_000)), None),
    ];
    let texts: Vec<&str> = events.iter().map(|(text, _)| text.as_str()).collect();
    let reply = service.send_stored(format!("[{}]", texts.join(","))).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.excerpt());
    let answer = json(&reply);
    let expected: Vec<_> =
        events.iter().enumerate().filter_map(|(index, (_, code))| code.map(|code| (index as u64, code))).collect();
    let rejected = answer["rejected"].as_array().unwrap();
    let found: Vec<_> = rejected.iter().map(|r| (r["index"].as_u64().unwrap(), r["code"].as_str().unwrap())).collect();
    assert_eq!(found, expected);
    assert_eq!((rejected[0]["eventId"].as_str(), rejected[0]["field"].as_str()), (Some("b1"), Some("eventType")));
    assert_eq!((answer["accepted"].as_u64(), answer["duplicates"].as_u64()), (Some(3), Some(0)));
    assert_eq!(everywhere(&writer, &project).await, [3; 4]);

    let single = service.send(r#"{"eventId":"b","eventType":7}"#).await;
    assert_eq!((single.status.as_u16(), json(&single)["code"].as_str()), (400, Some("wrong_type")));
    let old = format!(r#"[{{"eventId":"history","eventType":"a","timestamp":{}}}]"#, now_ms() - 400 * day);
    let imported = service.endpoint_with_key(&format!("import-{project}")).post(old.into()).await.unwrap();
    assert_eq!(json(&imported)["accepted"].as_u64(), Some(1));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_for_ingestion_is_let_in() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer, &data, &project).await;
    let body = Bytes::from_static(b"{\"eventType\":\"a\"}");
    let query = format!("query-{project}");
    for (key, status, code) in
        [("wrong", 401, "unknown_key"), ("", 401, "missing_key"), (query.as_str(), 403, "missing_right")]
    {
        let reply = service.endpoint_with_key(key).post(body.clone()).await.unwrap();
        assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (status, Some(code)));
    }
    let endpoint = tallyhouse_service::http_client::Endpoint::new(&service.url, Duration::from_secs(5)).unwrap();
    let reply = endpoint.post(body.clone()).await.unwrap();
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (401, Some("missing_key")));
    let unknown = service.endpoint().post_with("wait=1'%20OR%201", body).await.unwrap();
    assert_eq!((unknown.status.as_u16(), json(&unknown)["code"].as_str()), (400, Some("unknown_parameter")));
    assert_eq!(service.endpoint().get("/v1/events").await.unwrap().status.as_u16(), 405);
    assert_eq!(service.endpoint().get("/nowhere").await.unwrap().status.as_u16(), 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_a_duplicate_also_after_a_restart() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let batch = r#"[{"eventId":"1","eventType":"a"},{"eventId":"1","eventType":"a"},{"eventId":"2","eventType":"a"}]"#;
    let service = Service::start(writer.clone(), &data, &project).await;
    assert_eq!(json(&service.send(batch).await), json!({"accepted": 2, "duplicates": 1, "rejected": []}));
    assert_eq!(json(&service.send(batch).await), json!({"accepted": 0, "duplicates": 3, "rejected": []}));
    service.stop().await;
    let service = Service::start(writer.clone(), &data, &project).await;
    assert_eq!(json(&service.send(batch).await), json!({"accepted": 0, "duplicates": 3, "rejected": []}));
    assert_eq!(everywhere(&writer, &project).await, [2; 4]);
    service.stop().await;
}

/// A batch as a dead process would have left it.
fn left_behind(data: &Folder, project: &str, ids: &[&str]) -> JournalFile {
    let content =
        JournalFile { token: format!("left-{project}"), rows: ids.len(), chunks: block_of(project, ids), days: vec![] };
    Journal::open(&data.path().join("ingest/journal")).unwrap().write("1", &content).unwrap();
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_left_is_stored_once_whether_or_not_it_was_stored_before() {
    let writer = support::shared().await.engine.writer();
    for was_stored in [false, true] {
        let (data, project) = (Folder::create(), new_project());
        let batch = left_behind(&data, &project, &["1", "2", "3"]);
        if was_stored {
            let deadline = Duration::from_secs(10);
            insert_block(&writer.client(), "events_in", &batch.token, &batch.chunks, deadline).await.unwrap();
        }
        let service = Service::start(writer.clone(), &data, &project).await;
        let again = json(&service.send(r#"[{"eventId":"2","eventType":"a"}]"#).await);
        assert_eq!(again["duplicates"].as_u64(), Some(1), "what was left is known at once");
        // Files go before the log.
        assert_eq!(service.send_stored(r#"{"eventId":"4","eventType":"a"}"#).await.status.as_u16(), 200);
        assert!(journaled(&data, "batch").is_empty());
        assert_eq!(everywhere(&writer, &project).await, [4; 4], "stored before: {was_stored}");
        assert_eq!(service.stop_and_measure("tallyhouse_ingest_journal_replayed_total").await, 1);
        // And never again.
        let service = Service::start(writer.clone(), &data, &project).await;
        let again =
            json(&service.send_stored(r#"[{"eventId":"3","eventType":"a"},{"eventId":"5","eventType":"a"}]"#).await);
        assert_eq!((again["accepted"].as_u64(), again["duplicates"].as_u64()), (Some(1), Some(1)));
        assert_eq!(service.stop_and_measure("tallyhouse_ingest_journal_replayed_total").await, 0);
        assert_eq!(everywhere(&writer, &project).await, [5; 4], "stored before: {was_stored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_file_is_set_aside_and_blocks_nobody() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    left_behind(&data, &project, &["1"]);
    let path = journaled(&data, "batch").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).unwrap();
    let service = Service::start(writer.clone(), &data, &project).await;
    assert_eq!(service.send(r#"{"eventType":"a"}"#).await.status.as_u16(), 202);
    assert_eq!(journaled(&data, "damaged").len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_clickhouse_nothing_is_acknowledged() {
    let (data, project) = (Folder::create(), new_project());
    let nowhere =
        tallyhouse_sql::Connection { url: "http://127.0.0.1:9".into(), ..support::shared().await.engine.writer() };
    let service = Service::start_unready(nowhere, &data, &project, &[]).await;
    let mut last = None;
    eventually("the listener answers", async || {
        last = service.endpoint().post(Bytes::from_static(b"{\"eventType\":\"a\"}")).await.ok();
        last.is_some()
    })
    .await;
    let reply = last.unwrap();
    assert_eq!((reply.status.as_u16(), json(&reply)["code"].as_str()), (503, Some("starting")));
    assert!(reply.retry_after().is_some());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_stores_and_answers_what_was_taken() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let proxy = Proxy::start(writer.clone()).await;
    let slow_inserts = [("INGEST_LINGER_MS", "10000"), ("INGEST_ACK_TIMEOUT_MS", "60000")];
    let service = Service::start_with(proxy.connection.clone(), &data, &project, &slow_inserts).await;
    assert_eq!(service.send(r#"{"eventId":"1","eventType":"a"}"#).await.status.as_u16(), 202);
    assert_eq!(everywhere(&writer, &project).await, [0; 4]);
    proxy.set(Mode::HoldAnswers);
    let endpoint = service.endpoint();
    let body = Bytes::from_static(b"{\"eventId\":\"2\",\"eventType\":\"a\"}");
    let waiting = tokio::spawn(async move { endpoint.post_with("wait=stored", body).await });
    eventually("both are in the log", async || service.metric("tallyhouse_ingest_log_records_total") == 2).await;
    let stopping = tokio::spawn(service.stop());
    eventually("the last batch was inserted", async || everywhere(&writer, &project).await == [2; 4]).await;
    assert!(!waiting.is_finished() && !stopping.is_finished());
    proxy.set(Mode::Pass);
    stopping.await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status.as_u16(), 200);
    assert_eq!(everywhere(&writer, &project).await, [2; 4]);
    assert!(!is_inserting(&data));
}
