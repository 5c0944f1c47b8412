//! The public routes.

mod adhoc;
pub mod admin;
pub mod error;
pub mod reply;
mod schemas;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tallyhouse_control::access::{Gate, Lease};
use tallyhouse_control::operations::Operations;
use tallyhouse_service::access::Access::Needs;
use tallyhouse_service::access::{GuardedRouter, Right};
use tallyhouse_service::cors::{self, AllowOrigin, Origins};
use tallyhouse_service::http::{Problem, not_found, with_security_headers};
use tallyhouse_service::observe::Observer;

use crate::adhoc::Adhoc;
use crate::authorize::Scope;
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

/// Every route, and what it asks of its caller; those of the control plane come beside them.
pub fn routes() -> GuardedRouter<Arc<HttpState>> {
    GuardedRouter::default()
        .get("/v1/metrics", Needs(Right::ReadMetrics), metrics)
        .post("/v1/metrics", Needs(Right::ManageMetrics), register)
        .get("/v1/metrics/{name}", Needs(Right::ReadMetrics), metric)
        .get("/v1/metrics/{name}/stream", Needs(Right::ReadMetrics), stream)
        .get("/v1/metrics/{name}/anomalies", Needs(Right::ReadMetrics), anomalies)
        .post("/v1/query", Needs(Right::ReadMetrics), structured)
        .get("/v1/dashboards/realtime", Needs(Right::ReadMetrics), realtime)
        .get("/v1/reports/daily", Needs(Right::ReadMetrics), daily)
        .get("/v1/event-types", Needs(Right::ReadMetrics), event_types)
        .get("/v1/admin/schemas", Needs(Right::ManageSchemas), schemas::list)
        .post("/v1/admin/schemas", Needs(Right::ManageSchemas), schemas::register)
        .get("/v1/admin/schemas/{type}", Needs(Right::ManageSchemas), schemas::show)
        .delete("/v1/admin/schemas/{type}", Needs(Right::ManageSchemas), schemas::delete)
        .get("/v1/schemas/{type}", Needs(Right::ReadMetrics), schemas::show)
        .get("/v1/schemas/{type}/observed", Needs(Right::ManageSchemas), schemas::observed)
        .post("/v1/sql", Needs(Right::Sql), adhoc::sql)
        .get("/v1/export", Needs(Right::Export), adhoc::export)
        .map(|router| router.fallback(not_found))
}

/// All public routes behind their gate, for pages of `origins` too; `privacy`: those of erasures.
pub fn router(shared: HttpState, privacy: GuardedRouter, origins: Origins, gate: Gate, observer: Observer) -> Router {
    // One count for each request, instead of one for each metric that there is.
    let operations = Operations::new(gate.control.clone());
    let routes =
        routes().with_state(Arc::new(shared)).merge(tallyhouse_control::http::routes(operations)).merge(privacy);
    let router = gate.protect(routes);
    observer.watch(with_security_headers(match origins.is_none() {
        true => router,
        false => {
            let allow = AllowOrigin::predicate(move |origin, _| origins.allows(origin));
            router.layer(cors::layer(allow, vec![Method::GET, Method::POST, Method::PATCH, Method::DELETE]))
        }
    }))
}

async fn metric(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    match name {
        Ok(Path(name)) => answer(&shared, Question::Metric(&name), scope, &headers, raw.as_deref()).await,
        Err(_) => bad_path(),
    }
}

async fn metrics(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, scope: Scope) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let listed = || {
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
    scope: Scope,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let response = match registered(&shared.app, &scope, &headers, raw.as_deref(), body).await {
        Ok((name, version)) => {
            let created = axum::Json(serde_json::json!({"name": name, "version": version}));
            (StatusCode::CREATED, created).into_response()
        }
        Err(refused) => error::registering(&refused).into_response(),
    };
    shared.metrics.answered(Route::Metrics, response.status(), None, began.elapsed());
    response
}

async fn registered(
    app: &App,
    scope: &Scope,
    headers: &HeaderMap,
    raw: Option<&str>,
    body: Body,
) -> Result<(String, u32), NotRegistered> {
    Params::parse(raw, &[])?;
    let body = body_reading::read(headers, body, MAX_BODY_BYTES).await?;
    app.registry.register(scope, &app.catalogue.of(scope.project()), &body).await
}

async fn structured(
    State(shared): State<Arc<HttpState>>,
    scope: Scope,
    headers: HeaderMap,
    RawQuery(raw): RawQuery,
    body: Body,
) -> Response {
    let asked = Asked::now(&shared, Route::Structured);
    let answer = match body_reading::read(&headers, body, MAX_BODY_BYTES).await {
        Ok(body) => serve(&shared.app, Question::Document(&body), asked.asking(scope, &headers, raw.as_deref())).await,
        Err(unread) => Err(unread.into()),
    };
    asked.answered(answer, &headers)
}

fn bad_path() -> Response {
    Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the metric's name is not UTF-8 text").into_response()
}

async fn stream(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    (scope, Extension(lease)): (Scope, Extension<Lease>),
    headers: HeaderMap,
) -> Response {
    let began = Instant::now();
    let Ok(Path(name)) = name else { return bad_path() };
    let asked = live::Asked { name: &name, headers: &headers, raw: raw.as_deref() };
    let response = live::open(&shared.app, &shared.live, (scope, lease), asked)
        .unwrap_or_else(|refused| error::of_stream(&refused).into_response());
    shared.metrics.answered(Route::Stream, response.status(), None, began.elapsed());
    response
}

async fn anomalies(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    let Ok(Path(name)) = name else { return bad_path() };
    answer(&shared, Question::Anomalies(&name), scope, &headers, raw.as_deref()).await
}

async fn realtime(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    answer(&shared, Question::Realtime, scope, &headers, raw.as_deref()).await
}

async fn daily(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    answer(&shared, Question::Daily, scope, &headers, raw.as_deref()).await
}

async fn event_types(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    answer(&shared, Question::EventTypes, scope, &headers, raw.as_deref()).await
}

async fn answer(
    shared: &HttpState,
    question: Question<'_>,
    scope: Scope,
    headers: &HeaderMap,
    raw: Option<&str>,
) -> Response {
    let route = match question {
        Question::Metric(_) => Route::Metric,
        Question::Realtime => Route::Realtime,
        Question::Daily => Route::Daily,
        Question::EventTypes => Route::EventTypes,
        Question::Anomalies(_) => Route::Anomalies,
        Question::Document(_) => Route::Structured,
    };
    let asked = Asked::now(shared, route);
    let answer = serve(&shared.app, question, asked.asking(scope, headers, raw)).await;
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

    fn asking<'r>(&self, scope: Scope, headers: &'r HeaderMap, raw: Option<&'r str>) -> Asking<'r> {
        Asking { scope, headers, raw, came: self.began.into() }
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
