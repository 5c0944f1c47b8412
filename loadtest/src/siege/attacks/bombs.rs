//! Small bodies that inflate to megabytes, all at once.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{ask, request};

/// Just below what a body may inflate to.
const INFLATED: usize = 18_000_000;

const ANSWERED_WITHIN: Duration = Duration::from_secs(35);

pub(super) async fn gzip(target: &Target) -> Result<Findings, SiegeError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&event())?;
    throw(target, "gzip", &encoder.finish()?, target.scale.of(200)).await
}

pub(super) async fn zstd(target: &Target) -> Result<Findings, SiegeError> {
    throw(target, "zstd", &zstd::encode_all(event().as_slice(), 19)?, target.scale.of(150)).await
}

/// One event, and a lot of blanks.
fn event() -> Vec<u8> {
    let mut body = br#"[{"eventType":"siege_bomb"}"#.to_vec();
    body.resize(INFLATED, b' ');
    body.push(b']');
    body
}

async fn throw(target: &Target, encoding: &str, body: &[u8], count: usize) -> Result<Findings, SiegeError> {
    let headers = [
        ("x-api-key", target.attacker.ingest_key.as_str()),
        ("content-type", "application/json"),
        ("content-encoding", encoding),
    ];
    let request = request("POST /v1/events", &headers, body);
    let answers = join_all((0..count).map(|_| ask(target.ports.ingest, &request, ANSWERED_WITHIN))).await;
    let with = |is_meant: fn(u16) -> bool| answers.iter().flatten().filter(|answer| is_meant(answer.status)).count();
    let mut findings = Findings::default();
    findings.note(format!(
        "{count} of {} bytes: {} taken, {} refused, {} unanswered",
        body.len(),
        with(|status| status < 300),
        with(|status| status >= 400),
        answers.iter().filter(|answer| answer.is_none()).count()
    ));
    findings.expect(with(|status| status >= 500 && status != 503) == 0, || "answered 500".to_owned());
    Ok(findings)
}
