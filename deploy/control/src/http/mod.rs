//! `/v1/admin/…`: the operations over HTTP, on the query port.
//!
//! ```text
//! gate -> Caller -> actor -> body (bounded, JSON) -> operation -> {"data": …} or {"code","message"}
//! ```
//!
//! Every list has a bound and says where it goes on (`next`). A 409 says which version is in force.

mod audit;
mod grants;
mod jobs;
mod keys;
mod page;
mod projects;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tallyhouse_service::access::{Access, Caller, GuardedRouter, Right};
use tallyhouse_service::http::Problem;
use tallyhouse_service::http_body::{self, UnreadBody};

use crate::operations::{Actor, OperationError, Operations};

/// The longest body.
const MAX_BODY: usize = 64 << 10;

/// The routes. What a caller manages is decided by the operation: a key with `admin` its own project, an operator's every one.
pub fn routes(operations: Operations) -> GuardedRouter {
    let manage = Access::Needs(Right::ManageProject);
    GuardedRouter::default()
        .get("/v1/admin/projects", manage, projects::list)
        .post("/v1/admin/projects", Access::Needs(Right::ManageInstallation), projects::create)
        .get("/v1/admin/projects/{name}", manage, projects::show)
        .patch("/v1/admin/projects/{name}", manage, projects::set)
        .delete("/v1/admin/projects/{name}", Access::Needs(Right::ManageInstallation), projects::delete)
        .get("/v1/admin/keys", manage, keys::list)
        .post("/v1/admin/keys", manage, keys::create)
        .post("/v1/admin/keys/{id}/rotate", manage, keys::rotate)
        .post("/v1/admin/keys/{id}/revoke", manage, keys::revoke)
        .delete("/v1/admin/keys/{id}", manage, keys::revoke)
        .get("/v1/admin/grants", manage, grants::list)
        .get("/v1/admin/audit", manage, audit::list)
        .get("/v1/admin/jobs", manage, jobs::list)
        .with_state(Arc::new(operations))
}

type Shared = State<Arc<Operations>>;

/// A request that is not understood, or an operation that was not done.
#[derive(Debug)]
enum Refused {
    Unread(UnreadBody),
    NotJson(String),
    MediaType,
    Operation(OperationError),
}

impl From<OperationError> for Refused {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

impl From<UnreadBody> for Refused {
    fn from(unread: UnreadBody) -> Self {
        Self::Unread(unread)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unread(unread) => unread.into(),
            Refused::NotJson(problem) => Self::new(StatusCode::BAD_REQUEST, "invalid_json", problem),
            Refused::MediaType => {
                let message = "send the body as `Content-Type: application/json`";
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_media_type", message)
            }
            Refused::Operation(error) => error.into(),
        }
    }
}

/// The JSON of a body; none counts as `{}`.
async fn document<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refused> {
    let bytes = http_body::read(headers, body, MAX_BODY).await?;
    if bytes.is_empty() {
        return serde_json::from_str("{}").map_err(|error| Refused::NotJson(error.to_string()));
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Refused::MediaType);
    }
    serde_json::from_slice(&bytes).map_err(|error| Refused::NotJson(error.to_string()))
}

fn answer<T: Serialize>(status: StatusCode, outcome: Result<T, Refused>) -> Response {
    match outcome {
        Ok(value) => {
            let mut response = (status, Json(value)).into_response();
            // A key's text may be in it.
            response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
            response
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}

/// A part of a path that is text.
fn text(part: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Result<String, Refused> {
    let wrong = |_| OperationError::invalid("path", "is not UTF-8 text");
    Ok(part.map(|Path(text)| text).map_err(wrong)?)
}
