//! Answers to requests of which something was taken.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tallyhouse_schema::limits::MAX_ANSWER_WARNINGS;
use tallyhouse_schema::{Rejection, Warning, Warnings};

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
    /// What was changed or not understood in the others.
    pub warned: Warned,
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

/// The warnings of an answer, duplicates' too: a retry is told what the first attempt was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warned {
    listed: Vec<EventWarning>,
    omitted: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct EventWarning {
    index: usize,
    event_id: String,
    warning: Warning,
}

impl Warned {
    /// Adds those of the event at `index`; an answer lists [`MAX_ANSWER_WARNINGS`].
    pub fn add(&mut self, index: usize, event_id: &str, warnings: Warnings) {
        let (mut kept, omitted) = warnings.into_parts();
        let room = MAX_ANSWER_WARNINGS.saturating_sub(self.listed.len());
        self.omitted += omitted + kept.len().saturating_sub(room);
        kept.truncate(room);
        let warned = |warning| EventWarning { index, event_id: event_id.to_owned(), warning };
        self.listed.extend(kept.into_iter().map(warned));
    }

    /// Takes back those of an event that was refused after all.
    pub fn forget(&mut self, index: usize) {
        self.listed.retain(|warned| warned.index != index);
    }
}

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

impl Reply {
    /// Whether nothing of the request is durable: its sender must not read a 2xx. Duplicates are, by their first copies.
    pub fn is_all_rejected(&self) -> bool {
        !self.rejected.is_empty() && self.accepted + self.duplicates == 0
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match (self.is_single, self.rejected.first()) {
            // A single event that was refused is the whole request: the sender must not read a 2xx as "taken".
            (true, Some(rejected)) => (StatusCode::BAD_REQUEST, Json(Entry::from(rejected))).into_response(),
            (true, None) => {
                let status = if self.duplicates > 0 { "duplicate" } else { "accepted" };
                let warnings = WarningList::from(&self.warned);
                (self.status, Json(One { status, event_id: &self.event_id, warnings })).into_response()
            }
            (false, _) => {
                let error = self.is_all_rejected().then(|| AllRejected {
                    code: "all_rejected",
                    message: format!("none of the {} events was taken; `rejected` says why", self.rejected.len()),
                });
                let status = if error.is_some() { StatusCode::BAD_REQUEST } else { self.status };
                let rejected = self.rejected.iter().map(Entry::from).collect();
                let warnings = WarningList::from(&self.warned);
                let (accepted, duplicates) = (self.accepted, self.duplicates);
                (status, Json(Many { error, accepted, duplicates, rejected, warnings })).into_response()
            }
        }
    }
}
