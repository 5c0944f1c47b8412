//! Refusals as problems: a stable code, a message and a status. What only one route refuses is in `http/error.rs`.

use axum::http::StatusCode;
use tallyhouse_service::http::Problem;

use crate::plan::Unplannable;
use crate::request::BadRequest;
use crate::request::body_reading::UnreadBody;
use crate::serve::Refusal;
use crate::store::ReadError;

/// What a refusal looks like to the caller.
pub fn of_refusal(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::Unread(unread) => of_unread(*unread),
        Refusal::BadRequest(bad) => of_bad_request(bad),
        Refusal::Unplannable(unplannable) => of_unplannable(unplannable),
        Refusal::Read(error) => of_read_error(*error),
        Refusal::Warned { error, warnings } => {
            of_read_error(*error).with("warnings", serde_json::to_value(warnings).unwrap_or_default())
        }
    }
}

/// A body that did not arrive.
pub fn of_unread(unread: UnreadBody) -> Problem {
    unread.into()
}

/// A question that is not understood.
pub fn of_bad_request(bad: &BadRequest) -> Problem {
    let with = |status, code| Problem::new(status, code, bad.to_string());
    let bad_request = |code| with(StatusCode::BAD_REQUEST, code);
    match bad {
        BadRequest::QueryTooLong { limit, .. } => {
            with(StatusCode::URI_TOO_LONG, "query_too_long").with("limit_bytes", *limit)
        }
        BadRequest::BodyTooLong { limit, .. } => {
            with(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").with("limit_bytes", *limit)
        }
        BadRequest::NotJson { line, column, .. } => {
            bad_request("invalid_json").with("line", *line).with("column", *column)
        }
        BadRequest::BadField { path, near, .. } => {
            bad_request("bad_field").with("field", path.as_str()).with("did_you_mean", near.as_slice())
        }
        BadRequest::UnknownParameter { near, known, .. } => {
            bad_request("unknown_parameter").with("did_you_mean", near.as_slice()).with("known", *known)
        }
        BadRequest::Twice { parameter } => bad_request("repeated_parameter").with("parameter", *parameter),
        BadRequest::Malformed { parameter, .. } | BadRequest::BadTime { parameter, .. } => {
            bad_request("bad_parameter").with("parameter", *parameter)
        }
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
            with("no_longer_kept_in_minutes").with("earliest_start", earliest.as_deref())
        }
        Unplannable::Expired { earliest, .. } => with("no_longer_kept").with("earliest_start", earliest.as_deref()),
        Unplannable::TooManyPoints { limit, fits, .. } => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_points", unplannable.to_string());
            problem.with("limit", *limit).with("granularity", fits.map(crate::time::Granularity::name))
        }
    }
}

/// Reading that failed.
pub fn of_read_error(error: ReadError) -> Problem {
    let with = |status| Problem::new(status, error.code(), error.to_string());
    match error {
        ReadError::Unavailable => with(StatusCode::SERVICE_UNAVAILABLE).retry_after(2),
        ReadError::LeftAlone { retry_after_s } => with(StatusCode::SERVICE_UNAVAILABLE).retry_after(retry_after_s),
        ReadError::Overloaded { retry_after_s } => with(StatusCode::SERVICE_UNAVAILABLE).retry_after(retry_after_s),
        ReadError::TenantBusy { retry_after_s } => with(StatusCode::TOO_MANY_REQUESTS).retry_after(retry_after_s),
        ReadError::OutOfTime { retry_after_s } => with(StatusCode::GATEWAY_TIMEOUT).retry_after(retry_after_s),
        ReadError::TooExpensive { limit } => with(StatusCode::UNPROCESSABLE_ENTITY).with("limit", limit),
        ReadError::TooFewPoints { needed, given } => {
            with(StatusCode::UNPROCESSABLE_ENTITY).with("needed", needed).with("given", given)
        }
        ReadError::TooManyEvents { events, limit, fitting_hours } => with(StatusCode::UNPROCESSABLE_ENTITY)
            .with("events", events)
            .with("limit", limit)
            .with("fitting_hours", fitting_hours),
        ReadError::TimedOut => with(StatusCode::GATEWAY_TIMEOUT),
        ReadError::Failed => with(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_to_come_back_learns_whose_fault_it_is_and_when() {
        let problem = |error| {
            let problem = of_read_error(error);
            (problem.status.as_u16(), problem.code, problem.retry_after)
        };
        assert_eq!(problem(ReadError::Overloaded { retry_after_s: 7 }), (503, "overloaded", Some(7)));
        assert_eq!(problem(ReadError::TenantBusy { retry_after_s: 9 }), (429, "too_many_queries", Some(9)));
        assert_eq!(problem(ReadError::OutOfTime { retry_after_s: 3 }), (504, "timed_out", Some(3)));
        assert_eq!(problem(ReadError::Unavailable), (503, "unavailable", Some(2)));
        assert_eq!(problem(ReadError::LeftAlone { retry_after_s: 30 }), (503, "unavailable", Some(30)));
    }
}
