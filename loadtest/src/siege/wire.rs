//! The attacker's side of a connection: raw bytes, from an address of its own, and as many ways to leave.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// All of 127/8 is this machine.
pub(super) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// An answer that is longer is not read to its end.
const MAX_ANSWER: usize = 256 << 10;

pub(super) async fn connect(port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((ATTACKER, 0)))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = timeout(CONNECT_WITHIN, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Leaves with a reset instead of a close.
pub(super) fn reset(stream: TcpStream) {
    // A failure leaves with a close.
    drop(stream.set_zero_linger());
    drop(stream);
}

/// Sends bytes and leaves as told. What the other side says of it does not matter: it may have gone first.
pub(super) async fn send_and_leave(port: u16, bytes: &[u8], leave: Leave) -> io::Result<()> {
    let mut stream = connect(port).await?;
    drop(stream.write_all(bytes).await);
    match leave {
        Leave::Close => drop(stream),
        Leave::Reset => reset(stream),
        Leave::AfterAnswer => {
            let mut answer = [0; 1_024];
            drop(timeout(Duration::from_secs(1), stream.read(&mut answer)).await);
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Close,
    Reset,
    AfterAnswer,
}

/// A request as text.
pub(super) fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("connection: close\r\n\r\n");
    [text.into_bytes(), body.to_vec()].concat()
}

/// What came back: the status and everything as text. `None` without an answer in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

pub(super) async fn ask(port: u16, request: &[u8], within: Duration) -> Option<Answer> {
    let deadline = Instant::now() + within;
    let exchange = async {
        let mut stream = connect(port).await.ok()?;
        // A server that refuses early may close before everything is sent; its answer is still there.
        drop(stream.write_all(request).await);
        let mut answer = Vec::new();
        drop((&mut stream).take(MAX_ANSWER as u64).read_to_end(&mut answer).await);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, text })
    };
    timeout_at(deadline, exchange).await.ok().flatten()
}

/// Waits until the other side has left. `false` when it has not by the deadline.
pub(super) async fn is_left(stream: &mut TcpStream, deadline: Instant) -> bool {
    let mut said = [0; 1_024];
    loop {
        match timeout_at(deadline, stream.read(&mut said)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}
