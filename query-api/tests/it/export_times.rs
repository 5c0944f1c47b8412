//! Times and texts of `GET /v1/export`, as a reader of each format gets them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, new_project, ten_days_ago};

/// Instants beside changes of clocks, and what the clocks showed: computed with Python's `zoneinfo` (tz 2025b).
const SHOWN: [(&str, &[(&str, &str)]); 14] = [
    // It skipped 2011-12-30.
    (
        "Pacific/Apia",
        &[
            ("2011-12-30T09:59:59.999Z", "2011-12-29T23:59:59.999-10:00"),
            ("2011-12-30T10:00:00.000Z", "2011-12-31T00:00:00.000+14:00"),
            ("2021-01-15T10:00:00.000Z", "2021-01-16T00:00:00.000+14:00"),
            ("2026-11-20T12:00:00.000Z", "2026-11-21T01:00:00.000+13:00"),
        ],
    ),
    (
        "Asia/Kolkata",
        &[
            ("2026-11-20T18:30:00.000Z", "2026-11-21T00:00:00.000+05:30"),
            ("1943-01-01T00:00:00.000Z", "1943-01-01T06:30:00.000+06:30"),
        ],
    ),
    (
        "Australia/Lord_Howe",
        &[
            ("2026-04-04T14:59:59.999Z", "2026-04-05T01:59:59.999+11:00"),
            ("2026-04-04T15:00:00.000Z", "2026-04-05T01:30:00.000+10:30"),
            ("2026-10-03T15:29:59.999Z", "2026-10-04T01:59:59.999+10:30"),
            ("2026-10-03T15:30:00.000Z", "2026-10-04T02:30:00.000+11:00"),
        ],
    ),
    (
        "America/St_Johns",
        &[
            ("2026-03-08T05:29:59.999Z", "2026-03-08T01:59:59.999-03:30"),
            ("2026-03-08T05:30:00.000Z", "2026-03-08T03:00:00.000-02:30"),
            ("2026-11-01T04:30:00.000Z", "2026-11-01T01:00:00.000-03:30"),
        ],
    ),
    // Ramadan.
    (
        "Africa/Casablanca",
        &[
            ("2025-02-23T01:59:59.999Z", "2025-02-23T02:59:59.999+01:00"),
            ("2025-02-23T02:00:00.000Z", "2025-02-23T02:00:00.000+00:00"),
            ("2025-04-06T02:00:00.000Z", "2025-04-06T03:00:00.000+01:00"),
        ],
    ),
    (
        "Europe/Dublin",
        &[
            ("2026-03-29T00:59:59.999Z", "2026-03-29T00:59:59.999+00:00"),
            ("2026-03-29T01:00:00.000Z", "2026-03-29T02:00:00.000+01:00"),
            ("2026-10-25T01:00:00.000Z", "2026-10-25T01:00:00.000+00:00"),
        ],
    ),
    (
        "Asia/Gaza",
        &[
            ("2025-04-11T23:59:59.999Z", "2025-04-12T01:59:59.999+02:00"),
            ("2025-04-12T00:00:00.000Z", "2025-04-12T03:00:00.000+03:00"),
            ("2025-10-24T23:00:00.000Z", "2025-10-25T01:00:00.000+02:00"),
        ],
    ),
    (
        "America/Nuuk",
        &[
            ("2023-03-26T00:59:59.999Z", "2023-03-25T21:59:59.999-03:00"),
            ("2023-03-26T01:00:00.000Z", "2023-03-25T23:00:00.000-02:00"),
            ("2024-03-31T01:00:00.000Z", "2024-03-31T00:00:00.000-01:00"),
            ("2026-10-25T01:00:00.000Z", "2026-10-24T23:00:00.000-02:00"),
        ],
    ),
    (
        "Antarctica/Troll",
        &[
            ("2026-03-29T00:59:59.999Z", "2026-03-29T00:59:59.999+00:00"),
            ("2026-03-29T01:00:00.000Z", "2026-03-29T03:00:00.000+02:00"),
            ("2026-10-25T01:00:00.000Z", "2026-10-25T01:00:00.000+00:00"),
        ],
    ),
    (
        "Pacific/Kiritimati",
        &[
            ("1994-12-31T09:59:59.999Z", "1994-12-30T23:59:59.999-10:00"),
            ("1994-12-31T10:00:00.000Z", "1995-01-01T00:00:00.000+14:00"),
            ("2026-11-20T12:00:00.000Z", "2026-11-21T02:00:00.000+14:00"),
        ],
    ),
    // Rules that changed lately.
    ("Asia/Almaty", &[("2024-02-29T19:00:00.000Z", "2024-03-01T00:00:00.000+05:00")]),
    (
        "America/Asuncion",
        &[
            ("2024-10-06T03:59:59.999Z", "2024-10-05T23:59:59.999-04:00"),
            ("2025-07-01T00:00:00.000Z", "2025-06-30T21:00:00.000-03:00"),
        ],
    ),
    ("America/Ciudad_Juarez", &[("2022-11-30T06:00:00.000Z", "2022-11-29T23:00:00.000-07:00")]),
    (
        "Asia/Tehran",
        &[
            ("2022-09-21T19:29:59.999Z", "2022-09-21T23:59:59.999+04:30"),
            ("2026-07-01T00:00:00.000Z", "2026-07-01T03:30:00.000+03:30"),
        ],
    ),
];

/// Ids that look like what stands around them, and one that is not UTF-8.
const IDS: &str =
    "['plain', '\",\"ts\":\"2026-01-01T00:00:00.000Z\"', 'a\"\n\",\"b\"\n', ',\"original_ts\":\"', 'x\\xffy', 'ä\\\\']";

/// An event of each of those ids an instant, which is its original time and its time of receipt.
async fn insert(project: &str, instants: &[&str]) {
    let writer = support::engine().await.writer();
    for (index, instant) in instants.iter().enumerate() {
        let insert = format!(
            "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, props, num_props, original_ts, \
             received_at, user_hash, retention_days) \
             SELECT '{project}', concat(arrayJoin({IDS}), '#{index}') AS id, 'typ\"e', \
             fromUnixTimestamp64Milli({}), map('ts', id, 'original_ts', '2026-01-01T00:00:00.000Z'), map('ts', 1.5), \
             parseDateTime64BestEffort('{instant}', 3, 'UTC'), parseDateTime64BestEffort('{instant}', 3, 'UTC'), \
             {index}, 730",
            ten_days_ago() * 1_000 + 1
        );
        support::execute(&writer, &insert).await.unwrap();
    }
}

async fn service(project: &str) -> Service {
    Service::start(support::engine().await.reader(), &[project], None).await
}

/// Rows by id: of each column its text, JSON of what is none.
async fn exported(service: &Service, project: &str, format: &str, zone: &str) -> BTreeMap<String, [String; 3]> {
    let path = format!("/v1/export?startTime={}&format={format}&timezone={zone}", ten_days_ago() * 1_000);
    let reply = service.get(project, &path).await;
    let body = reply.body.as_str().unwrap_or_else(|| panic!("{reply:?}"));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if format == "ndjson" {
        let lines =
            body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        return lines
            .map(|line| (text(&line["event_id"]), [&line["ts"], &line["original_ts"], &line["received_at"]].map(text)))
            .collect();
    }
    let mut reader = csv::Reader::from_reader(body.as_bytes());
    let names = reader.headers().unwrap().clone();
    let place = |name: &str| names.iter().position(|other| other == name).unwrap();
    let places = ["ts", "original_ts", "received_at"].map(place);
    let rows = reader.records().map(|row| row.unwrap());
    rows.map(|row| (row[0].to_owned(), places.map(|place| row[place].to_owned()))).collect()
}

#[tokio::test]
async fn times_are_what_the_clocks_of_the_zone_showed() {
    let project = new_project();
    let instants: Vec<&str> = SHOWN.iter().flat_map(|(_, shown)| shown.iter().map(|(instant, _)| *instant)).collect();
    insert(&project, &instants).await;
    let service = service(&project).await;
    for format in ["ndjson", "csv"] {
        let utc = exported(&service, &project, format, "UTC").await;
        assert_eq!(utc.len(), instants.len() * 6);
        for (index, instant) in instants.iter().enumerate() {
            assert_eq!(utc[&format!("plain#{index}")][1], *instant, "{format}");
        }
        for (zone, shown) in SHOWN {
            let local = exported(&service, &project, format, zone).await;
            assert_eq!(local.len(), utc.len(), "{zone} {format}");
            for (instant, expected) in shown {
                let index = instants.iter().position(|other| other == instant).unwrap();
                for id in ["plain", "\",\"ts\":\"2026-01-01T00:00:00.000Z\"", "x\u{fffd}y"] {
                    let [ts, original, received] = &local[&format!("{id}#{index}")];
                    assert_eq!([original, received], [expected; 2], "{zone} {format}");
                    let ts: jiff::Timestamp = ts.parse().unwrap();
                    assert_eq!(ts.as_millisecond(), ten_days_ago() * 1_000 + 1);
                }
            }
            // Wherever the clocks stand, the text is the instant.
            for (id, times) in &local {
                let instant = |text: &String| text.parse::<jiff::Timestamp>().unwrap();
                assert_eq!(times.each_ref().map(instant), utc[id].each_ref().map(instant), "{zone} {format} {id}");
            }
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn parquet_has_instants_in_utc_whatever_the_zone() {
    let (project, engine) = (new_project(), support::engine().await);
    let instants = ["2011-12-30T09:59:59.999Z", "2011-12-30T10:00:00.000Z"];
    insert(&project, &instants).await;
    let service = service(&project).await;
    let path = format!("/v1/export?startTime={}&format=parquet&timezone=Pacific/Apia", ten_days_ago() * 1_000);
    let file = crate::sql_values::bytes(&service, &project, "GET", &path, "").await.1;
    let hex = tallyhouse_sql::hex(&file);
    let types = format!(
        "SELECT arrayStringConcat(arraySort(arrayMap(c -> concat(c.name, ' ', c.logical_type), arrayFilter(c -> c.name IN \
         ('ts', 'original_ts', 'received_at'), columns))), ';') FROM format(ParquetMetadata, unhex('{hex}'))"
    );
    let types = support::ask(&engine.writer(), &types).await.unwrap();
    assert_eq!(types.matches("isAdjustedToUTC=true, timeUnit=milliseconds").count(), 3, "{types}");
    let times = format!(
        "SELECT arrayStringConcat(arraySort(groupUniqArray(toString(toUnixTimestamp64Milli(received_at)))), ' ') \
         FROM format(Parquet, unhex('{hex}'))"
    );
    assert_eq!(support::ask(&engine.writer(), &times).await.unwrap(), "1325239199999 1325239200000");
    service.stop().await;
}

#[tokio::test]
async fn null_and_the_empty_text_are_told_apart() {
    let project = new_project();
    insert(&project, &["2026-11-20T12:00:00.000Z"]).await;
    let service = service(&project).await;
    let from = ten_days_ago() * 1_000;
    for zone in ["UTC", "Asia/Kolkata"] {
        let csv = service.get(&project, &format!("/v1/export?startTime={from}&format=csv&timezone={zone}")).await;
        let row = csv.body.as_str().unwrap().lines().find(|line| line.starts_with("\"plain#0\"")).unwrap();
        // `value` is NULL, `user_id` is empty.
        assert!(row.contains("\",,\"\","), "{row}");
        let ndjson = service.get(&project, &format!("/v1/export?startTime={from}&timezone={zone}&int64=string")).await;
        let line = ndjson.body.as_str().unwrap().lines().find(|line| line.contains("plain#0")).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["value"], &line["user_id"]), (&Value::Null, &json!("")));
    }
    service.stop().await;
}
