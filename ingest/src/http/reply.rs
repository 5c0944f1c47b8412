//! The status and the JSON of an answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use tallyhouse_schema::consent;
use tallyhouse_schema::json_schema::{Violation, Violations};
use tallyhouse_service::rate_limit::RetryAfter;

use crate::answer::{Dropped, EventWarning, Rejected, Reply, Warned};
use crate::request::Wait;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    status: &'static str,
    event_id: &'a str,
    #[serde(flatten)]
    warnings: WarningList<'a>,
}

/// An event that was dropped, alone.
#[derive(Serialize)]
struct OneDropped<'a> {
    status: &'static str,
    #[serde(flatten)]
    entry: DroppedEntry<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DroppedEntry<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    code: &'static str,
    message: &'static str,
}

impl<'a> From<&'a Dropped> for DroppedEntry<'a> {
    fn from(dropped: &'a Dropped) -> Self {
        let Dropped { index, event_id } = dropped;
        Self { index: *index, event_id: event_id.as_deref(), code: consent::DROPPED, message: consent::DROPPED_MESSAGE }
    }
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(flatten)]
    error: Option<AllRejected>,
    accepted: usize,
    duplicates: usize,
    rejected: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<DroppedEntry<'a>>,
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
    #[serde(flatten)]
    violation: Option<ViolationEntry<'a>>,
    message: String,
}

/// In what an event violates its schema: the first, and all that are listed when there are several.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ViolationEntry<'a> {
    #[serde(flatten)]
    first: &'a Violation,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    violations: &'a [Violation],
    #[serde(skip_serializing_if = "is_zero")]
    violations_omitted: usize,
}

impl<'a> ViolationEntry<'a> {
    fn of(violations: &'a Violations) -> Option<Self> {
        let first = violations.listed().first()?;
        let all = if violations.count() > 1 { violations.listed() } else { &[] };
        Some(Self { first, violations: all, violations_omitted: violations.omitted() })
    }
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
            violation: rejected.rejection.violations().and_then(ViolationEntry::of),
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
        let mut response = self.response();
        if let Some(standing) = self.standing {
            response.extensions_mut().insert(standing);
        }
        if let Some(refused) = self.refused {
            response.extensions_mut().insert(RetryAfter(refused.retry_after_s));
        }
        response
    }
}

impl Reply {
    /// The status of a request of which nothing was taken. What was refused for a limit fits later.
    const fn refusal(&self) -> StatusCode {
        if self.refused.is_some() { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::BAD_REQUEST }
    }

    fn response(&self) -> Response {
        if let (true, Some(dropped)) = (self.is_single, self.dropped.first()) {
            return (status(self.wait), Json(OneDropped { status: "dropped", entry: dropped.into() })).into_response();
        }
        match (self.is_single, self.rejected.first()) {
            // A single event that was refused is the whole request: the sender must not read a 2xx as "taken".
            (true, Some(rejected)) => (self.refusal(), Json(Entry::from(rejected))).into_response(),
            (true, None) => {
                let fate = if self.duplicates > 0 { "duplicate" } else { "accepted" };
                let warnings = WarningList::from(&self.warned);
                (status(self.wait), Json(One { status: fate, event_id: &self.event_id, warnings })).into_response()
            }
            (false, _) => {
                let error = self.is_all_rejected().then(|| AllRejected {
                    code: if self.refused.is_some() { "rate_limited" } else { "all_rejected" },
                    message: format!("none of the {} events was taken; `rejected` says why", self.rejected.len()),
                });
                let status = if error.is_some() { self.refusal() } else { status(self.wait) };
                let rejected = self.rejected.iter().map(Entry::from).collect();
                let warnings = WarningList::from(&self.warned);
                let dropped = self.dropped.iter().map(DroppedEntry::from).collect();
                let (accepted, duplicates) = (self.accepted, self.duplicates);
                (status, Json(Many { error, accepted, duplicates, rejected, dropped, warnings })).into_response()
            }
        }
    }
}
