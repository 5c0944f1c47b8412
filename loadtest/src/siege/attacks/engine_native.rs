//! Packets of ClickHouse's own protocol: a wrong password, as a data source that was set up wrongly sends it again and again, junk,
//! and a correct client that leaves right after its query.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::Findings;
use super::engine_http::DIES_WITHIN;
use crate::clickhouse::ClickHouseConfig;
use crate::siege::SiegeError;
use crate::siege::target::Target;
use crate::siege::wire::{Leave, connect, reset, send_and_leave};

const PAUSE: Duration = Duration::from_millis(500);

/// The oldest revision with everything that is sent here.
const REVISION: u64 = 54_058;

pub(super) async fn play(target: &Target) -> Result<Findings, SiegeError> {
    let port = target.native;
    let mut findings = Findings::default();
    if connect(port).await.is_err() {
        findings.note("the port is closed".to_owned());
        return Ok(findings);
    }
    let until = Instant::now() + target.scale.lasts();
    let mut sent = 0;
    while sent < PACKETS || Instant::now() < until {
        drop(packet(port, sent % PACKETS, &target.grafana).await);
        sent += 1;
        sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
    sleep(DIES_WITHIN).await;
    findings.note(format!("{sent} packets"));
    Ok(findings)
}

const PACKETS: usize = 5;

async fn packet(port: u16, which: usize, grafana: &ClickHouseConfig) -> std::io::Result<()> {
    let junk: Vec<u8> = (0..50).map(|n: u8| n.wrapping_mul(37)).collect();
    match which {
        0 => send_and_leave(port, &hello("grafana", "wrong"), Leave::AfterAnswer).await,
        1 => send_and_leave(port, &hello("nobody", "wrong"), Leave::Close).await,
        2 => send_and_leave(port, &junk, Leave::AfterAnswer).await,
        3 => query_and_leave(port, grafana, Leave::Close).await,
        _ => query_and_leave(port, grafana, Leave::Reset).await,
    }
}

async fn query_and_leave(port: u16, grafana: &ClickHouseConfig, leave: Leave) -> std::io::Result<()> {
    let mut stream = connect(port).await?;
    stream.write_all(&hello(&grafana.user, &grafana.password)).await?;
    let mut answer = [0; 1_024];
    drop(timeout(Duration::from_secs(1), stream.read(&mut answer)).await);
    stream.write_all(&query("SELECT sleep(1)")).await?;
    if leave == Leave::Reset {
        reset(stream);
    }
    Ok(())
}

fn hello(user: &str, password: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    number(&mut packet, 0);
    text(&mut packet, "siege");
    [1, 1, REVISION].into_iter().for_each(|part| number(&mut packet, part));
    ["default", user, password].into_iter().for_each(|part| text(&mut packet, part));
    packet
}

fn query(sql: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    number(&mut packet, 1);
    text(&mut packet, "");
    // Who asks: a first query, over TCP.
    packet.push(1);
    ["", "", "0.0.0.0:0"].into_iter().for_each(|part| text(&mut packet, part));
    packet.push(1);
    ["siege", "siege", "siege"].into_iter().for_each(|part| text(&mut packet, part));
    [1, 1, REVISION].into_iter().for_each(|part| number(&mut packet, part));
    // No settings; to the end, without compression.
    text(&mut packet, "");
    number(&mut packet, 2);
    number(&mut packet, 0);
    text(&mut packet, sql);
    // An empty block: no table comes with it.
    number(&mut packet, 2);
    text(&mut packet, "");
    packet.extend([1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0]);
    packet.extend([0, 0]);
    packet
}

fn number(packet: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        packet.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    packet.push(value as u8);
}

fn text(packet: &mut Vec<u8>, value: &str) {
    number(packet, value.len() as u64);
    packet.extend(value.as_bytes());
}
