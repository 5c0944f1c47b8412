//! A proxy to ClickHouse that can keep answers back: a question is asked, and who asked it waits.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clickhouse::ClickHouseConfig;

/// Bytes moved at once.
const BUFFER: usize = 64 << 10;

/// Closed when the value is dropped, but for connections that are open.
pub(super) struct PausableProxy {
    pub(super) url: String,
    holds: Arc<watch::Sender<bool>>,
    accepting: JoinHandle<()>,
}

impl PausableProxy {
    pub(super) async fn start(clickhouse: &ClickHouseConfig) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let target = clickhouse.url.trim_start_matches("http://").to_owned();
        let holds = Arc::new(watch::Sender::new(false));
        let watched = Arc::clone(&holds);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&target).await {
                    // One end that closes closes both; there is nobody to tell.
                    tokio::spawn(relay(client, server, watched.subscribe()));
                }
            }
        });
        Ok(Self { url, holds, accepting })
    }

    /// From now on answers wait.
    pub(super) fn hold(&self) {
        self.holds.send_replace(true);
    }

    /// From now on they pass.
    pub(super) fn pass(&self) {
        self.holds.send_replace(false);
    }
}

impl Drop for PausableProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, mut holds: watch::Receiver<bool>) -> std::io::Result<()> {
    let (mut up, mut down) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let is_held = *holds.borrow_and_update();
        tokio::select! {
            read = client.read(&mut up) => match up.get(..read?) {
                None | Some([]) => return Ok(()),
                Some(bytes) => server.write_all(bytes).await?,
            },
            read = server.read(&mut down), if !is_held => match down.get(..read?) {
                None | Some([]) => return Ok(()),
                Some(bytes) => client.write_all(bytes).await?,
            },
            changed = holds.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
