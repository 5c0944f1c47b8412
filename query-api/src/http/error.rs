//! Every refusal as HTTP: the one place where a status is chosen.

use axum::http::StatusCode;
use tallyhouse_service::http::Problem;

use crate::authorize::Denied;
use crate::plan::Unplannable;
use crate::request::BadRequest;
use crate::serve::Refusal;
use crate::store::ReadError;

/// What a refusal looks like to the caller.
pub fn problem(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::Denied(denied) => of_denied(*denied),
        Refusal::BadRequest(bad) => of_bad_request(bad),
        Refusal::Unplannable(unplannable) => of_unplannable(unplannable),
        Refusal::Read(error) => of_read_error(*error),
    }
}

fn of_denied(denied: Denied) -> Problem {
    let (status, code) = match denied {
        Denied::NoKey => (StatusCode::UNAUTHORIZED, "no_key"),
        Denied::UnknownKey => (StatusCode::UNAUTHORIZED, "unknown_key"),
        Denied::WrongScope => (StatusCode::FORBIDDEN, "wrong_scope"),
    };
    Problem::new(status, code, denied.to_string())
}

fn of_bad_request(bad: &BadRequest) -> Problem {
    let with = |status, code| Problem::new(status, code, bad.to_string());
    let bad_request = |code| with(StatusCode::BAD_REQUEST, code);
    match bad {
        BadRequest::QueryTooLong { limit, .. } => {
            with(StatusCode::URI_TOO_LONG, "query_too_long").with("limit_bytes", *limit)
        }
        BadRequest::BodyTooLong { limit, .. } => {
            with(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long").with("limit_bytes", *limit)
        }
        BadRequest::NotJson { line, column, .. } => bad_request("not_json").with("line", *line).with("column", *column),
        BadRequest::BadField { path, near, .. } => {
            bad_request("bad_field").with("field", path.as_str()).with("did_you_mean", near.as_slice())
        }
        BadRequest::UnknownParameter { near, known, .. } => {
            bad_request("unknown_parameter").with("did_you_mean", near.as_slice()).with("known", *known)
        }
        BadRequest::Twice { parameter } => bad_request("repeated_parameter").with("parameter", *parameter),
        BadRequest::Malformed { parameter, .. } => bad_request("bad_parameter").with("parameter", *parameter),
        BadRequest::UnknownMetric { near, known, .. } => with(StatusCode::NOT_FOUND, "unknown_metric")
            .with("did_you_mean", near.as_slice())
            .with("known", known.as_slice()),
        BadRequest::UnknownZone { near, .. } => {
            bad_request("unknown_timezone").with("parameter", "timezone").with("did_you_mean", near.as_slice())
        }
        BadRequest::BadRange { parameter, .. } => bad_request("bad_range").with("parameter", *parameter),
        BadRequest::RangeTooLong { limit, earliest, .. } => {
            bad_request("range_too_long").with("limit_days", *limit).with("earliest_start", earliest.as_str())
        }
        BadRequest::Contradiction { parameter, instead, .. } => {
            bad_request("contradiction").with("parameter", *parameter).with("instead", *instead)
        }
    }
}

fn of_unplannable(unplannable: &Unplannable) -> Problem {
    let with = |code| Problem::new(StatusCode::BAD_REQUEST, code, unplannable.to_string());
    match unplannable {
        Unplannable::UnknownDimension { near, known, .. } => {
            with("unknown_dimension").with("did_you_mean", near.as_slice()).with("known", known.as_slice())
        }
        Unplannable::NotRolledUp { kept, types, .. } => {
            with("not_rolled_up").with("kept", kept.as_slice()).with("event_types", types.as_slice())
        }
        Unplannable::TooFineForItsAge { earliest, .. } => {
            with("no_longer_kept_in_minutes").with("earliest_start", earliest.as_str())
        }
        Unplannable::Expired { earliest, .. } => with("no_longer_kept").with("earliest_start", earliest.as_str()),
        Unplannable::TooManyPoints { limit, fits, .. } => {
            with("too_many_points").with("limit", *limit).with("granularity", fits.map(crate::time::Granularity::name))
        }
    }
}

fn of_read_error(error: ReadError) -> Problem {
    let with = |status, code| Problem::new(status, code, error.to_string());
    match error {
        ReadError::Unavailable => with(StatusCode::SERVICE_UNAVAILABLE, "unavailable").retry_after(2),
        ReadError::Overloaded => with(StatusCode::SERVICE_UNAVAILABLE, "overloaded").retry_after(5),
        ReadError::TooExpensive { limit } => {
            with(StatusCode::UNPROCESSABLE_ENTITY, "too_expensive").with("limit", limit)
        }
        ReadError::TooManyEvents { events, limit, fitting_hours } => {
            with(StatusCode::UNPROCESSABLE_ENTITY, "too_many_events")
                .with("events", events)
                .with("limit", limit)
                .with("fitting_hours", fitting_hours)
        }
        ReadError::TimedOut => with(StatusCode::GATEWAY_TIMEOUT, "timed_out"),
        ReadError::Failed => with(StatusCode::INTERNAL_SERVER_ERROR, "failed"),
    }
}
