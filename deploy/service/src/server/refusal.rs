//! The answer to a connection for which there is no room.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::descriptors::Descriptor;

/// So many are answered at a time; the others are closed.
const AT_ONCE: usize = 32;

/// How long a peer may take for its answer.
const WITHIN: Duration = Duration::from_secs(1);

/// Read and dropped, so that the kernel does not take the answer back for bytes that nobody read.
const READ_AT_MOST: u64 = 64 << 10;

const BODY: &str = r#"{"code":"too_many_connections","message":"there are too many open connections; use fewer, keep them open, and try again after `Retry-After`"}"#;

pub(super) struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Refusals {
    /// Answers 503 and closes.
    pub(super) fn answer(&self, stream: TcpStream, descriptor: Option<Descriptor>) {
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else { return };
        tokio::spawn(async move {
            drop(tokio::time::timeout(WITHIN, answer(stream)).await);
            drop((permit, descriptor));
        });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
        BODY.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(BODY.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(READ_AT_MOST);
    let mut piece = [0; 4 << 10];
    while rest.read(&mut piece).await? > 0 {}
    Ok(())
}
