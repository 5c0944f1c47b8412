//! Why a request failed as a whole, and what its sender can do about it.

use tallyhouse_schema::body::BodyError;

use crate::ack::SubmitError;

/// A request that failed as a whole. Everything that a sender can do about it is in `Display`; nothing of us is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `Content-Type` says that it is something else.
    #[error(
        "send `application/json` or `application/x-ndjson`; other formats, such as CloudEvents, forms or protobuf, are not read"
    )]
    UnknownMediaType,
    /// `Content-Encoding` says something else.
    #[error("send the body plain, or with `Content-Encoding: gzip` or `zstd`")]
    UnknownEncoding,
    /// A query parameter that does not exist or has another value than it may.
    #[error("`{0}` is not a parameter of this path; there are `wait=stored` and `dead_letters=off`")]
    UnknownParameter(String),
    /// Too many bytes.
    #[error(
        "the body is too large: at most {sent} bytes are taken as sent and {decoded} after decompression; send fewer events at a time"
    )]
    BodyTooLarge {
        /// As sent.
        sent: usize,
        /// After decompression.
        decoded: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The connection broke.
    #[error("the body was cut off")]
    BodyBroken,
    /// Not what `Content-Encoding` says.
    #[error("the body is not valid {encoding}: {problem}")]
    BadCompression {
        encoding: &'static str,
        /// What the decoder said.
        problem: String,
    },
    /// Not events.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// No event of it was taken: there is too much to do.
    #[error("no event was taken: more is arriving than can be stored; send them again after `Retry-After`")]
    Overloaded,
    /// No event of it was taken: ClickHouse is away.
    #[error("no event was taken: the store is not reachable; send them again after `Retry-After`")]
    StoreUnavailable,
    /// No event of it was taken: starting.
    #[error("no event was taken: the service is starting; send them again after `Retry-After`")]
    Starting,
    /// No event of it was taken: stopping.
    #[error("no event was taken: the service is stopping; send them again after `Retry-After`")]
    Stopping,
    /// Some or all events are not confirmed.
    #[error("{} of {events} events are not confirmed; send the same events again after `Retry-After`: none is counted twice", indices.len())]
    NotConfirmed {
        /// Events of the request.
        events: usize,
        /// Those that are not confirmed.
        indices: Vec<usize>,
    },
    /// A fault of ours.
    #[error("the request failed through a fault of the service; send it again after `Retry-After`")]
    Internal,
}

impl RequestError {
    /// For programs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownMediaType => "unknown_media_type",
            Self::UnknownEncoding => "unknown_encoding",
            Self::UnknownParameter(_) => "unknown_parameter",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::BadCompression { .. } => "bad_compression",
            Self::Body(error) => error.code(),
            Self::Overloaded => "overloaded",
            Self::StoreUnavailable => "store_unavailable",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::NotConfirmed { .. } => "not_confirmed",
            Self::Internal => "internal",
        }
    }

    /// Seconds after which trying again may help; `None` where it does not.
    pub const fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Overloaded | Self::Starting | Self::Stopping | Self::NotConfirmed { .. } | Self::Internal => Some(1),
            Self::StoreUnavailable => Some(2),
            Self::UnknownMediaType
            | Self::UnknownEncoding
            | Self::UnknownParameter(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::BadCompression { .. }
            | Self::Body(_) => None,
        }
    }
}

impl RequestError {
    /// No event was taken. What that means depends on whether ClickHouse can be reached.
    pub const fn not_taken(refused: SubmitError, is_store_up: bool) -> Self {
        match refused {
            SubmitError::Starting => Self::Starting,
            SubmitError::Stopping => Self::Stopping,
            SubmitError::Busy => Self::Overloaded,
            // Full while ClickHouse answers: more comes than it stores.
            SubmitError::LogFull if is_store_up => Self::Overloaded,
            SubmitError::LogFull => Self::StoreUnavailable,
            SubmitError::LogFailed => Self::Internal,
        }
    }
}
