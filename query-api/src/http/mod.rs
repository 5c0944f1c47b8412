//! The public routes.

mod adhoc;
pub mod admin;
pub mod error;
pub mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tallyhouse_service::http::{Problem, method_not_allowed, not_found, with_security_headers};

use crate::adhoc::Adhoc;
use crate::authorize::authorize;
use crate::live::{self, Live};
use crate::metrics::{Metrics, Route, Running};
use crate::request::body::MAX_BODY_BYTES;
use crate::serve::{Answer, App, Question, Refusal, serve};

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// Answers.
    pub app: Arc<App>,
    /// Streams.
    pub live: Live,
    /// Ad-hoc reading.
    pub adhoc: Adhoc,
    /// Counts.
    pub metrics: Metrics,
}

/// All public routes.
pub fn router(shared: Shared) -> Router {
    let router = Router::new()
        .route("/v1/metrics", get(metrics).post(register).layer(DefaultBodyLimit::max(MAX_BODY_BYTES + 1)))
        .route("/v1/metrics/{name}", get(metric))
        .route("/v1/query", post(structured).layer(DefaultBodyLimit::max(MAX_BODY_BYTES + 1)))
        .route("/v1/metrics/{name}/stream", get(stream))
        .route("/v1/metrics/{name}/anomalies", get(anomalies))
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
        Err(_) => bad_path(),
    }
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let response = match authorize(&shared.app.keys, &headers) {
        Ok(scope) => axum::Json(shared.app.registry.list(scope.project())).into_response(),
        Err(denied) => error::problem(&denied.into()).into_response(),
    };
    shared.metrics.answered(Route::Metrics, response.status(), None, began.elapsed());
    response
}

async fn register(State(shared): State<Shared>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let response = match (authorize(&shared.app.keys, &headers), body) {
        (Err(denied), _) => error::problem(&denied.into()).into_response(),
        (Ok(_), Err(rejection)) => error::unread(&rejection).into_response(),
        (Ok(scope), Ok(body)) => {
            let app = &shared.app;
            match app.registry.register(&app.definitions, &scope, &app.catalogue, &body).await {
                Ok((name, version)) => {
                    let created = axum::Json(serde_json::json!({"name": name, "version": version}));
                    (StatusCode::CREATED, created).into_response()
                }
                Err(refused) => error::registering(&refused).into_response(),
            }
        }
    };
    shared.metrics.answered(Route::Metrics, response.status(), None, began.elapsed());
    response
}

async fn structured(
    State(shared): State<Shared>,
    headers: HeaderMap,
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body {
        Ok(body) => answer(&shared, Question::Document(&body), &headers, raw.as_deref()).await,
        Err(rejection) => error::unread(&rejection).into_response(),
    }
}

fn bad_path() -> Response {
    Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the metric's name is not UTF-8 text").into_response()
}

async fn stream(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    let began = Instant::now();
    let Ok(Path(name)) = name else { return bad_path() };
    let response = live::open(&shared.app, &shared.live, &name, &headers, raw.as_deref())
        .unwrap_or_else(|refusal| error::problem(&refusal).into_response());
    shared.metrics.answered(Route::Stream, response.status(), None, began.elapsed());
    response
}

async fn anomalies(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Ok(Path(name)) = name else { return bad_path() };
    answer(&shared, Question::Anomalies(&name), &headers, raw.as_deref()).await
}

async fn realtime(State(shared): State<Shared>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Realtime, &headers, raw.as_deref()).await
}

async fn daily(State(shared): State<Shared>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Daily, &headers, raw.as_deref()).await
}

async fn answer(shared: &Shared, question: Question<'_>, headers: &HeaderMap, raw: Option<&str>) -> Response {
    let route = match question {
        Question::Metric(_) => Route::Metric,
        Question::Realtime => Route::Realtime,
        Question::Daily => Route::Daily,
        Question::Anomalies(_) => Route::Anomalies,
        Question::Document(_) => Route::Structured,
    };
    let asked = Asked::now(shared, route);
    asked.answered(serve(&shared.app, question, headers, raw).await, headers)
}

/// A request that is being answered, from when it came.
struct Asked<'a> {
    shared: &'a Shared,
    route: Route,
    began: Instant,
    _running: Running,
}

impl<'a> Asked<'a> {
    fn now(shared: &'a Shared, route: Route) -> Self {
        Self { shared, route, began: Instant::now(), _running: shared.metrics.request_began() }
    }

    fn answered(self, answer: Result<Answer, Refusal>, headers: &HeaderMap) -> Response {
        let Self { shared, route, began, .. } = self;
        let (response, cache) = match answer {
            Ok(answer) => {
                let now_ms = (shared.app.clock)();
                (reply::reply(&answer, headers, now_ms, began.elapsed()), Some(answer.status))
            }
            Err(refusal) => (error::problem(&refusal).into_response(), None),
        };
        shared.metrics.answered(route, response.status(), cache, began.elapsed());
        response
    }
}
