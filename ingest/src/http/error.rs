//! The status and the body of an error.

use axum::http::StatusCode;
use tallyhouse_schema::body::BodyError;
use tallyhouse_service::http::Problem;

use crate::request::RequestError;

const fn status(error: &RequestError) -> StatusCode {
    match error {
        RequestError::UnknownMediaType | RequestError::UnknownEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        RequestError::BodyTooLarge { .. }
        | RequestError::Body(BodyError::TooMany { .. } | BodyError::RepairedTooLarge { .. }) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        RequestError::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        RequestError::UnknownParameter(_) | RequestError::BodyBroken | RequestError::BadCompression { .. } => {
            StatusCode::BAD_REQUEST
        }
        RequestError::Body(
            BodyError::Compressed { .. }
            | BodyError::Utf16
            | BodyError::InvalidJson { .. }
            | BodyError::NotEvents
            | BodyError::WrongEnvelope { .. }
            | BodyError::DoubleEncoded
            | BodyError::FormEncoded
            | BodyError::LooksLikeNdjson
            | BodyError::LooksLikeJson
            | BodyError::Empty,
        ) => StatusCode::BAD_REQUEST,
        RequestError::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        RequestError::StoreUnavailable
        | RequestError::Starting
        | RequestError::Stopping
        | RequestError::NotConfirmed { .. }
        | RequestError::Internal => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let mut problem = Self::new(status(&error), error.code(), error.to_string());
        problem.retry_after = error.retry_after();
        match error {
            RequestError::Body(BodyError::InvalidJson { line, column, .. }) => {
                problem.with("line", line).with("column", column)
            }
            RequestError::Body(BodyError::WrongEnvelope { field, .. }) => problem.with("field", field),
            RequestError::NotConfirmed { indices, .. } => problem.with("notConfirmed", indices),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_side_refusal_says_when_to_come_back() {
        for error in [
            RequestError::Overloaded,
            RequestError::StoreUnavailable,
            RequestError::Starting,
            RequestError::Stopping,
            RequestError::Internal,
            RequestError::NotConfirmed { events: 2, indices: vec![1] },
        ] {
            assert!(error.retry_after().is_some());
            let problem = Problem::from(error);
            assert!(problem.status.is_server_error() || problem.status == StatusCode::TOO_MANY_REQUESTS);
        }
    }

    #[test]
    fn positions_are_fields_of_the_answer() {
        let error = BodyError::InvalidJson { line: 2, column: 7, problem: "x".into() };
        let problem = Problem::from(RequestError::from(error));
        assert_eq!((problem.details["line"].as_u64(), problem.details["column"].as_u64()), (Some(2), Some(7)));
    }
}
