//! A way to ClickHouse that can keep answers back: an insert is carried out, and who sent it does not learn of it.

use std::sync::Arc;

use tallyhouse_sql::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It passes.
    Pass,
    /// Requests pass; answers wait until the mode changes.
    HoldAnswers,
    /// It passes, but for requests that contain a text: nobody gets those, and nobody answers them.
    Swallow(&'static str),
    /// Connections are closed, and new ones too.
    Away,
}

/// The proxy; it goes with the value.
pub struct Proxy {
    pub connection: Connection,
    mode: Arc<watch::Sender<Mode>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of a ClickHouse.
    pub async fn start(connection: Connection) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = connection.url.trim_start_matches("http://").to_owned();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&target).await {
                    tokio::spawn(relay(client, server, modes.subscribe()));
                }
            }
        });
        Self { connection: Connection { url, ..connection }, mode, accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Copies both ways until either side closes.
async fn relay(mut client: TcpStream, mut server: TcpStream, mut mode: watch::Receiver<Mode>) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Away {
            return;
        }
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(read @ 1..) => {
                    let is = |text: &str| up[..read].windows(text.len()).any(|window| window == text.as_bytes());
                    let is_swallowed = matches!(now, Mode::Swallow(text) if is(text));
                    if !is_swallowed && server.write_all(&up[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down), if now != Mode::HoldAnswers => match read {
                Ok(read @ 1..) => if client.write_all(&down[..read]).await.is_err() { return },
                _ => return,
            },
            changed = mode.changed() => if changed.is_err() { return },
        }
    }
}
