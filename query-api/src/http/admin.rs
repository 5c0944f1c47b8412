//! For operators, on the admin port: `DELETE /v1/cache` clears what is remembered, of one `?project=` or of all.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::delete;
use axum::{Json, Router};
use serde_json::json;
use tallyhouse_service::http::Problem;

use super::error::problem;
use crate::cache::Cache;
use crate::request::Params;
use crate::serve::Refusal;

/// Known parameters.
const PARAMS: &[&str] = &["project"];

/// The routes.
pub fn router(cache: Cache) -> Router {
    Router::new().route("/v1/cache", delete(clear)).with_state(cache)
}

async fn clear(State(cache): State<Cache>, RawQuery(raw): RawQuery) -> Response {
    let params = match Params::parse(raw.as_deref(), PARAMS) {
        Ok(params) => params,
        Err(bad) => return problem(&Refusal::BadRequest(bad)).into_response(),
    };
    let project = params.get("project");
    let cleared = cache.clear(project).await;
    tracing::info!(project, ?cleared, "the cache was cleared");
    match cleared.everywhere {
        Ok(()) => Json(json!({"status": "cleared", "project": project, "forgotten": cleared})).into_response(),
        Err(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "redis_unavailable",
            "only this instance was cleared: Redis did not take it, so the others go on; try again",
        )
        .with("project", project)
        .with("forgotten", json!(cleared))
        .retry_after(2)
        .into_response(),
    }
}
