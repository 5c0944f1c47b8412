//! Refusals of single routes as problems; `problem.rs` has those that all routes share.

use axum::http::StatusCode;
use tallyhouse_service::http::Problem;

use crate::adhoc::AdhocError;
use crate::adhoc::sql_api::BadBody;
use crate::live::{Full, NotOpened};
use crate::problem::{of_bad_request, of_read_error, of_refusal, of_unread};
use crate::registry::NotRegistered;
use crate::registry::store::RegisterError;

/// A stream that was not opened.
pub fn of_stream(refused: &NotOpened) -> Problem {
    match refused {
        NotOpened::Refused(refusal) => of_refusal(refusal),
        NotOpened::Full(full) => of_full(*full),
    }
}

/// A metric that was not registered.
pub fn registering(refused: &NotRegistered) -> Problem {
    let with = |status, code| Problem::new(status, code, refused.to_string());
    match refused {
        NotRegistered::Unread(unread) => of_unread(*unread),
        NotRegistered::Bad(bad) => of_bad_request(bad),
        NotRegistered::Full => with(StatusCode::UNPROCESSABLE_ENTITY, "too_many_metrics"),
        NotRegistered::Store(RegisterError::Conflict { in_force }) => {
            with(StatusCode::CONFLICT, "version_conflict").with("version", *in_force)
        }
        NotRegistered::Store(RegisterError::TooLarge { .. }) => with(StatusCode::UNPROCESSABLE_ENTITY, "too_large"),
        NotRegistered::Store(RegisterError::NotConfigured) => with(StatusCode::NOT_IMPLEMENTED, "not_configured"),
        NotRegistered::Store(RegisterError::Unavailable) => {
            with(StatusCode::SERVICE_UNAVAILABLE, "unavailable").retry_after(2)
        }
    }
}

/// What a refusal of ad-hoc reading looks like to the caller.
pub fn of_adhoc(error: &AdhocError) -> Problem {
    let with = |status, code| Problem::new(status, code, error.to_string());
    match error {
        AdhocError::BadRequest(bad) => of_bad_request(bad),
        AdhocError::Unread(unread) => of_unread(*unread),
        AdhocError::BadBody(bad) => of_bad_body(bad),
        AdhocError::Read(error) => of_read_error(*error),
        AdhocError::NotSetUp | AdhocError::Int64NotSetUp => with(StatusCode::NOT_IMPLEMENTED, "sql_not_set_up"),
        AdhocError::BadSql { position, .. } => {
            let problem = with(StatusCode::BAD_REQUEST, "bad_sql");
            position.iter().fold(problem, |problem, position| problem.with("position", *position))
        }
        AdhocError::Limit { limit, fits } => {
            with(StatusCode::UNPROCESSABLE_ENTITY, "too_expensive").with("limit", *limit).with("fits", *fits)
        }
        AdhocError::Quota { retry_after_s } => {
            with(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded").retry_after(*retry_after_s)
        }
    }
}

fn of_bad_body(bad: &BadBody) -> Problem {
    let with = |status, code| Problem::new(status, code, bad.to_string());
    match bad {
        BadBody::NotJson => with(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_media_type"),
        BadBody::Syntax { line, column, .. } => {
            with(StatusCode::BAD_REQUEST, "invalid_json").with("line", *line).with("column", *column)
        }
        BadBody::NotAnObject => with(StatusCode::BAD_REQUEST, "not_an_object"),
        BadBody::UnknownField { near, known, .. } => {
            with(StatusCode::BAD_REQUEST, "unknown_field").with("did_you_mean", near.as_slice()).with("known", *known)
        }
        BadBody::Field { field, .. } => with(StatusCode::BAD_REQUEST, "bad_field").with("field", field.as_str()),
    }
}

fn of_full(full: Full) -> Problem {
    let with = |status, code| Problem::new(status, code, full.to_string()).retry_after(10);
    match full {
        Full::ProjectListeners { limit } => {
            with(StatusCode::TOO_MANY_REQUESTS, "too_many_streams").with("limit", limit)
        }
        Full::ProjectQuestions { limit } => {
            with(StatusCode::TOO_MANY_REQUESTS, "too_many_streamed_questions").with("limit", limit)
        }
        Full::Listeners | Full::Questions => with(StatusCode::SERVICE_UNAVAILABLE, "streams_full"),
    }
}
