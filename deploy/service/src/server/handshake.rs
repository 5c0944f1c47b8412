//! The TLS handshake of a connection. It has the time and the bounds of a head: who begins one and does not go on makes room as half a head does, and
//! a silent peer has cost nothing yet.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::refusal::{self, TLS_REQUIRED};
use super::slot::{Slot, Verdict};
use super::{HALF_OPEN_WITHIN, Shared};
use crate::tls::{Accepted, ListenerTls};

/// The first byte of every connection that speaks TLS: a record of a handshake.
const HANDSHAKE: u8 = 22;

/// How a handshake ended.
enum Shaken {
    Done(Box<Accepted>),
    /// The peer knows why, as far as it can be told.
    Failed(&'static str),
}

/// The connection after its handshake; `None` when it is over.
pub(super) async fn handshake(
    tls: &ListenerTls,
    stream: TcpStream,
    shared: &Shared,
    slot: &Arc<Slot>,
) -> Option<Accepted> {
    let left = match slot.verdict(shared.limits) {
        Verdict::Wait(left) => left,
        Verdict::Close(_) => std::time::Duration::ZERO,
    };
    let stopped = async {
        shared.drain.cancelled().await;
        sleep(HALF_OPEN_WITHIN).await;
    };
    let closed = tokio::select! {
        shaken = Box::pin(shake(tls, stream)) => match shaken {
            Ok(Shaken::Done(stream)) => return Some(*stream),
            Ok(Shaken::Failed(reason)) => reason,
            // The peer has gone.
            Err(_) => return None,
        },
        () = sleep(left) => "head_timeout",
        () = slot.replaced.notified() => return None,
        () = stopped => return None,
        () = shared.give_up.cancelled() => return None,
    };
    shared.metrics.closed(closed);
    None
}

async fn shake(tls: &ListenerTls, stream: TcpStream) -> io::Result<Shaken> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first != [HANDSHAKE] {
        drop(timeout(refusal::WITHIN, refusal::answer(stream, TLS_REQUIRED)).await);
        return Ok(Shaken::Failed("plaintext"));
    }
    match tls.accept(stream).into_fallible().await {
        Ok(stream) => Ok(Shaken::Done(Box::new(stream))),
        Err((error, stream)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            // The alert that says why would be taken back for bytes that nobody read.
            drop(timeout(refusal::WITHIN, refusal::finish(stream)).await);
            Ok(Shaken::Failed("handshake"))
        }
    }
}
