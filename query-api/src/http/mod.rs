//! The public routes.

mod adhoc;
pub mod error;
pub mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tallyhouse_service::http::{Problem, method_not_allowed, not_found, with_security_headers};

use crate::adhoc::Adhoc;
use crate::metrics::{Metrics, Route};
use crate::serve::{App, Question, serve};

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// Answers.
    pub app: Arc<App>,
    /// Ad-hoc reading.
    pub adhoc: Adhoc,
    /// Counts.
    pub metrics: Metrics,
}

/// All public routes.
pub fn router(shared: Shared) -> Router {
    let router = Router::new()
        .route("/v1/metrics/{name}", get(metric))
        .route("/v1/dashboards/realtime", get(realtime))
        .route("/v1/reports/daily", get(daily))
        .route("/v1/sql", post(adhoc::sql))
        .route("/v1/export", get(adhoc::export))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared);
    with_security_headers(router)
}

async fn metric(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    match name {
        Ok(Path(name)) => answer(&shared, Question::Metric(&name), &headers, raw.as_deref()).await,
        Err(_) => {
            Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the metric's name is not UTF-8 text").into_response()
        }
    }
}

async fn realtime(State(shared): State<Shared>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Realtime, &headers, raw.as_deref()).await
}

async fn daily(State(shared): State<Shared>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Daily, &headers, raw.as_deref()).await
}

async fn answer(shared: &Shared, question: Question<'_>, headers: &HeaderMap, raw: Option<&str>) -> Response {
    let began = Instant::now();
    let _running = shared.metrics.request_began();
    let (response, cache) = match serve(&shared.app, question, headers, raw).await {
        Ok(answer) => {
            let now_ms = (shared.app.clock)();
            (reply::reply(&answer, headers, now_ms, began.elapsed()), Some(answer.status))
        }
        Err(refusal) => (error::problem(&refusal).into_response(), None),
    };
    let route = match question {
        Question::Metric(_) => Route::Metric,
        Question::Realtime => Route::Realtime,
        Question::Daily => Route::Daily,
    };
    shared.metrics.answered(route, response.status(), cache, began.elapsed());
    response
}
