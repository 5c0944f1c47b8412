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

/// Just below what a body may inflate to, and just above.
const INFLATED: [usize; 2] = [16_000_000, 18_000_000];

const ANSWERED_WITHIN: Duration = Duration::from_secs(35);

pub(super) async fn gzip(target: &Target) -> Result<Findings, SiegeError> {
    let compress = |body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body)?;
        encoder.finish()
    };
    throw(target, "gzip", &bodies(compress)?, target.scale.of(200)).await
}

pub(super) async fn zstd(target: &Target) -> Result<Findings, SiegeError> {
    throw(target, "zstd", &bodies(|body| zstd::encode_all(body, 19))?, target.scale.of(150)).await
}

fn bodies(compress: impl Fn(&[u8]) -> std::io::Result<Vec<u8>>) -> std::io::Result<Vec<Vec<u8>>> {
    INFLATED.iter().map(|&bytes| compress(&event(bytes))).collect()
}

/// One event, and a lot of blanks.
fn event(bytes: usize) -> Vec<u8> {
    let mut body = br#"[{"eventType":"siege_bomb"}"#.to_vec();
    body.resize(bytes, b' ');
    body.push(b']');
    body
}

async fn throw(target: &Target, encoding: &str, bodies: &[Vec<u8>], count: usize) -> Result<Findings, SiegeError> {
    let headers = [
        ("x-api-key", target.attacker.ingest_key.as_str()),
        ("content-type", "application/json"),
        ("content-encoding", encoding),
    ];
    let requests: Vec<Vec<u8>> = bodies.iter().map(|body| request("POST /v1/events", &headers, body)).collect();
    let thrown = requests.iter().cycle().take(count);
    let answers = join_all(thrown.map(|request| ask(target.ports.ingest, request, ANSWERED_WITHIN))).await;
    let with = |is_meant: fn(u16) -> bool| answers.iter().flatten().filter(|answer| is_meant(answer.status)).count();
    let mut findings = Findings::default();
    findings.note(format!(
        "{count} of {} bytes: {} taken, {} refused, {} unanswered",
        bodies.first().map_or(0, Vec::len),
        with(|status| status < 300),
        with(|status| status >= 400),
        answers.iter().filter(|answer| answer.is_none()).count()
    ));
    findings.expect(with(|status| status >= 500 && status != 503) == 0, || "answered 500".to_owned());
    Ok(findings)
}
