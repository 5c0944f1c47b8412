//! Live streams that differ in what does not change their answers.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::connect;

const STREAMS: usize = 50;

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let until = Instant::now() + target.scale.lasts();
    let heard = join_all((1..=STREAMS).map(|limit| listen(target, limit, until))).await;
    let mut findings = Findings::default();
    findings.note(format!("{} of {STREAMS} streams were heard", heard.iter().filter(|heard| **heard).count()));
    Ok(findings)
}

/// Whether something came.
async fn listen(target: &Target, limit: usize, until: Instant) -> bool {
    let key = &target.attacker.query_key;
    let head = format!("GET /v1/metrics/events/stream?limit={limit} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
    let Ok(mut stream) = connect(target.ports.query).await else { return false };
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    let (mut bytes, mut said) = (0, [0; 16 << 10]);
    while let Ok(Ok(read @ 1..)) = timeout_at(until, stream.read(&mut said)).await {
        bytes += read;
    }
    bytes > 0
}
