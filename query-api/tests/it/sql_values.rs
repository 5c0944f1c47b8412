//! Values of every type in answers of `POST /v1/sql`: valid text, whatever a column holds.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::sql_api::{ask, service};
use tallyhouse_testkit::query_service::Service;

/// An answer as it comes, byte by byte.
pub async fn bytes(service: &Service, project: &str, method: &str, path: &str, body: &str) -> (u16, Bytes) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().method(method).uri(format!("{}{path}", service.url()));
    let request = request.header("x-api-key", project).header("content-type", "application/json");
    let (parts, body) =
        client.request(request.body(Full::new(body.to_owned().into())).unwrap()).await.unwrap().into_parts();
    (parts.status.as_u16(), body.collect().await.unwrap().to_bytes())
}

/// The answer to a statement as text, which it must be.
async fn text(service: &Service, request: Value) -> String {
    let (status, body) = bytes(service, "x", "POST", "/v1/sql", &request.to_string()).await;
    assert_eq!(status, 200, "{request}: {}", String::from_utf8_lossy(&body));
    String::from_utf8(body.to_vec()).unwrap_or_else(|error| panic!("{request}: {error}"))
}

#[tokio::test]
async fn text_is_utf_8_whatever_bytes_a_column_holds() {
    let service = service(&["x"]).await;
    let sql = "SELECT unhex('ff') AS plain, toFixedString(unhex('fe'), 2) AS fixed, [unhex('c3'), 'a'] AS list, \
               tuple(unhex('e282')) AS pair, map(unhex('ff'), unhex('80')) AS names, \
               arrayReduce('groupArrayState', [unhex('ff')]) AS state, unhex('c3a4') AS fine";
    let answer: Value = serde_json::from_str(&text(&service, json!({"sql": sql})).await).unwrap();
    let row = answer["rows"][0].as_array().unwrap();
    let bad = "\u{fffd}";
    assert_eq!(row[..5], [json!(bad), json!("\u{fffd}\0"), json!([bad, "a"]), json!([bad]), json!({bad: bad})]);
    assert!(row[5].as_str().unwrap().contains(bad) && row[6] == "ä", "{answer}");
    let line: Value = serde_json::from_str(&text(&service, json!({"sql": sql, "format": "ndjson"})).await).unwrap();
    assert_eq!((&line["plain"], &line["names"]), (&json!(bad), &json!({bad: bad})));
    let csv = text(&service, json!({"sql": "SELECT unhex('ff') AS a, [unhex('ff')] AS b", "format": "csv"})).await;
    assert_eq!(csv, "\"a\",\"b\"\n\"\u{fffd}\",\"['\u{fffd}']\"\n");
    // Bytes that come in many pieces, none of them whole.
    let many = "SELECT concat(repeat(unhex('e282ac'), 1000), unhex('ff')) AS t FROM numbers(3000)";
    let lines = text(&service, json!({"sql": many, "format": "ndjson"})).await;
    assert_eq!(lines.matches("€\u{fffd}\"}\n").count(), 3_000);
    assert_eq!(
        (lines.matches('€').count(), lines.matches('\u{fffd}').count()),
        (3_000_000, 3_000),
        "none is cut in two"
    );
    let binary = json!({"sql": "SELECT unhex('ff') AS a", "format": "parquet"});
    let parquet = bytes(&service, "x", "POST", "/v1/sql", &binary.to_string()).await.1;
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"), "{parquet:?}");
    assert!(!parquet.windows(3).any(|three| three == bad.as_bytes()), "binary is not text: {parquet:?}");
    // A text about bytes is one too, and no outage.
    let refused = ask(&service, "x", &json!({"sql": "SELECT toUInt8(unhex('ff'))"})).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (400, &json!("bad_sql")), "{refused:?}");
    assert!(refused.body["message"].as_str().unwrap().contains("not UTF-8"), "{refused:?}");
    service.stop().await;
}

#[tokio::test]
async fn every_type_is_valid_json() {
    let service = service(&["x"]).await;
    for (sql, expected) in [
        (
            "nan, inf, -inf, [nan], tuple(inf), map('a', nan), toFloat32('nan')",
            "null,null,null,[null],[null],{\"a\":null},null",
        ),
        ("CAST(nan, 'Dynamic'), CAST(nan, 'Nullable(Float64)'), -0.0, 5e-324", "null,null,-0,5e-324"),
        (
            "toDecimal256('-1234567890123456789012345678901234567890.5', 20)",
            "-1234567890123456789012345678901234567890.5",
        ),
        (
            "toInt256('-57896044618658097711785492504343953926634992332820282019728792003956564819968')",
            "-57896044618658097711785492504343953926634992332820282019728792003956564819968",
        ),
        (
            "toUInt256('115792089237316195423570985008687907853269984665640564039457584007913129639935')",
            "115792089237316195423570985008687907853269984665640564039457584007913129639935",
        ),
        ("toDate('2200-01-01') < toDate('1970-01-02'), toDate32('1899-01-01')", "0,\"1900-01-01\""),
        ("toDateTime64('2299-12-31 23:59:59.999', 3, 'UTC')", "\"2299-12-31 23:59:59.999\""),
        (
            "CAST('a\"', 'Enum8(\\'a\"\\' = 1)'), toUUID('00000000-0000-0000-0000-000000000001'), toIPv6('::1')",
            "\"a\\\"\",\"00000000-0000-0000-0000-000000000001\",\"::1\"",
        ),
        (
            "toLowCardinality(toNullable('x')), CAST(NULL, 'LowCardinality(Nullable(String))'), [NULL, 1]",
            "\"x\",null,[null,1]",
        ),
        // What a reader makes of a key that comes twice is its own.
        ("map('a', 1, 'a', 2)", "{\"a\":1,\"a\":2}"),
        (
            "map(tuple('a\"', 1), 2), map(nan, 1), map(18446744073709551615, 1)",
            "{\"('a\\\"',1)\":2},{\"nan\":1},{\"18446744073709551615\":1}",
        ),
        (
            "CAST('{\"a\":9007199254740993,\"b\":[null]}', 'JSON'), CAST(toUInt64(5), 'Variant(UInt64, String)')",
            "{\"a\":9007199254740993,\"b\":[null]},5",
        ),
        ("char(0, 1, 31, 127, 34, 92)", "\"\\u0000\\u0001\\u001F\u{7f}\\\"\\\\\""),
    ] {
        let answer = text(&service, json!({"sql": format!("SELECT {sql}")})).await;
        let parsed: Result<Value, _> = serde_json::from_str(&answer);
        assert!(parsed.is_ok(), "{sql}: {answer}");
        let (_, rows) = answer.split_once("\"rows\":[[").unwrap();
        let row: String = rows.split("]],\"meta\"").next().unwrap().replace(", ", ",");
        assert!(row.starts_with(expected), "{sql}: {row}");
    }
    let empty: Value = serde_json::from_str(&text(&service, json!({"sql": "SELECT 1 AS a WHERE 0"})).await).unwrap();
    assert_eq!((&empty["columns"][0]["name"], &empty["rows"]), (&json!("a"), &json!([])));
    assert_eq!(text(&service, json!({"sql": "SELECT 1 AS a WHERE 0", "format": "csv"})).await, "\"a\"\n");
    assert_eq!(text(&service, json!({"sql": "SELECT 1 AS a WHERE 0", "format": "ndjson"})).await, "");
    service.stop().await;
}

#[tokio::test]
async fn integers_of_64_bits_are_texts_when_asked() {
    const SQL: &str = "SELECT toUInt64(18446744073709551615) AS a, [toInt64(-1)] AS b, map('k', toUInt128(5)) AS c, \
                       tuple(toInt256(7), toUInt32(8)) AS d, toNullable(toUInt64(9)) AS e, count() AS f, \
                       CAST('{\"x\":9007199254740993}', 'JSON') AS g, toDecimal64(1.5, 2) AS h, CAST(NULL, 'Nullable(UInt64)') AS i";
    let service = service(&["x"]).await;
    let texts =
        json!(["18446744073709551615", ["-1"], {"k": "5"}, ["7", 8], "9", "1", {"x": "9007199254740993"}, 1.5, null]);
    let asked = async |query: &str, request: Value| {
        let (status, body) = bytes(&service, "x", "POST", &format!("/v1/sql{query}"), &request.to_string()).await;
        (status, serde_json::from_slice::<Value>(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    };
    let (status, answer) = asked("?int64=string", json!({"sql": SQL})).await;
    assert_eq!((status, &answer["rows"][0]), (200, &texts), "{answer}");
    assert_eq!(answer["columns"][0]["type"], "UInt64");
    let (_, answer) = asked("", json!({"sql": SQL, "int64": "string"})).await;
    assert_eq!(answer["rows"][0], texts);
    let (_, line) = asked("?int64=string", json!({"sql": SQL, "format": "ndjson"})).await;
    assert_eq!((&line["a"], &line["b"], &line["g"]), (&texts[0], &texts[1], &texts[6]));
    for query in ["", "?int64=number"] {
        let (_, answer) = asked(query, json!({"sql": SQL})).await;
        assert_eq!(answer["rows"][0][0], json!(18_446_744_073_709_551_615_u64), "{query}");
        assert_eq!(answer["rows"][0][5], json!(1), "{query}");
    }
    let csv = json!({"sql": "SELECT toUInt64(1) AS a, CAST('{\"x\":1}', 'JSON') AS b", "format": "csv"});
    assert_eq!(asked("?int64=string", csv.clone()).await, asked("", csv).await);
    for (query, request, code, names) in [
        ("?int64=text", json!({"sql": SQL}), "bad_parameter", "`int64`"),
        ("?int46=string", json!({"sql": SQL}), "unknown_parameter", "did you mean int64"),
        ("?int64=string", json!({"sql": SQL, "int64": "string"}), "repeated_parameter", "`int64`"),
        ("", json!({"sql": SQL, "int64": 1}), "bad_field", "`int64`"),
        ("", json!({"sql": SQL, "int64": "String"}), "bad_field", "number or string"),
    ] {
        let (status, answer) = asked(query, request).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{query}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(names), "{answer}");
    }
    service.stop().await;
}

#[tokio::test]
async fn null_in_csv_is_empty_and_an_empty_text_is_quoted() {
    let service = service(&["x"]).await;
    let sql = "SELECT NULL AS a, '' AS b, 'NULL' AS c, CAST(NULL, 'Nullable(UInt8)') AS d, [NULL, 1] AS e, \
               tuple(NULL, 'x') AS f, map('k', NULL) AS g, CAST(NULL, 'Dynamic') AS h, '\\\\N' AS i";
    let csv = text(&service, json!({"sql": sql, "format": "csv"})).await;
    // A pair is two columns; within lists and maps NULL is the word.
    assert_eq!(csv.lines().nth(1), Some(",\"\",\"NULL\",,\"[NULL,1]\",,\"x\",\"{'k':NULL}\",,\"\\N\""), "{csv}");
    let line: Value = serde_json::from_str(&text(&service, json!({"sql": sql, "format": "ndjson"})).await).unwrap();
    assert_eq!(
        line,
        json!({"a": null, "b": "", "c": "NULL", "d": null, "e": [null, 1], "f": [null, "x"], "g": {"k": null}, "h": null, "i": "\\N"})
    );
    service.stop().await;
}

#[tokio::test]
async fn odd_statements_are_answered_or_refused_by_name() {
    let service = service(&["x"]).await;
    for sql in ["SELECT 1;", "SELECT 1 ; -- end", "/* a */ SELECT /* b */ 1", "\n\tSELECT 1\n", "(SELECT 1)"] {
        let reply = ask(&service, "x", &json!({"sql": sql})).await;
        assert_eq!((reply.status.as_u16(), &reply.body["rows"]), (200, &json!([[1]])), "{sql}: {reply:?}");
    }
    for (sql, code, says) in [
        ("", "bad_field", "`sql`: it is empty"),
        (" \n\t", "bad_field", "`sql`: it is empty"),
        ("-- nothing", "bad_sql", "nothing but comments"),
        ("/* nothing */;", "bad_sql", "nothing but comments"),
        (";", "bad_sql", "starts with SELECT or WITH"),
        ("SELECT 1; SELECT 2", "bad_sql", "one statement at a time"),
        ("SELECT 1;;", "bad_sql", "one statement at a time"),
        ("SELECT 1 FORMAT JSON", "bad_sql", "leave FORMAT out"),
        ("SELECT 1 INTO OUTFILE 'x'", "bad_sql", ""),
        ("SELECT 'ä", "bad_sql", "not closed"),
        ("SELECT ä", "bad_sql", "not ASCII"),
        ("SELECT throwIf(1, 'größer\n/etc/passwd')", "bad_sql", "größer"),
    ] {
        let reply = ask(&service, "x", &json!({"sql": sql})).await;
        let message = reply.body["message"].as_str().unwrap_or_default();
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (400, &json!(code)), "{sql}: {reply:?}");
        assert!(
            message.contains(says) && message.chars().count() <= 400 && !message.contains("/etc"),
            "{sql}: {message}"
        );
    }
    for (name, value) in [
        ("sql", json!(1)),
        ("sql", json!(null)),
        ("sql", json!(["SELECT 1"])),
        ("format", json!(1)),
        ("format", json!("JSON")),
        ("params", json!("a")),
    ] {
        let mut request = json!({"sql": "SELECT 1"});
        request[name] = value;
        let reply = ask(&service, "x", &request).await;
        assert_eq!((reply.status.as_u16(), &reply.body["field"]), (400, &json!(name)), "{request}: {reply:?}");
    }
    service.stop().await;
}
