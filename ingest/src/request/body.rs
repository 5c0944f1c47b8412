//! Reads a body: capped as sent and after decompression, within a deadline.

use std::io::Read;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

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
    /// From `Content-Encoding`.
    pub fn of(headers: &HeaderMap) -> Result<Self, RequestError> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Self::Plain) };
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(RequestError::UnknownEncoding),
        }
    }
}

/// What a body may take in memory at most: as it is sent, and once more when it is decompressed.
pub fn reservation(headers: &HeaderMap, encoding: Encoding, limits: RequestLimits) -> Result<usize, RequestError> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let sent = match declared {
        Some(length) if length > limits.body_bytes => return Err(too_large(limits)),
        Some(length) => length,
        None => limits.body_bytes,
    };
    Ok(match encoding {
        Encoding::Plain => sent,
        // Ten times is more than JSON usually shrinks; the rest is bounded by `decoded_bytes` itself.
        Encoding::Gzip | Encoding::Zstd => sent + sent.saturating_mul(10).min(limits.decoded_bytes),
    })
}

/// Reads and decompresses a body.
pub async fn read(body: Body, encoding: Encoding, limits: RequestLimits) -> Result<Bytes, RequestError> {
    let sent = match tokio::time::timeout(limits.read_timeout, collect(body, limits)).await {
        Ok(sent) => sent?,
        Err(_) => return Err(RequestError::BodyTimeout),
    };
    if encoding == Encoding::Plain {
        return Ok(sent);
    }
    // Inflating megabytes takes tens of milliseconds, which no other request should wait for.
    let inflated = tokio::task::spawn_blocking(move || inflate(&sent, encoding, limits)).await;
    inflated.map_err(|error| {
        tracing::error!(%error, "inflating a body failed");
        RequestError::Internal
    })?
}

fn inflate(sent: &[u8], encoding: Encoding, limits: RequestLimits) -> Result<Bytes, RequestError> {
    match encoding {
        Encoding::Plain => Ok(Bytes::copy_from_slice(sent)),
        Encoding::Gzip => decompress(flate2::read::MultiGzDecoder::new(sent), "gzip", limits),
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(sent).map_err(|e| bad("zstd", &e))?;
            decompress(decoder, "zstd", limits)
        }
    }
}

async fn collect(mut body: Body, limits: RequestLimits) -> Result<Bytes, RequestError> {
    // A body that arrives in one frame is that frame; others are put together in the room that they say they take.
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX).min(limits.body_bytes);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| RequestError::BodyBroken)?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + whole.len() + data.len() > limits.body_bytes {
            return Err(too_large(limits));
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(announced.max(first.len() + data.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn decompress(decoder: impl Read, name: &'static str, limits: RequestLimits) -> Result<Bytes, RequestError> {
    let mut decoded = Vec::new();
    // One byte more than allowed tells "full" from "too large" without ever inflating a bomb.
    decoder.take(limits.decoded_bytes as u64 + 1).read_to_end(&mut decoded).map_err(|error| bad(name, &error))?;
    if decoded.len() > limits.decoded_bytes { Err(too_large(limits)) } else { Ok(decoded.into()) }
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

    use super::*;

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
