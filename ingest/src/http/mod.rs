//! The public listener: routes, and what a request says before its body is read.

pub mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tallyhouse_schema::body::Layout;
use tallyhouse_service::http::{Problem, method_not_allowed, not_found, with_security_headers};

use crate::pipeline::Pipeline;
use crate::request::error::RequestError;

/// The routes.
pub fn router(pipeline: Arc<Pipeline>) -> Router {
    let router = Router::new()
        .route("/v1/events", post(events).fallback(only_post))
        .fallback(not_found)
        // Ours is stricter and knows about compression: see `body`.
        .layer(DefaultBodyLimit::disable())
        .with_state(pipeline);
    with_security_headers(router)
}

async fn events(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response {
    let started = Instant::now();
    let answer = pipeline.run(request).await;
    let metrics = pipeline.metrics();
    match answer {
        Ok(reply) => {
            metrics.answered(if reply.is_all_rejected() { "rejected" } else { "accepted" }, started.elapsed());
            reply.into_response()
        }
        Err(error) => {
            metrics.answered(error.code(), started.elapsed());
            Problem::from(error).into_response()
        }
    }
}

async fn only_post() -> Response {
    let mut response = method_not_allowed().await.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// What is asked for in the query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestOptions {
    /// What the answer waits for.
    pub wait: Wait,
    /// What becomes of events that are refused.
    pub dead_letters: DeadLetters,
}

/// Whether refused events become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetters {
    /// As the project's settings say.
    AsSet,
    /// No: these events are dead letters already, and are being sent again.
    None,
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// 202 as soon as the events are durable.
    Durable,
    /// 200 when the rollups show them. Directly the two are one moment, unless ClickHouse is away: then the disk comes first.
    Stored,
}

impl IngestOptions {
    /// From the query string, which may hold nothing else.
    pub fn of(uri: &Uri) -> Result<Self, RequestError> {
        let mut options = Self { wait: Wait::Durable, dead_letters: DeadLetters::AsSet };
        for parameter in uri.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter {
                "wait=stored" => options.wait = Wait::Stored,
                "letters=none" => options.dead_letters = DeadLetters::None,
                other => return Err(RequestError::UnknownParameter(other.chars().take(100).collect())),
            }
        }
        Ok(options)
    }
}

impl Wait {
    /// The status of a success.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Durable => StatusCode::ACCEPTED,
            Self::Stored => StatusCode::OK,
        }
    }
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
    use super::*;

    #[test]
    fn only_documented_parameters_are_taken() {
        let options =
            |uri: &str| IngestOptions::of(&uri.parse().unwrap()).map(|options| (options.wait, options.dead_letters));
        assert_eq!(options("/v1/events"), Ok((Wait::Durable, DeadLetters::AsSet)));
        assert_eq!(options("/v1/events?wait=stored"), Ok((Wait::Stored, DeadLetters::AsSet)));
        assert_eq!(options("/v1/events?letters=none&wait=stored"), Ok((Wait::Stored, DeadLetters::None)));
        assert_eq!(options("/v1/events?wait=durable"), Err(RequestError::UnknownParameter("wait=durable".into())));
    }

    #[test]
    fn media_types() {
        let of = |value: &'static str| layout(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]));
        assert_eq!(of("application/json; charset=utf-8"), Ok(Layout::Json));
        assert_eq!(of("application/x-ndjson"), Ok(Layout::Ndjson));
        assert_eq!(of("text/csv"), Err(RequestError::UnknownMediaType));
    }
}
