//! Why one event is refused while the rest of its batch is taken.

use crate::json_schema::Violations;
use crate::limits::{MAX_DEPTH, MAX_EVENT_BYTES, MAX_PROPERTIES};
use crate::time::NotATime;

/// A refusal. `code` is stable and of low cardinality; `Display` tells the sender what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A line of NDJSON that is not JSON.
    #[error("line {line} is not JSON at column {column}: {problem}")]
    InvalidJson {
        /// 1-based line of the body.
        line: usize,
        /// 1-based column of the line.
        column: usize,
        /// What the parser found.
        problem: String,
    },
    /// JSON, but with a value that no event can hold, such as the number 1e999.
    #[error("the event cannot be read: {0}")]
    Unreadable(String),
    /// Not a JSON object.
    #[error("an event must be a JSON object")]
    NotAnObject,
    /// An array where an event is expected.
    #[error(
        "an event must be a JSON object, and not an array: send an array of events by itself, as `application/json`"
    )]
    ArrayOfEvents,
    /// A JSON text that holds JSON.
    #[error("the event is a JSON text that holds JSON: it was encoded twice; send the object itself")]
    DoubleEncoded,
    /// An id in which something was replaced.
    #[error(
        "`{field}` holds broken UTF-8 or half a surrogate pair; repaired ids could make two into one: send it as whole UTF-8"
    )]
    BrokenId {
        /// The field of the event that is wrong.
        field: &'static str,
    },
    /// Too many bytes.
    #[error("the event has {found} bytes, at most {MAX_EVENT_BYTES} are taken")]
    TooLarge {
        /// Its size.
        found: usize,
    },
    /// Too many bytes for Kafka, as it is configured.
    #[error("the event is larger than the log takes (`max.message.bytes` of its topic)")]
    TooLargeForLog,
    /// More came than the limit of its key takes.
    #[error("more events came than the limit of the key takes; send it again in {retry_after_s} s (`Retry-After`)")]
    RateLimited {
        /// Seconds until it may fit.
        retry_after_s: u32,
    },
    /// It fits every limit of ours, and ClickHouse refuses to store it.
    #[error(
        "the database refuses the event for good (ClickHouse error {code}); it is kept as a dead letter \
         (`tallyhouse dlq list --code refused_by_store`)"
    )]
    RefusedByStore {
        /// ClickHouse's number; 0 when an earlier process saw it.
        code: u32,
    },
    /// Properties nested too deeply.
    #[error("properties are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Too many properties.
    #[error("the event has more than {MAX_PROPERTIES} properties after flattening")]
    TooManyProperties,
    /// A required field is not there.
    #[error("`{field}` is required{hint}")]
    Missing {
        /// The field of the event that is wrong.
        field: &'static str,
        /// What was probably meant, as the end of the sentence.
        hint: String,
    },
    /// A field of the wrong type.
    #[error("`{field}` must be {expected}")]
    WrongType {
        /// The field of the event that is wrong.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A field that is too long to keep and must not be cut.
    #[error("`{field}` has {found} characters, at most {most} are taken")]
    TooLong {
        /// The field of the event that is wrong.
        field: &'static str,
        /// How many it has.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
    /// A time that cannot be read.
    #[error("`{field}` cannot be read: {problem}")]
    InvalidTime {
        /// The field of the event that is wrong.
        field: &'static str,
        /// What is wrong with it.
        problem: NotATime,
    },
    /// Outside the project's late window.
    #[error("the event is older than the late window of {window_days} days; a key with the scope `import` may send it")]
    TooOld {
        /// The window.
        window_days: u16,
    },
    /// Not as the schema of its type says.
    #[error("the event violates the schema of `{event_type}`: {violations}")]
    SchemaViolation {
        /// Its type.
        event_type: String,
        /// In what.
        violations: Box<Violations>,
    },
    /// So old that it would be deleted at once.
    #[error("the event is older than the {retention_days} days that raw events are kept; check its `timestamp`")]
    Expired {
        /// The retention.
        retention_days: u16,
    },
}

impl Rejection {
    /// For programs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid_json",
            Self::Unreadable(_) => "unreadable",
            Self::NotAnObject | Self::ArrayOfEvents => "not_an_object",
            Self::DoubleEncoded => "double_encoded",
            Self::BrokenId { .. } => "broken_id",
            Self::TooLarge { .. } => "event_too_large",
            Self::TooLargeForLog => "too_large_for_log",
            Self::RateLimited { .. } => "rate_limited",
            Self::RefusedByStore { .. } => "refused_by_store",
            Self::TooDeep => "too_deep",
            Self::TooManyProperties => "too_many_properties",
            Self::Missing { .. } => "missing_field",
            Self::WrongType { .. } => "wrong_type",
            Self::TooLong { .. } => "too_long",
            Self::InvalidTime { .. } => "invalid_timestamp",
            Self::TooOld { .. } => "too_old",
            Self::SchemaViolation { .. } => "schema_violation",
            Self::Expired { .. } => "expired",
        }
    }

    /// What of its schema it violates.
    pub fn violations(&self) -> Option<&Violations> {
        if let Self::SchemaViolation { violations, .. } = self { Some(violations) } else { None }
    }

    /// Line and column of the body, both 1-based, where it is known.
    pub const fn position(&self) -> Option<(usize, usize)> {
        if let Self::InvalidJson { line, column, .. } = self { Some((*line, *column)) } else { None }
    }

    /// The field that it is about, if it is about one.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Missing { field, .. }
            | Self::BrokenId { field }
            | Self::WrongType { field, .. }
            | Self::TooLong { field, .. }
            | Self::InvalidTime { field, .. } => Some(field),
            Self::TooOld { .. } | Self::Expired { .. } => Some("timestamp"),
            Self::InvalidJson { .. }
            | Self::Unreadable(_)
            | Self::NotAnObject
            | Self::ArrayOfEvents
            | Self::DoubleEncoded
            | Self::TooLarge { .. }
            | Self::TooLargeForLog
            | Self::RateLimited { .. }
            | Self::RefusedByStore { .. }
            | Self::TooDeep
            | Self::SchemaViolation { .. }
            | Self::TooManyProperties => None,
        }
    }
}
