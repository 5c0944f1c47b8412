//! Events that are odd in every way that a body can be.

use std::time::Duration;

use tokio::time::Instant;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{ask, request};

const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let bodies = bodies();
    let until = Instant::now() + target.scale.lasts();
    let headers = [("x-api-key", target.attacker.ingest_key.as_str()), ("content-type", "application/json")];
    let (mut sent, mut unanswered, mut failed) = (0, 0, Vec::new());
    while sent < bodies.len() || Instant::now() < until {
        let Some((name, body)) = bodies.get(sent % bodies.len()) else { break };
        match ask(target.ports.ingest, &request("POST /v1/events", &headers, body), ANSWERED_WITHIN).await {
            None => unanswered += 1,
            Some(answer) if answer.status >= 500 && answer.status != 503 => {
                failed.push(format!("{name}: {}", answer.status))
            }
            Some(_) => {}
        }
        sent += 1;
    }
    let mut findings = Findings::default();
    findings.note(format!("{sent} bodies, {unanswered} unanswered"));
    findings.expect(unanswered == 0, || format!("{unanswered} bodies were not answered"));
    findings.expect(failed.is_empty(), || failed.join(", "));
    Ok(findings)
}

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let event = |rest: &str| format!(r#"[{{"eventType":"siege_odd",{rest}}}]"#).into_bytes();
    let many = |count: usize, one: fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(",");
    vec![
        ("nothing", b" ".to_vec()),
        ("null", b"null".to_vec()),
        ("cut off", br#"[{"eventType":"siege"#.to_vec()),
        ("not UTF-8", b"[{\"eventType\":\"\xff\xfe\"}]".to_vec()),
        ("deep array", [b"[".repeat(100_000), b"]".repeat(100_000)].concat()),
        ("deep object", event(&format!(r#""properties":{}1{}"#, r#"{"a":"#.repeat(20_000), "}".repeat(20_000)))),
        ("many properties", event(&format!(r#""properties":{{{}}}"#, many(20_000, |n| format!(r#""p{n}":{n}"#))))),
        ("many events", format!("[{}]", many(20_000, |n| format!(r#"{{"eventType":"siege_odd_{n}"}}"#))).into_bytes()),
        (
            "many values",
            format!("[{}]", many(5_000, |n| format!(r#"{{"eventType":"siege_odd","context":{{"country":"c{n}"}}}}"#)))
                .into_bytes(),
        ),
        ("long text", event(&format!(r#""userId":"{}""#, "u".repeat(900_000)))),
        ("long name", event(&format!(r#""properties":{{"{}":1}}"#, "n".repeat(900_000)))),
        ("NUL", event(r#""userId":"a\u0000b""#)),
        ("lone surrogate", event(r#""userId":"\ud800""#)),
        ("huge numbers", event(r#""properties":{"value":1e308,"a":-1e308,"b":99999999999999999999999999}"#)),
        ("not a number", event(r#""properties":{"value":NaN}"#)),
        ("long number", event(&format!(r#""properties":{{"value":{}}}"#, "9".repeat(100_000)))),
        ("far times", event(r#""timestamp":"9999-12-31T23:59:59Z""#)),
        ("early times", event(r#""timestamp":"0000-01-01T00:00:00Z""#)),
        ("wrong types", event(r#""userId":[1],"properties":"x","timestamp":{}"#)),
        ("twice", event(r#""eventId":"siege-twice","eventId":"siege-twice-2""#)),
        ("SQL", event(r#""userId":"'); DROP TABLE events; --""#)),
    ]
}
