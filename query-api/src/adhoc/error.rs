//! Why an ad-hoc query failed, and what ClickHouse's error codes mean for the author of the SQL.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tallyhouse_sql::StoreError;

use super::sanitize::{quota_ends, sanitize};
use super::sql_allow_list::SqlRefusalAt;
use super::sql_api::BadBody;
use crate::request::BadRequest;
use crate::request::body_reading::UnreadBody;
use crate::store::ReadError;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdhocError {
    /// Parameters of an export.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The body of an SQL request did not arrive.
    #[error(transparent)]
    Unread(#[from] UnreadBody),
    /// The body of an SQL request.
    #[error(transparent)]
    BadBody(#[from] BadBody),
    /// There is no ClickHouse user for it.
    #[error("SQL is not set up here; `sql/README.md` says how")]
    NotSetUp,
    /// The ClickHouse user for it is older than `int64=string`.
    #[error(
        "`int64=string` is not set up here: ClickHouse's user for SQL may not change output_format_json_quote_64bit_integers; \
         `sql/README.md` says how, or cast with toString()"
    )]
    Int64NotSetUp,
    /// The SQL is wrong, or asks for what is not the caller's.
    #[error("{message}")]
    BadSql {
        message: String,
        /// Where in the statement, from 1.
        position: Option<usize>,
    },
    /// The statement reached a limit.
    #[error("the statement reached its limit of {limit}: {fits}")]
    Limit {
        limit: &'static str,
        /// What would stay below it.
        fits: &'static str,
    },
    /// The project has asked for too much within the hour.
    #[error("the project has used up its quota of SQL for this hour; it begins anew in {retry_after_s} s")]
    Quota {
        /// Seconds until it can ask again.
        retry_after_s: u32,
    },
    /// The answer cannot be given now, or not at all.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<SqlRefusalAt> for AdhocError {
    fn from(at: SqlRefusalAt) -> Self {
        Self::BadSql { message: at.refused.to_string(), position: Some(at.position) }
    }
}

/// Seconds after which to retry when ClickHouse runs too many queries.
const RETRY_AFTER_S: u32 = 5;

/// Without a time in ClickHouse's text: an hour is the longest that a quota lasts.
const HOUR_S: i64 = 3_600;

/// What a failure of an analyst's statement means. Numbers are those of ClickHouse's `ErrorCodes.cpp`.
pub fn of_statement(error: &StoreError, now_ms: i64) -> AdhocError {
    let limit = |limit, fits| AdhocError::Limit { limit, fits };
    let (code, text) = match error {
        StoreError::Refused { code, message } => (*code, message.as_str()),
        StoreError::Unreachable(_) => return ReadError::Unavailable.into(),
        StoreError::TimedOut => return of_statement(&timed_out(), now_ms),
        StoreError::Unintelligible(_) => return ReadError::Failed.into(),
    };
    match code {
        // TOO_MANY_ROWS, TOO_MANY_BYTES
        158 => limit("1,000,000,000 rows read", "restrict `ts` or `bucket`, or read a rollup instead of events"),
        307 => limit("100 GB read", "select fewer columns, restrict `ts`, or read a rollup instead of events"),
        // TIMEOUT_EXCEEDED, TOO_SLOW
        159 | 160 => limit("30 s", "restrict `ts` or `bucket`, or read a rollup instead of events"),
        // MEMORY_LIMIT_EXCEEDED
        241 => limit("2 GB of memory", "group by fewer values, or join less"),
        // TOO_MANY_ROWS_OR_BYTES, SET_SIZE_LIMIT_EXCEEDED
        396 | 191 => {
            limit("1,000,000 rows or 100 MB of result", "add a LIMIT, group, or use /v1/export for raw events")
        }
        // QUOTA_EXCEEDED
        201 => AdhocError::Quota { retry_after_s: seconds_until(quota_ends(text), now_ms) },
        // READONLY: a statement brings no settings of its own, so it is about the only one that we send with it.
        164 => AdhocError::Int64NotSetUp,
        // TOO_MANY_SIMULTANEOUS_QUERIES, CANNOT_SCHEDULE_TASK
        202 | 439 => ReadError::Overloaded { retry_after_s: RETRY_AFTER_S }.into(),
        // NETWORK_ERROR, SOCKET_TIMEOUT, ALL_CONNECTION_TRIES_FAILED, ABORTED, KEEPER_EXCEPTION, QUERY_WAS_CANCELLED
        209 | 210 | 279 | 236 | 999 | 394 => ReadError::Unavailable.into(),
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED, LOGICAL_ERROR, POCO_EXCEPTION,
        // STD_EXCEPTION, UNKNOWN_EXCEPTION
        192..=194 | 516 | 49 | 1000..=1002 => ReadError::Failed.into(),
        _ => {
            let cleaned = sanitize(text);
            AdhocError::BadSql { message: cleaned.message, position: cleaned.position }
        }
    }
}

fn timed_out() -> StoreError {
    StoreError::Refused { code: 159, message: String::new() }
}

fn seconds_until(at: Option<&str>, now_ms: i64) -> u32 {
    let end = at.and_then(|text| text.parse::<DateTime>().ok()).and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    let seconds = end.map_or(HOUR_S, |end| end.timestamp().as_second() - now_ms.div_euclid(1_000));
    seconds.clamp(1, HOUR_S).unsigned_abs().try_into().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_is_told_apart() {
        let of = |code, text: &str| of_statement(&StoreError::Refused { code, message: text.to_owned() }, 1_000);
        assert!(matches!(of(158, ""), AdhocError::Limit { .. }));
        assert!(matches!(of_statement(&StoreError::TimedOut, 0), AdhocError::Limit { limit: "30 s", .. }));
        assert_eq!(of(201, "Interval will end at 1970-01-01 00:01:00. Name"), AdhocError::Quota { retry_after_s: 59 });
        assert_eq!(of(201, "?"), AdhocError::Quota { retry_after_s: 3_600 });
        assert_eq!(of(516, "password of analyst"), AdhocError::Read(ReadError::Failed));
        assert_eq!(of(164, "Cannot modify"), AdhocError::Int64NotSetUp);
        assert_eq!(of(210, ""), AdhocError::Read(ReadError::Unavailable));
        assert_eq!(of(60, "x"), AdhocError::BadSql { message: "x".to_owned(), position: None });
    }
}
