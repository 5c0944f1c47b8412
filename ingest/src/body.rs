//! Reads a body: capped as sent and after decompression, within a deadline, and in room that grows with it.

use std::io::Read;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tallyhouse_service::server::pace::is_too_slow;

use crate::admit::Room;
use crate::limits::RequestLimits;
use crate::request::RequestError;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// `gzip`
    Gzip,
    /// `zstd`
    Zstd,
}

impl Encoding {
    /// From `Content-Encoding`. Two of them are a list, as `gzip, zstd` is: a body that is compressed twice is not taken.
    pub fn of(headers: &HeaderMap) -> Result<Self, RequestError> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Plain) };
        if values.next().is_some() {
            return Err(RequestError::UnknownEncoding);
        }
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(RequestError::UnknownEncoding),
        }
    }
}

/// Refuses a body that says that it is too large.
pub fn check_announced(headers: &HeaderMap, limits: RequestLimits) -> Result<(), RequestError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match announced {
        Some(length) if length > limits.body_bytes => Err(too_large(limits)),
        _ => Ok(()),
    }
}

/// Reads a body as it is sent, and reserves room as it arrives.
pub async fn receive(body: Body, limits: RequestLimits, room: &mut Room) -> Result<Bytes, RequestError> {
    match tokio::time::timeout(limits.read_timeout, collect(body, limits, room)).await {
        Ok(sent) => sent,
        Err(_) => Err(RequestError::BodyTimeout),
    }
}

async fn collect(mut body: Body, limits: RequestLimits, room: &mut Room) -> Result<Bytes, RequestError> {
    // A body that arrives in one frame is that frame; others are put together in the room that they say they take, which the system
    // gives only as far as it is written to.
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX).min(limits.body_bytes);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match is_too_slow(&error) {
            true => RequestError::BodyTimeout,
            false => RequestError::BodyBroken,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + whole.len() + data.len();
        if length > limits.body_bytes {
            return Err(too_large(limits));
        }
        room.cover(length)?;
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(announced.max(length));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// What a decoder of zstd may keep of what it wrote: 8 MiB, as RFC 9659 has it for HTTP. Some encoders ask for 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Decompresses a body, and reserves room before each step. Takes tens of milliseconds for megabytes.
pub fn inflate(sent: &[u8], encoding: Encoding, limits: RequestLimits, room: &mut Room) -> Result<Bytes, RequestError> {
    match encoding {
        Encoding::Plain => Ok(Bytes::copy_from_slice(sent)),
        Encoding::Gzip => decompress(flate2::read::MultiGzDecoder::new(sent), "gzip", limits, room),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(sent).map_err(|e| bad("zstd", &e))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|e| bad("zstd", &e))?;
            decompress(decoder, "zstd", limits, room)
        }
    }
}

/// The first step, which most bodies do not fill.
const INFLATE_AT_FIRST: usize = 32 << 10;

fn decompress(
    mut decoder: impl Read,
    name: &'static str,
    limits: RequestLimits,
    room: &mut Room,
) -> Result<Bytes, RequestError> {
    let (sent, mut decoded) = (room.held(), Vec::new());
    // One byte more than allowed tells "full" from "too large" without ever inflating a bomb.
    let most = limits.decoded_bytes + 1;
    loop {
        let capacity = (2 * decoded.capacity()).clamp(INFLATE_AT_FIRST.min(most), most);
        room.cover(sent + capacity)?;
        decoded.reserve_exact(capacity - decoded.len());
        let spare = capacity - decoded.len();
        let read = decoder.by_ref().take(spare as u64).read_to_end(&mut decoded).map_err(|error| bad(name, &error))?;
        if decoded.len() > limits.decoded_bytes {
            return Err(too_large(limits));
        }
        if read < spare {
            // What is reserved from now on is what it takes.
            decoded.shrink_to_fit();
            return Ok(decoded.into());
        }
    }
}

fn bad(encoding: &'static str, error: &std::io::Error) -> RequestError {
    RequestError::BadCompression { encoding, problem: error.to_string() }
}

fn too_large(limits: RequestLimits) -> RequestError {
    RequestError::BodyTooLarge { sent: limits.body_bytes, decoded: limits.decoded_bytes }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use tallyhouse_schema::project::Priority;

    use super::*;
    use crate::admit::Budget;

    const LIMITS: RequestLimits = RequestLimits {
        body_bytes: 10_000,
        decoded_bytes: 50_000,
        open_bytes: 1 << 20,
        ack_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(1),
    };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn one_encoding_is_taken_and_two_are_not() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            Encoding::of(&headers)
        };
        assert_eq!(of(&[]).unwrap(), Encoding::Plain);
        assert_eq!(of(&[" GZip "]).unwrap(), Encoding::Gzip);
        for refused in [&["br"][..], &["gzip, zstd"], &["gzip", "zstd"], &["gzip", "identity"], &["identity", "gzip"]] {
            assert!(matches!(of(refused), Err(RequestError::UnknownEncoding)), "{refused:?}");
        }
    }

    fn room() -> Room {
        Budget::new(&LIMITS).enter("a", Priority::Normal).unwrap()
    }

    async fn read(body: Body, encoding: Encoding, limits: RequestLimits) -> Result<Bytes, RequestError> {
        let mut room = room();
        let sent = receive(body, limits, &mut room).await?;
        let read = inflate(&sent, encoding, limits, &mut room)?;
        assert!(room.held() >= sent.len() + read.len() || encoding == Encoding::Plain, "never less than it takes");
        Ok(read)
    }

    async fn code(body: Vec<u8>, encoding: Encoding) -> &'static str {
        read(body.into(), encoding, LIMITS).await.unwrap_err().code()
    }

    #[tokio::test]
    async fn all_encodings_come_out_the_same() {
        let text = b"[{}]".repeat(100);
        let zstd = zstd::encode_all(&*text, 0).unwrap();
        for (body, encoding) in [(text.clone(), Encoding::Plain), (gzip(&text), Encoding::Gzip), (zstd, Encoding::Zstd)]
        {
            assert_eq!(read(body.into(), encoding, LIMITS).await.unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_body_is_whole_in_however_many_frames_it_comes() {
        for (frames, expected) in [(0, 0), (1, 3_000), (2, 6_000), (3, 9_000), (4, 0)] {
            let frames = (0..frames).flat_map(|n| [vec![b'0' + n; 3_000], vec![]]);
            let whole: Vec<u8> = frames.clone().flatten().collect();
            let body = Body::from_stream(futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>)));
            match read(body, Encoding::Plain, LIMITS).await {
                Ok(body) => assert_eq!((body.len(), &body[..]), (expected, &whole[..])),
                Err(error) => assert_eq!((error.code(), whole.len()), ("body_too_large", 12_000)),
            }
        }
    }

    #[tokio::test]
    async fn caps_hold_before_and_after_decompression() {
        assert_eq!(code(vec![b' '; 10_001], Encoding::Plain).await, "body_too_large");
        let bomb = gzip(&vec![b' '; 5_000_000]);
        assert!(bomb.len() < 10_000);
        assert_eq!(code(bomb, Encoding::Gzip).await, "body_too_large");
        assert_eq!(code(zstd::encode_all(&*vec![b' '; 5_000_000], 0).unwrap(), Encoding::Zstd).await, "body_too_large");
    }

    #[test]
    fn room_is_reserved_before_a_body_inflates_into_it() {
        let bomb = gzip(&vec![b' '; 5_000_000]);
        let limits = RequestLimits { decoded_bytes: 40_000_000, open_bytes: 8 << 20, ..LIMITS };
        let budget = Budget::new(&limits);
        let (mut first, mut second) =
            (budget.enter("a", Priority::Normal).unwrap(), budget.enter("a", Priority::Normal).unwrap());
        first.cover(2 << 20).unwrap();
        let refused = inflate(&bomb, Encoding::Gzip, limits, &mut second).unwrap_err();
        assert_eq!(refused.code(), "overloaded");
        assert!(budget.reserved() <= 4 << 20, "half for one project: {}", budget.reserved());
    }

    #[test]
    fn a_window_larger_than_http_allows_is_refused_before_it_is_made() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"[]").unwrap();
        // Without it the frame says its length, and no window.
        encoder.flush().unwrap();
        encoder.write_all(&b" ".repeat(100)).unwrap();
        let sent = encoder.finish().unwrap();
        assert_eq!(inflate(&sent, Encoding::Zstd, LIMITS, &mut room()).unwrap_err().code(), "bad_compression");
    }

    #[tokio::test]
    async fn broken_compression_is_named() {
        let mut cut = gzip(&b"x".repeat(1_000));
        cut.truncate(cut.len() - 4);
        for (body, encoding) in
            [(cut, Encoding::Gzip), (b"plain".to_vec(), Encoding::Gzip), (b"plain".to_vec(), Encoding::Zstd)]
        {
            assert_eq!(code(body, encoding).await, "bad_compression");
        }
    }
}
