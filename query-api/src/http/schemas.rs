//! `/v1/admin/schemas` and `/v1/schemas`: what events of each type are.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tallyhouse_control::ControlError;
use tallyhouse_control::schemas::{self, InForce, Registered, SchemaError, Who};
use tallyhouse_schema::catalogue::{DeclarationError, EventTypeDeclaration, MAX_DOCUMENT_BYTES};
use tallyhouse_schema::strict_json;
use tallyhouse_service::http::Problem;

use super::HttpState;
use crate::authorize::Scope;
use crate::observed;
use crate::problem::{of_bad_request, of_read_error};
use crate::request::{BadRequest, Params, body_reading};
use crate::serve::App;
use crate::telemetry::Route;

/// A request with `replaces` beside the declaration.
const REPLACES: &str = "replaces";

type Answer = Result<(StatusCode, Value), Problem>;

pub(super) async fn list(State(shared): State<Arc<HttpState>>, RawQuery(raw): RawQuery, scope: Scope) -> Response {
    answered(&shared, async {
        Params::parse(raw.as_deref(), &[]).map_err(|bad| of_bad_request(&bad))?;
        let data: Vec<Value> = shared.app.catalogue.declarations(scope.project()).values().map(summary).collect();
        Ok((StatusCode::OK, json!({ "data": data })))
    })
    .await
}

pub(super) async fn show(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    scope: Scope,
) -> Response {
    answered(&shared, async {
        Params::parse(raw.as_deref(), &[]).map_err(|bad| of_bad_request(&bad))?;
        let in_force = in_force(&shared.app, scope.project(), &text(name)?)?;
        Ok((StatusCode::OK, json!(in_force)))
    })
    .await
}

pub(super) async fn observed(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    scope: Scope,
) -> Response {
    answered(&shared, async {
        let app = &shared.app;
        Params::parse(raw.as_deref(), &[]).map_err(|bad| of_bad_request(&bad))?;
        let name = text(name)?;
        let observed = observed::observe(&app.sources.store, scope.project(), &name, (app.clock)()).await;
        let observed = observed.map_err(of_read_error)?;
        if observed.events == 0 {
            let message = "there was no event of this type within the last 7 days, so nothing can be proposed";
            return Err(Problem::new(StatusCode::NOT_FOUND, "nothing_observed", message));
        }
        let sample = json!({"events": observed.events, "truncated": observed.is_cut});
        Ok((StatusCode::OK, json!({"event_type": name, "sample": sample, "declaration": observed.declaration})))
    })
    .await
}

pub(super) async fn register(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answered(&shared, async {
        let app = &shared.app;
        let params = Params::parse(raw.as_deref(), &["dry_run"]).map_err(|bad| of_bad_request(&bad))?;
        let is_dry = is_dry(&params)?;
        let body = body_reading::read(&headers, body, MAX_DOCUMENT_BYTES).await.map_err(Problem::from)?;
        let (declaration, replaces) = declaration(&body)?;
        if is_dry {
            let proposal = schemas::propose(&app.catalogue, scope.project(), &declaration).await.map_err(of_schema)?;
            return Ok((StatusCode::OK, json!({"event_type": declaration.event_type, "notes": proposal.notes})));
        }
        let by = scope.audit_name();
        let who = Who { project: scope.project(), by: &by };
        let registered = schemas::register(&app.catalogue, who, &declaration, replaces).await.map_err(of_schema)?;
        let Registered { version, is_unchanged, notes } = registered;
        let status = if is_unchanged { StatusCode::OK } else { StatusCode::CREATED };
        let body = json!({
            "event_type": declaration.event_type, "version": version, "unchanged": is_unchanged, "notes": notes,
        });
        Ok((status, body))
    })
    .await
}

pub(super) async fn delete(
    State(shared): State<Arc<HttpState>>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(raw): RawQuery,
    scope: Scope,
) -> Response {
    answered(&shared, async {
        let app = &shared.app;
        let params = Params::parse(raw.as_deref(), &[REPLACES]).map_err(|bad| of_bad_request(&bad))?;
        let name = text(name)?;
        let replaces = params.get(REPLACES).map(str::parse::<u32>).transpose();
        let replaces = replaces.map_err(|_| bad_field(REPLACES, "is the number of a version"))?.unwrap_or_default();
        let by = scope.audit_name();
        let who = Who { project: scope.project(), by: &by };
        let version = schemas::delete(&app.catalogue, who, &name, replaces).await.map_err(of_schema)?;
        Ok((StatusCode::OK, json!({"event_type": name, "version": version})))
    })
    .await
}

async fn answered(shared: &HttpState, answer: impl Future<Output = Answer>) -> Response {
    let _running = shared.metrics.request_began();
    let began = Instant::now();
    let response = match answer.await {
        Ok((status, body)) => (status, Json(body)).into_response(),
        Err(problem) => problem.into_response(),
    };
    shared.metrics.answered(Route::Schemas, response.status(), None, began.elapsed());
    response
}

fn in_force(app: &App, project: &str, name: &str) -> Result<InForce, Problem> {
    app.catalogue.declaration(project, name).ok_or_else(|| {
        let message = "no such event type is declared; `GET /v1/admin/schemas` lists those that are";
        Problem::new(StatusCode::NOT_FOUND, "not_declared", message)
    })
}

fn summary(in_force: &InForce) -> Value {
    let InForce { version, level, declaration, .. } = in_force;
    json!({
        "event_type": declaration.event_type, "version": version, "level": level, "description": declaration.description,
        "value": declaration.value, "dimensions": declaration.dimensions, "combinations": declaration.combinations,
        "mode": declaration.schema.as_ref().map(|_| declaration.mode),
    })
}

fn is_dry(params: &Params) -> Result<bool, Problem> {
    match params.get("dry_run") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad_field("dry_run", "is true or false")),
    }
}

/// A declaration, and the version that it replaces.
fn declaration(body: &[u8]) -> Result<(EventTypeDeclaration, u32), Problem> {
    let mut document = strict_json::read(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string())
            .with("line", error.line())
            .with("column", error.column())
    })?;
    let given = document.as_object_mut().and_then(|fields| fields.remove(REPLACES));
    let replaces = match given {
        None => 0,
        Some(number) => {
            let version = number.as_u64().and_then(|number| u32::try_from(number).ok());
            version.ok_or_else(|| bad_field(REPLACES, "is the number of a version"))?
        }
    };
    let declaration = serde_json::from_value(document);
    let malformed = |error: serde_json::Error| of_schema(DeclarationError::Malformed(error.to_string()).into());
    Ok((declaration.map_err(malformed)?, replaces))
}

fn text(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let wrong = |_| Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the event type is not UTF-8 text");
    name.map(|Path(name)| name).map_err(wrong)
}

fn bad_field(field: &'static str, problem: &str) -> Problem {
    let problem = format!("`{field}` {problem}");
    of_bad_request(&BadRequest::BadField { path: field.to_owned(), problem, near: Vec::new() })
}

/// A declaration that was not registered.
#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn of_schema(error: SchemaError) -> Problem {
    let with = |status, code| Problem::new(status, code, error.to_string());
    match &error {
        SchemaError::Declaration(DeclarationError::Schema(fault)) => {
            with(StatusCode::BAD_REQUEST, "bad_schema").with("pointer", fault.pointer.as_str())
        }
        SchemaError::Declaration(_) => with(StatusCode::BAD_REQUEST, "bad_declaration"),
        SchemaError::Incompatible(breaks) => {
            let breaks = serde_json::to_value(breaks).unwrap_or_default();
            with(StatusCode::UNPROCESSABLE_ENTITY, "incompatible_schema").with("breaks", breaks)
        }
        SchemaError::Full | SchemaError::FullOfNames => with(StatusCode::UNPROCESSABLE_ENTITY, "too_many_schemas"),
        SchemaError::NotRegistered(_) => with(StatusCode::NOT_FOUND, "not_declared"),
        SchemaError::Control(ControlError::Conflict { in_force }) => {
            with(StatusCode::CONFLICT, "version_conflict").with("version", *in_force)
        }
        SchemaError::Control(ControlError::NotConfigured) => with(StatusCode::NOT_IMPLEMENTED, "not_configured"),
        SchemaError::Control(ControlError::TooLarge { .. }) => with(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        SchemaError::Control(ControlError::Unavailable) => {
            with(StatusCode::SERVICE_UNAVAILABLE, "unavailable").retry_after(2)
        }
    }
}
