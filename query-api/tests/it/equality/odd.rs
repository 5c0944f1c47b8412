//! Events as odd clients send them: those that are accepted must be counted as they are stored.
//!
//! Amounts are multiples of 1/8 below 2^33 or none, so that sums of a hundred thousand of them stay exact.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tallyhouse_sql::Shards;

use super::DAY;
use tallyhouse_testkit::Folder;
use tallyhouse_testkit::ingest_service::{Service, count, json};

/// Values of a country that are cut, cleaned, or read by filters in a way of their own.
pub const COUNTRIES: [&str; 5] = ["a,b:c", " DE ", "\u{dc}nico\u{301}de", "D\u{1f}E\u{7}", LONG];

/// More bytes than a dimension keeps; the cut falls into the middle of a character.
const LONG: &str = concat!(
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\u{e9}, and more"
);

/// Amounts as they are written in a body.
const AMOUNTS: [&str; 14] = [
    "12.5",
    "\"12.50\"",
    "\"-3\"",
    "-0.0",
    "0",
    "1e308",
    "-1.7976931348623157e308",
    "5e-324",
    "\"12,50\"",
    "\"\"",
    "true",
    "[1]",
    "null",
    "4294967296.125",
];

/// Fields that few clients send, or that contradict others.
const EXTRAS: [&str; 8] = [
    "",
    r#","properties":{"context":{"country":"checkout"},"a":{"b":1},"a.b":2,"order":9007199254740993}"#,
    r#","country":"top","properties":{"country":"inner","device":7}"#,
    r#","userId":"second","user_id":"third""#,
    r#","sentAt":0"#,
    r#","sentAt":"1999-12-31T23:59:59Z""#,
    r#","name":"half a pair: \ud83d""#,
    ",\"name\":\"broken: \u{fffd}\"",
];

const BODY: usize = 500;

/// Sends so many events of the quarter before `until`, every tenth of them twice; gives how many were stored.
pub async fn send(writers: &Shards, project: &str, events: u64, until: i64) -> u64 {
    let mut random = StdRng::seed_from_u64(events);
    let data = Folder::create();
    let service = Service::start_with(writers.clone(), &data, project, &[("INGEST_ACK_TIMEOUT_MS", "18000")]).await;
    let endpoint = service.endpoint_with_key(&format!("import-{project}"));
    let endpoint = endpoint.header(hyper::header::CONTENT_TYPE, "application/x-ndjson").unwrap();
    let lines: Vec<Vec<u8>> = (0..events).map(|number| event(&mut random, number, until)).collect();
    let mut accepted = 0;
    for lines in lines.chunks(BODY) {
        let again: Vec<&Vec<u8>> = lines.iter().step_by(10).collect();
        let body = lines.iter().chain(again).flat_map(|line| [line, &b"\n"[..]]).flatten().copied().collect::<Bytes>();
        let reply = endpoint.post_with("wait=stored", body).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.excerpt());
        accepted += json(&reply)["accepted"].as_u64().unwrap();
    }
    service.stop().await;
    let mut stored = 0;
    for shard in writers.iter() {
        stored += count(shard, project, "SELECT count() FROM events WHERE project_id = {project:String}").await;
    }
    assert!(stored == accepted && stored * 2 > events, "{stored} are stored, {accepted} were accepted of {events}");
    stored
}

fn event(random: &mut StdRng, number: u64, until: i64) -> Vec<u8> {
    let at = (until - random.random_range(0..90 * DAY)) * 1_000 + random.random_range(0..1_000);
    let time = match random.random_range(0..6) {
        0 => (at / 1_000).to_string(),
        1 => (at * 1_000).to_string(),
        2 => (at * 1_000_000).to_string(),
        3 => format!("\"{at}\""),
        _ => at.to_string(),
    };
    let event_type = ["view", "purchase", "flight_departed"].choose(random).unwrap();
    let country = serde_json::Value::from(*COUNTRIES.choose(random).unwrap());
    let (amount, extra) = (AMOUNTS.choose(random).unwrap(), EXTRAS.choose(random).unwrap());
    let user = random.random_range(0..300);
    let text = format!(
        r#"{{"eventId":"odd-{number}","eventType":"{event_type}","userId":{user},"timestamp":{time},"amount":{amount},
            "context":{{"country":{country},"device":"mobile"}},"origin":"JFK","carrier":{user}{extra}}}"#
    );
    // One line, and where the text has U+FFFD a byte that is no UTF-8.
    text.replace('\n', " ").split('\u{fffd}').map(str::as_bytes).collect::<Vec<_>>().join(&0xff)
}
