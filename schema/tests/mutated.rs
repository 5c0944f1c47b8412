//! Valid inputs with a few bytes changed, the same ones in every run: a bounded part of what `fuzz/` looks for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that panics fails its test; .clippy.toml exempts only the tests themselves"
)]

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tallyhouse_schema::body::Layout;
use tallyhouse_schema::wire;

mod hold;

/// Enough that a second of `make test` finds what a change breaks; `fuzz/` looks for longer.
const ROUNDS: usize = 4_000;

const BODIES: [&str; 8] = [
    r#"{"eventId":"e-1","eventType":"purchase","userId":"u","timestamp":"2027-01-15T07:59:58.123Z","properties":{"value":12.5,"currency":"EUR"}}"#,
    r#"[{"eventType":"a","context":{"ip":"203.0.113.9","userAgent":"x","country":"DE","device":{"type":"tv"},"page":{"path":"/p"}}},{"event_type":"b"}]"#,
    r#"{"sentAt":"2027-01-15T08:00:00Z","events":[{"eventType":"a","properties":{"a":{"b":{"c":[1,"2",{"d":null}]}}}},{"eventType":"b","userId":7}]}"#,
    r#"{"eventType":"a","properties":{"n":9007199254740993,"m":-0.0,"big":1e999,"e":12e-7,"t":true,"s":"\u00e4\n\ud83d\ude00"},"extra":[[1],[2]]}"#,
    r#"{"eventType":"purchase","event_id":"x","eventId":"y","timestamp":1800000000,"sentAt":1.5,"value":"12.50","a.b":1,"a":{"b":2},"amount":{}}"#,
    "{\"eventType\":\"a\",\"anonymousId\":\"\u{e4}\u{1F600}\"}\n{\"eventType\":\"b\",\"sessionId\":18446744073709551617}\n",
    r#"{"eventType":"flight_departed","properties":{"origin":"JFK","carrier":"UA","dep_delay":-3,"dest":"x\u0000y\u001fz"}}"#,
    r#"[{"eventType":"a","timestamp":"2027-01-15T09:00:00+01:00[Europe/Berlin]"},{"eventType":"","x":NaN},{"eventType":5}]"#,
];

/// What stands between and within values of JSON.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "1e400",
    "-",
    "0",
    ".5",
    "\u{0}",
    "\u{ff}",
    "\n",
    "\"eventType\":\"z\",",
    "\"context\":{\"country\":",
    "{\"a\":",
    "[[[[[[[[[[[",
    "9223372036854775808",
];

/// Changes a few places.
fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        let until = (at + rng.random_range(0..12)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => drop(bytes.splice(at..at, PIECES.choose(rng).unwrap().bytes())),
            1 => drop(bytes.splice(at..until, PIECES.choose(rng).unwrap().bytes())),
            2 => bytes.truncate(at),
            3 => bytes[at..until].iter_mut().for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
            4 => {
                let copy = bytes[at..until].to_vec();
                let to = rng.random_range(0..=bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            _ => drop(bytes.drain(at..until)),
        }
    }
}

#[test]
fn bodies_end_as_events_or_as_refusals() {
    let mut rng = StdRng::seed_from_u64(14);
    let mut events = 0;
    for _ in 0..ROUNDS {
        let mut bytes = BODIES.choose(&mut rng).unwrap().as_bytes().to_vec();
        mutate(&mut bytes, &mut rng);
        for layout in [Layout::Json, Layout::Ndjson] {
            hold::body(&bytes, layout, |_| events += 1);
        }
    }
    assert!(events > ROUNDS / 4, "{events}: the mutations leave nothing to read");
}

#[test]
fn texts_of_single_events_too() {
    let mut rng = StdRng::seed_from_u64(15);
    for _ in 0..ROUNDS {
        let mut bytes = BODIES.choose(&mut rng).unwrap().as_bytes().to_vec();
        mutate(&mut bytes, &mut rng);
        hold::event(&String::from_utf8_lossy(&bytes), None, |_| {});
    }
}

#[test]
fn records_are_refused_or_written_as_they_were() {
    let mut records = Vec::new();
    for body in BODIES {
        for layout in [Layout::Json, Layout::Ndjson] {
            hold::body(body.as_bytes(), layout, |event| {
                let mut bytes = Vec::new();
                wire::encode("shop", event, &mut bytes);
                records.push(bytes);
            });
        }
    }
    assert!(records.len() > BODIES.len());
    let mut rng = StdRng::seed_from_u64(16);
    for _ in 0..ROUNDS {
        let mut bytes = records.choose(&mut rng).unwrap().clone();
        mutate(&mut bytes, &mut rng);
        hold::record(&bytes);
    }
}
