//! The public listener: routes, and answers and errors of [`crate::pipeline`] as HTTP.

mod error;
mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use tallyhouse_control::Control;
use tallyhouse_control::access::{Gate, allows_origin};
use tallyhouse_service::access::{Access, Caller, GuardedRouter, Right};
use tallyhouse_service::cors::{self, AllowOrigin, CorsLayer};
use tallyhouse_service::http::{Problem, not_found, with_security_headers};
use tallyhouse_service::observe::Observer;

use crate::pipeline::Pipeline;

/// Every route, and what it asks of its caller.
pub fn routes() -> GuardedRouter<Arc<Pipeline>> {
    GuardedRouter::default().post("/v1/events", Access::NeedsOrKeyInBody(Right::SendEvents), events).map(|router| {
        // Ours is stricter and knows about compression: see `body`.
        router.fallback(not_found).layer(DefaultBodyLimit::disable())
    })
}

/// All routes behind their gate.
pub fn router(pipeline: Arc<Pipeline>, gate: Gate, observer: Observer) -> Router {
    let cors = cors(gate.control.clone());
    observer.watch(with_security_headers(gate.protect(routes().with_state(pipeline)).layer(cors)))
}

/// For web pages, as keys allow them.
fn cors(control: Control) -> CorsLayer {
    let allow = AllowOrigin::predicate(move |origin, head| allows_origin(&control, origin, head));
    cors::layer(allow, vec![Method::POST])
}

async fn events(State(pipeline): State<Arc<Pipeline>>, Caller(caller): Caller, request: Request) -> Response {
    let started = Instant::now();
    let answer = pipeline.run(&caller, request).await;
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
