//! Answers as bytes, and what may not be in them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::requests::Request;
use super::world::{MARKER, NUMBER, Tenant};

/// A stream is read for so long; everything else to its end.
const STREAM_FOR: Duration = Duration::from_millis(400);
const WITHIN: Duration = Duration::from_secs(60);

/// Everything that came, head included.
pub struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn of(bytes: Vec<u8>) -> Self {
        let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0);
        Self { status, bytes }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn is_cached(&self) -> bool {
        let head = self.text();
        let head = head.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        head.contains("x-cache: hit")
    }

    /// The body without the sizes of its chunks, which could stand within a marker.
    fn unchunked(&self) -> Vec<u8> {
        let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Vec::new() };
        let (mut rest, mut body) = (&self.bytes[end + 4..], Vec::new());
        while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
            let size =
                std::str::from_utf8(&rest[..line]).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            let Some(size) = size else { break };
            let from = line + 2;
            let to = (from + size).min(rest.len());
            body.extend_from_slice(&rest[from..to]);
            rest = rest.get(to + 2..).unwrap_or_default();
        }
        body
    }
}

/// The markers in an answer, also in hexadecimal and backwards, as a statement could have them written.
pub fn markers(answer: &Answer) -> Vec<String> {
    let hex: String = MARKER.bytes().map(|byte| format!("{byte:02x}")).collect();
    let backwards: String = MARKER.chars().rev().collect();
    let mut found = Vec::new();
    for bytes in [answer.bytes.to_ascii_lowercase(), answer.unchunked().to_ascii_lowercase()] {
        for needle in [MARKER, NUMBER, hex.as_str(), backwards.as_str()] {
            if memchr::memmem::find(&bytes, needle.as_bytes()).is_some() {
                found.push(needle.to_owned());
            }
        }
    }
    found
}

/// What a service answers to a request with a tenant's key.
pub async fn ask(address: &str, request: &Request, tenant: &Tenant) -> Answer {
    let key = &tenant.keys[request.key];
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nX-API-Key: {key}\r\n",
        request.method, request.target
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", request.body.len()));
    let bytes = [head.into_bytes(), request.body.clone().into_bytes()].concat();
    let within = if request.target.contains("/stream") { STREAM_FOR } else { WITHIN };
    Answer::of(exchange(address, &[bytes], within).await)
}

/// Sends packets, each after something came in answer to the one before, and gives everything that came.
pub async fn exchange(address: &str, packets: &[Vec<u8>], within: Duration) -> Vec<u8> {
    let deadline = Instant::now() + within;
    let mut bytes = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        for (number, packet) in packets.iter().enumerate() {
            if number > 0 {
                stream.read_buf(&mut bytes).await?;
            }
            stream.write_all(packet).await?;
        }
        while stream.read_buf(&mut bytes).await? > 0 {
            // ClickHouse's own protocol: the end of the answer, an exception, or nothing more to come.
            if packets.len() > 1 && (bytes.ends_with(&[5]) || is_exception(&bytes)) {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let ended = timeout_at(deadline, talk).await;
    if let Ok(Err(error)) = ended {
        // A refusal with a body that is not read resets the connection: what came before counts.
        assert!(!bytes.is_empty() || error.kind() == std::io::ErrorKind::ConnectionReset, "{address}: {error}");
    }
    bytes
}

fn is_exception(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"DB::Exception").is_some() && bytes.ends_with(&[0])
}
