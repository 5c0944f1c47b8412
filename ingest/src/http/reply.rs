//! The status and the JSON of an answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::answer::{EventWarning, Rejected, Reply, Warned};
use crate::request::Wait;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    status: &'static str,
    event_id: &'a str,
    #[serde(flatten)]
    warnings: WarningList<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(flatten)]
    error: Option<AllRejected>,
    accepted: usize,
    duplicates: usize,
    rejected: Vec<Entry<'a>>,
    #[serde(flatten)]
    warnings: WarningList<'a>,
}

/// What makes an answer to a batch an error like every other.
#[derive(Serialize)]
struct AllRejected {
    code: &'static str,
    message: String,
}

/// Absent when there are none, so that an answer to what was understood stays short.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningList<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningEntry<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    warnings_omitted: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningEntry<'a> {
    index: usize,
    event_id: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    message: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl<'a> From<&'a Warned> for WarningList<'a> {
    fn from(warned: &'a Warned) -> Self {
        let entry = |warned: &'a EventWarning| WarningEntry {
            index: warned.index,
            event_id: &warned.event_id,
            code: warned.warning.code(),
            field: warned.warning.field(),
            message: warned.warning.to_string(),
        };
        Self { warnings: warned.listed.iter().map(entry).collect(), warnings_omitted: warned.omitted }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: String,
}

impl<'a> From<&'a Rejected> for Entry<'a> {
    fn from(rejected: &'a Rejected) -> Self {
        let (line, column) = rejected.rejection.position().unzip();
        Self {
            line,
            column,
            index: rejected.index,
            event_id: rejected.event_id.as_deref(),
            code: rejected.rejection.code(),
            field: rejected.rejection.field(),
            message: rejected.rejection.to_string(),
        }
    }
}

/// The status of a success.
const fn status(wait: Wait) -> StatusCode {
    match wait {
        Wait::Durable => StatusCode::ACCEPTED,
        Wait::Stored => StatusCode::OK,
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match (self.is_single, self.rejected.first()) {
            // A single event that was refused is the whole request: the sender must not read a 2xx as "taken".
            (true, Some(rejected)) => (StatusCode::BAD_REQUEST, Json(Entry::from(rejected))).into_response(),
            (true, None) => {
                let fate = if self.duplicates > 0 { "duplicate" } else { "accepted" };
                let warnings = WarningList::from(&self.warned);
                (status(self.wait), Json(One { status: fate, event_id: &self.event_id, warnings })).into_response()
            }
            (false, _) => {
                let error = self.is_all_rejected().then(|| AllRejected {
                    code: "all_rejected",
                    message: format!("none of the {} events was taken; `rejected` says why", self.rejected.len()),
                });
                let status = if error.is_some() { StatusCode::BAD_REQUEST } else { status(self.wait) };
                let rejected = self.rejected.iter().map(Entry::from).collect();
                let warnings = WarningList::from(&self.warned);
                let (accepted, duplicates) = (self.accepted, self.duplicates);
                (status, Json(Many { error, accepted, duplicates, rejected, warnings })).into_response()
            }
        }
    }
}
