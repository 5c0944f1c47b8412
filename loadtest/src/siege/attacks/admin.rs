//! What a web page in an operator's browser can send to the admin ports: forms, and requests under a name of the page's own.

use std::time::Duration;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{ask, request};

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

const EVIL: (&str, &str) = ("origin", "https://evil.example");
const FORM: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");
/// A name of the page's that leads here by now.
const REBOUND: (&str, &str) = ("host", "rebound.evil.example");

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let (ingest, query) = (target.ports.ingest_admin, target.ports.query_admin);
    let changed = br#"[{"project":"demo","day":20000}]"#.as_slice();
    let (post, clear) = ("POST /v1/touched", "DELETE /v1/cache");
    let attempts: &[(&str, u16, Vec<u8>)] = &[
        ("a form", query, request(post, &[EVIL, FORM], changed)),
        ("a form without a type", query, request(post, &[EVIL], changed)),
        ("JSON of another origin", query, request(post, &[EVIL, JSON], changed)),
        ("JSON under another host", query, request(post, &[REBOUND, JSON], changed)),
        ("clear of another origin", query, request(clear, &[EVIL, JSON], b"")),
        ("clear under another host", query, request(clear, &[REBOUND, JSON], b"")),
        ("metrics under another host", query, request("GET /metrics", &[REBOUND], b"")),
        ("health under another host", ingest, request("GET /health", &[REBOUND], b"")),
    ];
    let mut findings = Findings::default();
    let mut taken = Vec::new();
    for (name, port, request) in attempts {
        match ask(*port, request, ANSWERED_WITHIN).await {
            Some(answer) if answer.status < 400 => taken.push(*name),
            Some(_) => {}
            None => findings.broken.push(format!("{name}: no answer")),
        }
    }
    findings.note(format!("{} of {} were taken", taken.len(), attempts.len()));
    findings.expect(taken.is_empty(), || format!("taken: {}", taken.join(", ")));
    for (name, port) in [("ingest", target.ports.ingest), ("query", target.ports.query)] {
        let preflight = request("OPTIONS /v1/events", &[EVIL, ("access-control-request-method", "POST")], b"");
        let answer = ask(port, &preflight, ANSWERED_WITHIN).await;
        let is_allowed =
            answer.is_some_and(|answer| answer.text.to_ascii_lowercase().contains("access-control-allow-origin"));
        findings.expect(!is_allowed, || format!("{name} lets every page in"));
    }
    Ok(findings)
}
