//! Common to all HTTP answers: the error body and the security headers.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::set_header::SetResponseHeaderLayer;

/// An error as a client sees it: `{"code","message"}` and whatever else helps to act on it.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// The status; not in the body.
    #[serde(skip)]
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people: what is wrong and what to do. Never an internal detail.
    pub message: String,
    /// `Retry-After` in seconds; not in the body.
    #[serde(skip)]
    pub retry_after: Option<u32>,
    /// More fields of the body: the field's name, valid names, a position.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem without details.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, details: serde_json::Map::new() }
    }

    /// Adds a field to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Tells the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after;
        let mut response = (self.status, axum::Json(self)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a browser is told over TLS alone: over plain HTTP it has no meaning (RFC 6797), and anybody between could have said it.
pub const STRICT_TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// Adds the security headers to every answer. They cost nothing and keep a browser from making a page of an API's answer, or from keeping one:
/// answers that caches may keep say so themselves. [`STRICT_TRANSPORT`] comes with the connection.
pub fn with_security_headers(router: Router) -> Router {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let [a, b, c, d, e] =
        HEADERS.map(|(name, value)| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)));
    // As one layer: each `layer` of a router is a box, and a copy of it, for each request.
    router.layer((a, b, c, d, e))
}

/// The answer to a path that does not exist.
pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; the README lists the API")
}
