//! The public listener: routes, and answers and errors of [`crate::pipeline`] as HTTP.

mod error;
mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tallyhouse_service::cors::{self, AllowOrigin, CorsLayer};
use tallyhouse_service::http::{Problem, method_not_allowed, not_found, with_security_headers};
use tallyhouse_service::keys;

use crate::pipeline::Pipeline;

pub fn router(pipeline: Arc<Pipeline>) -> Router {
    let cors = cors(&pipeline);
    let router = Router::new()
        .route("/v1/events", post(events).fallback(only_post))
        .fallback(not_found)
        // Ours is stricter and knows about compression: see `body`.
        .layer(DefaultBodyLimit::disable())
        .with_state(pipeline);
    with_security_headers(router.layer(cors))
}

/// For web pages, as keys allow them.
fn cors(pipeline: &Arc<Pipeline>) -> CorsLayer {
    let pipeline = Arc::clone(pipeline);
    let allow = AllowOrigin::predicate(move |origin, head| {
        pipeline.control.allows_origin(origin, keys::presented(&head.headers))
    });
    cors::layer(allow, vec![Method::POST])
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
