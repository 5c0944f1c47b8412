//! The public routes.

mod adhoc;
pub mod admin;
pub mod error;
pub mod reply;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tallyhouse_service::cors::{self, AllowOrigin, Origins};
use tallyhouse_service::http::{Problem, method_not_allowed, not_found, with_security_headers};

use crate::adhoc::Adhoc;
use crate::authorize::{self, authorize};
use crate::live::{self, Live};
use crate::problem::of_refusal;
use crate::registry::NotRegistered;
use crate::request::body::MAX_BODY_BYTES;
use crate::request::body_reading;
use crate::request::params::Params;
use crate::serve::{Answer, App, Asking, Question, Refusal, serve};
use crate::telemetry::{Metrics, Route, Running};

/// What the handlers share.
pub struct HttpState {
    pub app: Arc<App>,
    pub live: Live,
    /// Ad-hoc reading.
    pub adhoc: Adhoc,
    pub metrics: Metrics,
}

/// All public routes, for pages of `origins` too.
pub fn router(shared: HttpState, origins: Origins) -> Router {
    // One count for each request, instead of one for each metric that there is.
    let shared = Arc::new(shared);
    let router = Router::new()
        .route("/v1/metrics", get(metrics).post(register))
        .route("/v1/metrics/{name}", get(metric))
        .route("/v1/query", post(structured))
        .route("/v1/metrics/{name}/stream", get(stream))
        .route("/v1/metrics/{name}/anomalies", get(anomalies))
        .route("/v1/dashboards/realtime", get(realtime))
        .route("/v1/reports/daily", get(daily))
        .route("/v1/event-types", get(event_types))
        .route("/v1/sql", post(adhoc::sql))
        .route("/v1/export", get(adhoc::export))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), known))
        .with_state(shared);
    with_security_headers(match origins.is_none() {
        true => router,
        false => {
            let allow = AllowOrigin::predicate(move |origin, _| origins.allows(origin));
            router.layer(cors::layer(allow, vec![Method::GET, Method::POST]))
        }
    })
}

/// Looks for a key that was made a moment ago.
async fn known(State(shared): State<Arc<HttpState>>, request: Request, next: Next) -> Response {
    authorize::know(&shared.app.control, request.headers()).await;
    next.run(request).await
}

async fn metric(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    match name {
        Ok(Path(name)) => answer(&shared, Question::Metric(&name), &headers, raw.as_deref()).await,
        Err(_) => bad_path(),
    }
}

async fn metrics(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let listed = || {
        let scope = authorize(&shared.app.control, &headers)?;
        Params::parse(raw.as_deref(), &[])?;
        Ok::<_, Refusal>(shared.app.registry.list(scope.project()))
    };
    let response = match listed() {
        Ok(list) => axum::Json(list).into_response(),
        Err(refusal) => of_refusal(&refusal).into_response(),
    };
    shared.metrics.answered(Route::Metrics, response.status(), None, began.elapsed());
    response
}

async fn register(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let response = match registered(&shared.app, &headers, raw.as_deref(), body).await {
        Ok((name, version)) => {
            let created = axum::Json(serde_json::json!({"name": name, "version": version}));
            (StatusCode::CREATED, created).into_response()
        }
        Err(refused) => error::registering(&refused).into_response(),
    };
    shared.metrics.answered(Route::Metrics, response.status(), None, began.elapsed());
    response
}

/// The key first: who may not register anything is not read.
async fn registered(
    app: &App,
    headers: &HeaderMap,
    raw: Option<&str>,
    body: Body,
) -> Result<(String, u32), NotRegistered> {
    let scope = authorize(&app.control, headers)?;
    scope.administers()?;
    Params::parse(raw, &[])?;
    let body = body_reading::read(headers, body, MAX_BODY_BYTES).await?;
    app.registry.register(&app.definitions, &scope, &app.catalogue.of(scope.project()), &body).await
}

async fn structured(
    State(shared): State<Arc<HttpState>>,
    headers: HeaderMap,
    RawQuery(raw): RawQuery,
    body: Body,
) -> Response {
    let asked = Asked::now(&shared, Route::Structured);
    let answer = match document(&shared.app, &headers, body).await {
        Ok(body) => serve(&shared.app, Question::Document(&body), asked.asking(&headers, raw.as_deref())).await,
        Err(refusal) => Err(refusal),
    };
    asked.answered(answer, &headers)
}

/// The key first: a stranger's document is not read.
async fn document(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    authorize(&app.control, headers)?;
    Ok(body_reading::read(headers, body, MAX_BODY_BYTES).await?)
}

fn bad_path() -> Response {
    Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the metric's name is not UTF-8 text").into_response()
}

async fn stream(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    let began = Instant::now();
    let Ok(Path(name)) = name else { return bad_path() };
    let response = live::open(&shared.app, &shared.live, &name, &headers, raw.as_deref())
        .unwrap_or_else(|refused| error::of_stream(&refused).into_response());
    shared.metrics.answered(Route::Stream, response.status(), None, began.elapsed());
    response
}

async fn anomalies(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Ok(Path(name)) = name else { return bad_path() };
    answer(&shared, Question::Anomalies(&name), &headers, raw.as_deref()).await
}

async fn realtime(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Realtime, &headers, raw.as_deref()).await
}

async fn daily(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::Daily, &headers, raw.as_deref()).await
}

async fn event_types(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    answer(&shared, Question::EventTypes, &headers, raw.as_deref()).await
}

async fn answer(shared: &HttpState, question: Question<'_>, headers: &HeaderMap, raw: Option<&str>) -> Response {
    let route = match question {
        Question::Metric(_) => Route::Metric,
        Question::Realtime => Route::Realtime,
        Question::Daily => Route::Daily,
        Question::EventTypes => Route::EventTypes,
        Question::Anomalies(_) => Route::Anomalies,
        Question::Document(_) => Route::Structured,
    };
    let asked = Asked::now(shared, route);
    let answer = serve(&shared.app, question, asked.asking(headers, raw)).await;
    asked.answered(answer, headers)
}

/// A request that is being answered, from when it came.
struct Asked<'a> {
    shared: &'a HttpState,
    route: Route,
    began: Instant,
    _running: Running,
}

impl<'a> Asked<'a> {
    fn now(shared: &'a HttpState, route: Route) -> Self {
        Self { shared, route, began: Instant::now(), _running: shared.metrics.request_began() }
    }

    fn asking<'r>(&self, headers: &'r HeaderMap, raw: Option<&'r str>) -> Asking<'r> {
        Asking { headers, raw, came: self.began.into() }
    }

    fn answered(self, answer: Result<Answer, Refusal>, headers: &HeaderMap) -> Response {
        let Self { shared, route, began, .. } = self;
        let (response, cache) = match answer {
            Ok(answer) => {
                let now_ms = (shared.app.clock)();
                (reply::reply(&answer, headers, now_ms, began.elapsed()), Some(answer.status.label()))
            }
            Err(refusal) => (of_refusal(&refusal).into_response(), None),
        };
        shared.metrics.answered(route, response.status(), cache, began.elapsed());
        response
    }
}
