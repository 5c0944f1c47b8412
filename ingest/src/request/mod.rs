//! The options of a request. Independent of where its events go.

pub mod error;
pub mod options;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use tallyhouse_schema::body::Layout;
use tallyhouse_service::trace::Trace;

pub use error::RequestError;
pub use options::{IngestOptions, Wait};

/// The header that carries a request's trace, through Kafka as well, as W3C writes it.
pub const TRACE_HEADER: &str = "traceparent";

/// The request's trace, if it is one as W3C writes it: it goes into a header of every record. Of versions to come, what this one has.
pub fn traceparent(headers: &HeaderMap) -> Option<String> {
    headers.get(TRACE_HEADER)?.to_str().ok().and_then(Trace::read).map(Trace::traceparent)
}

/// How events are laid out, from `Content-Type`. None, and what `curl -d` and browsers' beacons send, is JSON.
pub fn layout(headers: &HeaderMap) -> Result<Layout, RequestError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Layout::Json) };
    let media_type =
        value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "" | "application/json" | "text/plain" | "application/x-www-form-urlencoded" => Ok(Layout::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Layout::Ndjson),
        _ => Err(RequestError::UnknownMediaType),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn media_types() {
        let of = |value: &'static str| layout(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]));
        assert_eq!(of("application/json; charset=utf-8"), Ok(Layout::Json));
        assert_eq!(of("application/x-ndjson"), Ok(Layout::Ndjson));
        assert_eq!(of("text/csv"), Err(RequestError::UnknownMediaType));
    }
}
