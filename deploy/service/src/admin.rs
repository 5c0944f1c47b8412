//! The admin port: `/metrics`, `/health`, `/health/live`, `/health/ready`. Never on the public listener: metrics
//! and the state of dependencies are not public.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::TextEncoder;

use crate::health::Health;
use crate::metrics::Registry;

/// What the admin port shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// All metrics of the service.
    pub registry: Registry,
    pub health: Health,
}

impl Admin {
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .route("/health/live", get(|| async { "live\n" }))
            .route("/health/ready", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn health(State(admin): State<Admin>) -> Response {
    let report = admin.health.report();
    (readiness(report.ready), Json(report)).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let is_ready = admin.health.is_ready();
    (readiness(is_ready), if is_ready { "ready\n" } else { "not ready\n" }).into_response()
}

fn readiness(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
