//! A relay in front of a server, which can hold answers back, lose requests and refuse connections.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes moved at once.
const BUFFER: usize = 64 << 10;

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

/// The relay. With the value it stops to take connections; those that are open end with either side.
#[derive(Debug)]
pub struct Relay {
    /// Where it is, `http://host:port`.
    pub url: String,
    mode: Arc<watch::Sender<Mode>>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// In front of `http://host:port`.
    pub async fn start(url: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let target = url.trim_start_matches("http://").to_owned();
        let url = format!("http://{}", listener.local_addr()?);
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&target).await {
                    // One end that closes closes both; nobody waits for the error.
                    tokio::spawn(relay(client, server, modes.subscribe()));
                }
            }
        });
        Ok(Self { url, mode, accepting })
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Copies both ways until either side closes.
async fn relay(mut client: TcpStream, mut server: TcpStream, mut mode: watch::Receiver<Mode>) -> io::Result<()> {
    let (mut up, mut down) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Away {
            return Ok(());
        }
        tokio::select! {
            read = client.read(&mut up) => match up.get(..read?) {
                None | Some([]) => return Ok(()),
                Some(bytes) if is_swallowed(now, bytes) => {}
                Some(bytes) => server.write_all(bytes).await?,
            },
            read = server.read(&mut down), if now != Mode::HoldAnswers => match down.get(..read?) {
                None | Some([]) => return Ok(()),
                Some(bytes) => client.write_all(bytes).await?,
            },
            changed = mode.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn is_swallowed(mode: Mode, bytes: &[u8]) -> bool {
    let Mode::Swallow(text) = mode else { return false };
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
