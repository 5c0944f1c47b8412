//! Bodies that are not quite what they should be: what can be taken is taken, each refusal names its event, and says what was meant.

use std::io::Write;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};
use tallyhouse_schema::limits::MAX_EVENT_BYTES;

use tallyhouse_testkit::ingest_service::{Service, count, everywhere, json};
use tallyhouse_testkit::{self as support, Folder, new_project};

const NDJSON: (HeaderName, &str) = (CONTENT_TYPE, "application/x-ndjson");

async fn send(service: &Service, body: &[u8], headers: &[(HeaderName, &'static str)]) -> (u16, Value) {
    let with = |endpoint: tallyhouse_service::http_client::Endpoint, (name, value): &(HeaderName, &'static str)| {
        endpoint.header(name.clone(), value).unwrap()
    };
    let endpoint = headers.iter().fold(service.endpoint(), with);
    let reply = endpoint.post(Bytes::copy_from_slice(body)).await.unwrap();
    (reply.status.as_u16(), json(&reply))
}

/// Index, id and code of each refused event.
fn rejected(answer: &Value) -> Vec<(u64, Option<&str>, &str)> {
    let rejected = answer["rejected"].as_array().unwrap_or_else(|| panic!("{answer}"));
    rejected
        .iter()
        .map(|r| (r["index"].as_u64().unwrap(), r["eventId"].as_str(), r["code"].as_str().unwrap()))
        .collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_text_is_repaired_in_its_event_and_nowhere_else() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let events = |prefix: &str| {
        [
            format!(r#"{{"eventId":"{prefix}-good","eventType":"a","x":"ü \u00fc \ud83d\ude00 \\ud800"}}"#)
                .into_bytes(),
            [format!(r#"{{"eventId":"{prefix}-broken","eventType":"a","x":"M"#).as_bytes(), b"\xfcnchen\"}"].concat(),
            format!(r#"{{"eventId":"{prefix}-half","eventType":"a","y\udc00":"\ud83d"}}"#).into_bytes(),
            [format!(r#"{{"eventId":"{prefix}-person","eventType":"a","userId":"#).as_bytes(), b"\"J\xf6rg\"}"]
                .concat(),
            format!(r#"{{"eventType":"a","eventId":"{prefix}-\ud800"}}"#).into_bytes(),
            [format!(r#"{{"eventId":"{prefix}-bare","eventType":"a","x":"#).as_bytes(), b"\xff}"].concat(),
        ]
    };
    let array = |prefix| [b"[", &events(prefix).join(&b',')[..], b"]"].concat();
    let bodies = [
        (events("lines").join(&b'\n'), vec![NDJSON], "lines"),
        ([b"\xef\xbb\xbf", &events("bom").join(&b'\n')[..]].concat(), vec![NDJSON], "bom"),
        (array("array"), vec![], "array"),
        ([b"\xef\xbb\xbf{\"events\":", &array("object")[..], b"}"].concat(), vec![], "object"),
        (gzip(&array("gzip")), vec![(CONTENT_ENCODING, "gzip")], "gzip"),
        (
            zstd::encode_all(&events("zstd").join(&b'\n')[..], 1).unwrap(),
            vec![NDJSON, (CONTENT_ENCODING, "zstd")],
            "zstd",
        ),
    ];
    for (body, headers, prefix) in &bodies {
        let (status, answer) = send(&service, body, headers).await;
        let id = |name: &str| format!("{prefix}-{name}");
        let (person, half, bare) = (id("person"), id("\u{fffd}"), id("bare"));
        assert_eq!((status, answer["accepted"].as_u64()), (202, Some(3)), "{prefix}: {answer}");
        let expected =
            [(3, Some(&*person), "broken_id"), (4, Some(&*half), "broken_id"), (5, Some(&*bare), "invalid_json")];
        assert_eq!(rejected(&answer), expected, "{prefix}");
        let warnings = answer["warnings"].as_array().unwrap().iter();
        let warned: Vec<_> = warnings.map(|w| json!([w["index"], w["eventId"], w["code"], w["field"]])).collect();
        let expected = json!([[1, id("broken"), "repaired_text", "x"], [2, id("half"), "repaired_text", "y\u{fffd}"]]);
        assert_eq!(Value::from(warned), expected, "{prefix}");
    }
    let sent = bodies.len() as u64;
    assert_eq!(service.send_stored(r#"{"eventType":"last"}"#).await.status, 200);
    assert_eq!(everywhere(&writer, &project).await, [3 * sent + 1; 4]);
    let sql = "SELECT countIf(props = map('x', 'ü ü 😀 \\\\ud800') AND bitAnd(flags, 128) = 0) * 10000 \
        + countIf(props = map('x', 'M�nchen') AND bitAnd(flags, 128) = 128) * 100 \
        + countIf(props = map('y�', '�') AND bitAnd(flags, 128) = 128) FROM events WHERE project_id = {project:String}";
    assert_eq!(count(&writer, &project, sql).await, sent * 10_101);

    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        for text in ["\u{feff}[{}]", "[{}]"] {
            let utf16: Vec<u8> = text.encode_utf16().flat_map(order).collect();
            let (status, answer) = send(&service, &utf16, &[]).await;
            assert_eq!((status, answer["code"].as_str()), (400, Some("utf16_body")), "{answer}");
        }
    }
    for (compressed, encoding) in [(gzip(b"[{}]"), "gzip"), (zstd::encode_all(&b"[{}]"[..], 1).unwrap(), "zstd")] {
        let (status, answer) = send(&service, &compressed, &[]).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("undeclared_compression")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(&format!("Content-Encoding: {encoding}")), "{answer}");
    }
    let beside = json!({"events": [{}, {"eventId": "taken", "eventType": "x"}, {"eventType": "x"}], "context": {"country": "DE"}});
    let (_, answer) = send(&service, beside.to_string().as_bytes(), &[]).await;
    let expected = json!([[1, "taken", "ignored_field", "context"]]);
    let warned: Vec<_> = answer["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| json!([w["index"], w["eventId"], w["code"], w["field"]]))
        .collect();
    assert_eq!(Value::from(warned), expected, "{answer}");
    let (status, answer) = send(&service, &vec![0xff; 1 << 20], &[]).await;
    assert_eq!((status, answer["code"].as_str()), (413, Some("body_too_large")), "{answer}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_names_its_event() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let refused = [
        (r#"{"eventId":"nan","eventType":"a","value":NaN}"#.to_owned(), "invalid_json"),
        (r#"{"eventId":"infinite","eventType":"a","value":-Infinity}"#.to_owned(), "invalid_json"),
        (r#"{eventType:"a","eventId":"quotes"}"#.to_owned(), "invalid_json"),
        (r#"{"eventId":"type","eventType":{}}"#.to_owned(), "wrong_type"),
        (r#"{"eventId":"text","eventType":"a","properties":"{\"a\":1}"}"#.to_owned(), "wrong_type"),
        (format!(r#"{{"eventId":"deep","eventType":"a","x":{}}}"#, deep(20)), "too_deep"),
        (format!(r#"{{"eventId":"deeper","eventType":"a","x":{}}}"#, deep(2_000)), "too_deep"),
        (format!(r#"{{"eventType":"a","x":"{}","eventId":"large"}}"#, "x".repeat(MAX_EVENT_BYTES)), "event_too_large"),
        (r#"{"eventId":"time","eventType":"a","timestamp":"soon"}"#.to_owned(), "invalid_timestamp"),
    ];
    let good = r#"{"eventId":"good","eventType":"a"}"#.to_owned();
    let texts: Vec<&str> = refused.iter().map(|(text, _)| text.as_str()).chain([good.as_str()]).collect();
    let ids = ["nan", "infinite", "quotes", "type", "text", "deep", "deeper", "large", "time"];
    let expected: Vec<_> =
        ids.iter().zip(&refused).enumerate().map(|(at, (id, (_, code)))| (at as u64, Some(*id), *code)).collect();
    for (body, headers, duplicates) in [
        (format!("[{}]", texts.join(",\n")), &[][..], 0),
        (format!("{{\"events\":[{}]}}", texts.join(",")), &[], 1),
        (texts.join("\n"), &[NDJSON], 1),
    ] {
        let (status, answer) = send(&service, body.as_bytes(), headers).await;
        assert_eq!((status, answer["duplicates"].as_u64()), (202, Some(duplicates)), "{answer}");
        assert_eq!(rejected(&answer), expected);
        assert!(answer["rejected"][0]["message"].as_str().unwrap().contains("send null"), "{answer}");
    }
    for ((text, code), id) in refused.iter().zip(ids) {
        let (status, answer) = send(&service, text.as_bytes(), &[]).await;
        assert_eq!((status, &answer["code"], &answer["eventId"]), (400, &json!(code), &json!(id)), "{answer}");
        assert_eq!(answer["index"], 0);
    }
    assert_eq!(service.send_stored(r#"{"eventType":"last"}"#).await.status, 200);
    assert_eq!(everywhere(&writer, &project).await, [2; 4], "the good one once, and the last one");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_nothing_is_taken_is_no_success() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer.clone(), &data, &project).await;
    for (body, headers) in
        [(r#"[{"eventId":"a"},{"eventId":"b"}]"#, &[][..]), ("{\"eventId\":\"a\"}\n{\"eventId\":\"b\"}", &[NDJSON])]
    {
        let (status, answer) = send(&service, body.as_bytes(), headers).await;
        assert_eq!(
            (status, &answer["code"], &answer["accepted"]),
            (400, &json!("all_rejected"), &json!(0)),
            "{answer}"
        );
        assert_eq!(rejected(&answer), [(0, Some("a"), "missing_field"), (1, Some("b"), "missing_field")]);
        assert!(answer["message"].is_string());
    }
    assert_eq!(service.counted("tallyhouse_ingest_requests_total", "rejected"), 2);
    let good = r#"{"eventId":"good","eventType":"a"}"#;
    for (body, expected) in [
        (format!("[{good},{{}}]"), json!([1, 0, 1])),
        // A duplicate is counted, by its first copy.
        (format!("[{good},{good}]"), json!([0, 2, 0])),
        (format!("[{good},{{}}]"), json!([0, 1, 1])),
    ] {
        let (status, answer) = send(&service, body.as_bytes(), &[]).await;
        let found = json!([answer["accepted"], answer["duplicates"], answer["rejected"].as_array().unwrap().len()]);
        assert_eq!((status, found), (202, expected), "{answer}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_shape_is_answered_with_what_was_meant() {
    let (writer, data, project) = (support::shared().await.engine.writer(), Folder::create(), new_project());
    let service = Service::start(writer, &data, &project).await;
    for (body, code, field, hint) in [
        (r#"{"batch":[{"event":"a"}],"writeKey":"k"}"#, "wrong_envelope", "batch", "did you mean `events`?"),
        (r#"{"events":{"eventType":"a"}}"#, "wrong_envelope", "events", "must be an array"),
        (r#"{"event":"signup"}"#, "missing_field", "eventType", "you sent `event`: did you mean `eventType`?"),
        (r#"{"type":"track","event":"a","messageId":"1"}"#, "missing_field", "eventType", "`messageId` as `eventId`"),
        (
            r#"{"event":"a","properties":{"distinct_id":"u"}}"#,
            "missing_field",
            "eventType",
            "`distinct_id` as `userId`",
        ),
        (
            r#"{"specversion":"1.0","type":"a","source":"/","id":"1","data":{}}"#,
            "missing_field",
            "eventType",
            "CloudEvent",
        ),
        (r#"{"EventType":"a"}"#, "missing_field", "eventType", "you sent `EventType`"),
        (r#"{"event":{"eventType":"a"}}"#, "missing_field", "eventType", "`event.eventType`"),
        (r#"{"properties":{"eventType":"a"}}"#, "missing_field", "eventType", "within `properties`"),
        ("event=signup", "form_encoded", "", "send JSON"),
        (r#""{\"eventType\":\"a\"}""#, "double_encoded", "", "encoded twice"),
        ("{\"eventType\":\"a\"}\n{\"eventType\":\"b\"}", "looks_like_ndjson", "", "application/x-ndjson"),
    ] {
        let (status, answer) = send(&service, body.as_bytes(), &[]).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{body}: {answer}");
        assert_eq!(answer["field"].as_str().unwrap_or_default(), field, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(hint), "{answer}");
    }
    let (status, answer) = send(&service, b"[\n{\"eventType\":\"a\"}\n]", &[NDJSON]).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("looks_like_json")), "{answer}");
    let lines =
        "[{\"eventType\":\"a\"}]\n{\"events\":[{\"eventType\":\"a\"}]}\n\"{\\\"eventType\\\":1}\"\n{\"name\":\"x\"}";
    let (status, answer) = send(&service, lines.as_bytes(), &[NDJSON]).await;
    let codes: Vec<_> = rejected(&answer).iter().map(|(_, _, code)| *code).collect();
    assert_eq!((status, codes), (400, vec!["not_an_object", "missing_field", "double_encoded", "missing_field"]));
    for (at, hint) in
        ["array of events by itself", "array in `events`", "encoded twice", "you sent `name`"].iter().enumerate()
    {
        assert!(answer["rejected"][at]["message"].as_str().unwrap().contains(hint), "{answer}");
    }
    service.stop().await;
}
