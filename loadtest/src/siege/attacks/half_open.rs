//! Connections that say nothing: each costs a file descriptor for as long as it is let.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::{Scale, Target};
use crate::siege::wire::{connect, is_left};

/// All are closed by then.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);

const CONNECTIONS: usize = 2_000;

/// Connections that are opened at a time.
const AT_A_TIME: usize = 100;

/// Who closes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    /// A port of ours, which closes all within [`CLOSED_WITHIN`].
    Ours,
    /// ClickHouse, which has its own mind.
    Engine,
}

pub(super) async fn play(target: &Target, port: u16, listener: Listener) -> Result<Findings, SiegeError> {
    let mut open: Vec<TcpStream> = Vec::new();
    let mut refused = 0;
    for _ in 0..target.scale.of(CONNECTIONS).div_ceil(AT_A_TIME) {
        for opened in join_all((0..AT_A_TIME).map(|_| connect(port))).await {
            match opened {
                Ok(stream) => open.push(stream),
                Err(_) => refused += 1,
            }
        }
    }
    let (began, count) = (Instant::now(), open.len());
    // The short form leaves by itself: ten seconds of waiting for each port are too long.
    let within = if target.scale == Scale::Full { CLOSED_WITHIN } else { target.scale.lasts() };
    let left = join_all(open.iter_mut().map(|stream| is_left(stream, began + within))).await;
    let closed = left.iter().filter(|is_left| **is_left).count();
    let mut findings = Findings::default();
    findings
        .note(format!("{count} open, {refused} refused, {closed} closed after {:.1} s", began.elapsed().as_secs_f64()));
    if target.scale == Scale::Full && listener == Listener::Ours {
        findings.expect(closed == count, || format!("{} were open after {CLOSED_WITHIN:?}", count - closed));
    }
    Ok(findings)
}
