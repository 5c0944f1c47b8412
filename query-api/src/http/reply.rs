//! The HTTP response for an answer, with its headers.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::render::meta::Ending;
use crate::render::{complete, tagged};
use crate::serve::Answer;

/// Where the answer came from.
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// A shard of the cluster did not answer.
const X_PARTIAL: HeaderName = HeaderName::from_static("x-partial");

/// The response for an answer: `304` when the caller already has this data.
pub fn reply(answer: &Answer, request: &HeaderMap, now_ms: i64, elapsed: Duration) -> Response<Body> {
    let entry = &answer.entry;
    let etag = tagged(&entry.etag, &answer.warnings);
    let known = already_has(request, &etag);
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let elapsed_ms = elapsed.as_secs_f64() * 1_000.0;
        let ending = Ending::of(entry, answer.status, now_ms, elapsed_ms).with_warnings(answer.warnings.clone());
        let ending = if answer.from_cache { ending.from_cache() } else { ending };
        Response::new(Body::from(complete(entry, &ending)))
    };
    let headers = response.headers_mut();
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(X_CACHE, HeaderValue::from_static(answer.status.label()));
    if entry.is_partial {
        headers.insert(X_PARTIAL, HeaderValue::from_static("true"));
    }
    headers.insert(header::AGE, HeaderValue::from(entry.age_s(now_ms)));
    // The answer belongs to whoever holds the key.
    headers.insert(header::VARY, HeaderValue::from_static("x-api-key, authorization"));
    // A browser asks each time, which the tag makes cheap: only here a late event is heard of within a second.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(etag) = HeaderValue::try_from(etag.as_str()) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// `If-None-Match`, compared weakly as RFC 9110 has it.
fn already_has(request: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tags = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly_and_lists_are_read() {
        let has = |value: &'static str| {
            already_has(&HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]), "W/\"a\"")
        };
        assert!(has("W/\"a\"") && has("\"a\"") && has("\"b\", W/\"a\"") && has("*"));
        assert!(!has("\"b\"") && !has("a") && !has(""));
    }
}
