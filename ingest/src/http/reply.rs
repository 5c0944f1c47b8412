//! Answers to requests of which something was taken.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tallyhouse_schema::Rejection;

/// What became of a request's events; every one is durable by now (stored, for `?wait=stored`), a
/// duplicate, or rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status: 202, or 200 for `?wait=stored`.
    pub status: StatusCode,
    /// The body was one event.
    pub is_single: bool,
    /// The id of that event.
    pub event_id: String,
    /// New events.
    pub accepted: usize,
    /// Events that were counted before.
    pub duplicates: usize,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
}

/// A refused event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the body, from 0.
    pub index: usize,
    /// Its id, when it had a readable one.
    pub event_id: Option<String>,
    /// Why.
    pub rejection: Rejection,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    status: &'static str,
    event_id: &'a str,
}

#[derive(Serialize)]
struct Many<'a> {
    accepted: usize,
    duplicates: usize,
    rejected: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    message: String,
}

impl<'a> From<&'a Rejected> for Entry<'a> {
    fn from(rejected: &'a Rejected) -> Self {
        Self {
            index: rejected.index,
            event_id: rejected.event_id.as_deref(),
            code: rejected.rejection.code(),
            field: rejected.rejection.field(),
            message: rejected.rejection.to_string(),
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match (self.is_single, self.rejected.first()) {
            // A single event that was refused is the whole request: the sender must not read a 2xx as "taken".
            (true, Some(rejected)) => (StatusCode::BAD_REQUEST, Json(Entry::from(rejected))).into_response(),
            (true, None) => {
                let status = if self.duplicates > 0 { "duplicate" } else { "accepted" };
                (self.status, Json(One { status, event_id: &self.event_id })).into_response()
            }
            (false, _) => {
                let rejected = self.rejected.iter().map(Entry::from).collect();
                let body = Many { accepted: self.accepted, duplicates: self.duplicates, rejected };
                (self.status, Json(body)).into_response()
            }
        }
    }
}
