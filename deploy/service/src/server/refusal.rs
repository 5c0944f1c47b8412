//! The answers to connections whose requests are not read: for which there is no room, or that do not speak TLS where it is spoken.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::descriptors::Descriptor;

/// So many are answered at a time; the others are closed.
const AT_ONCE: usize = 32;

/// How long a peer may take for its answer.
pub(super) const WITHIN: Duration = Duration::from_secs(1);

/// Read and dropped, so that the kernel does not take the answer back for bytes that nobody read.
const READ_AT_MOST: u64 = 64 << 10;

/// A whole answer.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    head: &'static str,
    body: &'static str,
}

/// A bound is reached, and all connections have requests.
const TOO_MANY: Refusal = Refusal {
    head: "503 Service Unavailable\r\nretry-after: 1",
    body: r#"{"code":"too_many_connections","message":"there are too many open connections; use fewer, keep them open, and try again after `Retry-After`"}"#,
};

/// Plain HTTP came to a port that speaks TLS. Nothing is led elsewhere: what was sent, a key perhaps, went over the wire already.
pub(super) const TLS_REQUIRED: Refusal = Refusal {
    head: "400 Bad Request",
    body: r#"{"code":"tls_required","message":"this port speaks TLS: use https://"}"#,
};

pub(super) struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Refusals {
    /// Answers 503 and closes. Where TLS is spoken it only closes: a handshake is what there is no room for.
    pub(super) fn answer(&self, stream: TcpStream, descriptor: Option<Descriptor>, is_tls: bool) {
        if is_tls {
            return;
        }
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else { return };
        tokio::spawn(async move {
            drop(tokio::time::timeout(WITHIN, answer(stream, TOO_MANY)).await);
            drop((permit, descriptor));
        });
    }
}

pub(super) async fn answer(mut stream: TcpStream, Refusal { head, body }: Refusal) -> std::io::Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {head}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    finish(stream).await
}

/// Says that no more comes, and reads what still does.
pub(super) async fn finish(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(READ_AT_MOST);
    let mut piece = [0; 4 << 10];
    while rest.read(&mut piece).await? > 0 {}
    Ok(())
}
