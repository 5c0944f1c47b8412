//! Requests with a key whose bodies never come: of an unknown length, so that the longest may be reserved for each.

use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::connect;

/// Three were enough.
const REQUESTS: usize = 20;

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let key = &target.attacker.ingest_key;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut open = Vec::new();
    for _ in 0..REQUESTS {
        let mut stream = connect(target.ports.ingest).await?;
        stream.write_all(head.as_bytes()).await?;
        open.push(stream);
    }
    sleep(target.scale.lasts()).await;
    let mut findings = Findings::default();
    findings.note(format!("{} idle requests", open.len()));
    Ok(findings)
}
