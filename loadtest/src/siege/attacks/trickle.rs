//! Requests that come a byte at a time: never idle, never done.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::{Scale, Target};
use crate::siege::wire::connect;

const PAUSE: Duration = Duration::from_millis(250);

/// Headers, half of them to each public port.
pub(super) async fn headers(target: &Target) -> Result<Findings, SiegeError> {
    let half = target.scale.of(500) / 2;
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\n";
    let ports = [target.ports.ingest, target.ports.query].into_iter().flat_map(|port| std::iter::repeat_n(port, half));
    let trickles = ports.map(|port| trickle(port, head.as_bytes(), target.scale.lasts()));
    let went_on = join_all(trickles).await;
    let mut findings = told(&went_on);
    // The short form is over before headers have to be there.
    findings
        .expect(target.scale == Scale::Short || !went_on.contains(&true), || "headers may take for ever".to_owned());
    Ok(findings)
}

/// Bodies of a megabyte, for which room may have been reserved.
pub(super) async fn bodies(target: &Target) -> Result<Findings, SiegeError> {
    let key = &target.attacker.ingest_key;
    let head = format!("POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: 1000000\r\n\r\n");
    let trickles =
        (0..target.scale.of(200)).map(|_| trickle(target.ports.ingest, head.as_bytes(), target.scale.lasts()));
    Ok(told(&join_all(trickles).await))
}

/// Whether it could go on until the end.
async fn trickle(port: u16, head: &[u8], lasts: Duration) -> bool {
    let until = Instant::now() + lasts;
    let Ok(mut stream) = connect(port).await else { return false };
    if stream.write_all(head).await.is_err() {
        return false;
    }
    while Instant::now() < until {
        sleep(PAUSE).await;
        if stream.write_all(b"x").await.is_err() || has_left(&stream) {
            return false;
        }
    }
    true
}

/// Whether the other side has said something, which ends a request that is not done.
fn has_left(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 512]).is_ok()
}

fn told(went_on: &[bool]) -> Findings {
    let mut findings = Findings::default();
    let to_the_end = went_on.iter().filter(|went_on| **went_on).count();
    findings.note(format!("{} trickled, {to_the_end} to the end", went_on.len()));
    findings
}
