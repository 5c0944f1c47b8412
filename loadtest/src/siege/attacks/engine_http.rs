//! Packets on the engine's HTTP port that end one which was started without care: absurd lengths, and clients that leave at the wrong
//! moment. Two a second, for as long as the attack goes on.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{Leave, connect, send_and_leave};

const PAUSE: Duration = Duration::from_millis(500);
/// One that dies of a packet does so seconds later.
pub(super) const DIES_WITHIN: Duration = Duration::from_secs(4);

const URL_BYTES: usize = 1_500_000;

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let port = target.ports.clickhouse_http;
    let until = Instant::now() + target.scale.lasts();
    let mut sent = 0;
    // Each at least once.
    while sent < PACKETS || Instant::now() < until {
        // A port that takes nobody shows in the bystander's figures.
        drop(packet(port, sent % PACKETS).await);
        sent += 1;
        sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
    sleep(DIES_WITHIN).await;
    let mut findings = Findings::default();
    findings.note(format!("{sent} packets"));
    Ok(findings)
}

const PACKETS: usize = 7;

async fn packet(port: u16, which: usize) -> std::io::Result<()> {
    match which {
        0 => {
            let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n";
            send_and_leave(port, head, Leave::AfterAnswer).await
        }
        1 => send_and_leave(port, b"GET /?query=SELECT+1 HTTP/1.1\r\nHost: x\r\n\r\n", Leave::Close).await,
        2 => send_and_leave(port, b"GET /?query=SELECT+1 HTTP/1.1\r\nHost: x\r\n\r\n", Leave::Reset).await,
        3 => {
            let url = format!("GET /?query={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(URL_BYTES));
            send_and_leave(port, url.as_bytes(), Leave::Reset).await
        }
        4 => {
            // The second request comes when the first is long answered, and its sender leaves.
            let mut stream = connect(port).await?;
            let ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(ping).await?;
            sleep(PAUSE).await;
            stream.write_all(ping).await
        }
        5 => {
            send_and_leave(
                port,
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                Leave::AfterAnswer,
            )
            .await
        }
        _ => {
            let junk: Vec<u8> = (0..50).map(|n: u8| n.wrapping_mul(37)).collect();
            send_and_leave(port, &junk, Leave::AfterAnswer).await
        }
    }
}
