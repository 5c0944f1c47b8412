//! Routes for operators and their tools, on the admin port: `DELETE /v1/cache` clears the cache, of one `?project=` or
//! of all; `POST /v1/touched` publishes changed days, `[{"project":"p","day":20780}, …]`, days since 1970; `"hour": 13` names an
//! hour of the day. Days are those of stored rows, so their project may be any text.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use axum::{Json, Router};
use serde_json::json;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_service::http::Problem;

use crate::cache::Cache;
use crate::problem::{of_refusal, of_unread};
use crate::request::{Params, body_reading};
use crate::serve::Refusal;

/// Known parameters.
const PARAMS: &[&str] = &["project"];

pub fn router(cache: Cache) -> Router {
    Router::new().route("/v1/cache", delete(clear)).route("/v1/touched", post(changed)).with_state(cache)
}

/// The longest list of days.
const MAX_BYTES: usize = 4 << 20;

async fn changed(State(cache): State<Cache>, headers: HeaderMap, body: Body) -> Response {
    let days: BTreeSet<DayChange> = match body_reading::read(&headers, body, MAX_BYTES).await {
        Err(unread) => return of_unread(unread).into_response(),
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(days) => days,
            Err(error) => {
                return Problem::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string()).into_response();
            }
        },
    };
    if let Some(bad) = days.iter().find(|change| !change.is_valid()) {
        let message = format!("project `{}`, day {}: `hour` is 0 to 23, or left out", bad.project, bad.day);
        return Problem::new(StatusCode::BAD_REQUEST, "bad_hour", message).into_response();
    }
    match cache.raise(&days).await {
        Ok(()) => Json(json!({"status": "heard", "days": days.len()})).into_response(),
        Err(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "redis_unavailable",
            "Redis did not take all of it, so not everybody was told; try again",
        )
        .retry_after(2)
        .into_response(),
    }
}

async fn clear(State(cache): State<Cache>, RawQuery(raw): RawQuery) -> Response {
    let params = match Params::parse(raw.as_deref(), PARAMS) {
        Ok(params) => params,
        Err(bad) => return of_refusal(&Refusal::BadRequest(bad)).into_response(),
    };
    let project = match params.get("project").map(str::parse::<ProjectName>).transpose() {
        Ok(project) => project,
        Err(bad) => return Problem::new(StatusCode::BAD_REQUEST, "bad_name", bad.to_string()).into_response(),
    };
    let project = project.as_deref();
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
