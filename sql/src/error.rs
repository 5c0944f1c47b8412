//! What went wrong between us and ClickHouse, and whether trying again can help.

use clickhouse::error::Error as ClientError;

/// A failed call to ClickHouse.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke: the call may or may not have been carried out.
    #[error("ClickHouse is not reachable: {0}")]
    Unreachable(String),
    /// No answer in time: the call may or may not have been carried out.
    #[error("ClickHouse did not answer in time")]
    TimedOut,
    /// ClickHouse refused the call.
    #[error("ClickHouse refused (code {code}): {message}")]
    Refused {
        /// ClickHouse's error number.
        code: u32,
        /// Its text, for logs only: it may quote values.
        message: String,
    },
    /// An answer that cannot be understood: a fault of ours, or something else on that port.
    #[error("ClickHouse's answer was not understood: {0}")]
    Unintelligible(String),
}

/// What a failure means for whoever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same call can succeed later.
    Transient,
    /// ClickHouse has more to do than it can: come back later, and slower.
    Overloaded,
    /// A limit of the query was reached: a smaller question would be answered.
    TooExpensive,
    /// The same call fails again until somebody changes something.
    Permanent,
}

impl StoreError {
    /// What it means. Numbers are those of ClickHouse's `ErrorCodes.cpp`.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable(_) | Self::TimedOut => Class::Transient,
            Self::Unintelligible(_) => Class::Permanent,
            Self::Refused { code, .. } => match code {
                // NETWORK_ERROR, SOCKET_TIMEOUT, ALL_CONNECTION_TRIES_FAILED, TABLE_IS_READ_ONLY, ABORTED,
                // UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION, QUERY_WAS_CANCELLED, SERVER_IS_SHUTTING_DOWN-like aborts
                // UNKNOWN_TABLE: the migrations are on their way.
                // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO: a rebuild holds inserts back for a moment (`rollups::gate`).
                209 | 210 | 279 | 242 | 236 | 319 | 999 | 394 | 285 | 60 | 395 => Class::Transient,
                // TOO_MANY_SIMULTANEOUS_QUERIES, TOO_MANY_PARTS, QUOTA_EXCEEDED, NOT_ENOUGH_SPACE, CANNOT_SCHEDULE_TASK
                202 | 252 | 201 | 243 | 439 => Class::Overloaded,
                // TOO_MANY_ROWS, TOO_MANY_BYTES, TIMEOUT_EXCEEDED, TOO_SLOW, MEMORY_LIMIT_EXCEEDED, TOO_MANY_ROWS_OR_BYTES
                158 | 307 | 159 | 160 | 241 | 396 => Class::TooExpensive,
                _ => Class::Permanent,
            },
        }
    }
}

impl From<ClientError> for StoreError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Network(source) => Self::Unreachable(chain(&*source)),
            ClientError::TimedOut => Self::TimedOut,
            ClientError::BadResponse(text) => match exception_code(&text) {
                Some(code) => Self::Refused { code, message: text },
                None => Self::Unreachable(text),
            },
            other => Self::Unintelligible(other.to_string()),
        }
    }
}

/// The number in `Code: 241. DB::Exception: …`. Parsed as a number: as a prefix, 53 would also match 530 to 539.
fn exception_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_a_number_not_a_prefix() {
        let refused = |text: &str| StoreError::from(ClientError::BadResponse(text.to_owned()));
        assert!(matches!(refused("Code: 53. DB::Exception: x"), StoreError::Refused { code: 53, .. }));
        assert!(matches!(refused("Code: 530. DB::Exception: x"), StoreError::Refused { code: 530, .. }));
        assert!(matches!(refused("502 Bad Gateway"), StoreError::Unreachable(_)));
    }

    #[test]
    fn classes_follow_the_code() {
        let class = |code| StoreError::Refused { code, message: String::new() }.class();
        assert_eq!(class(252), Class::Overloaded);
        assert_eq!(class(159), Class::TooExpensive);
        assert_eq!(class(62), Class::Permanent);
        assert_eq!(class(60), Class::Transient);
        assert_eq!(StoreError::TimedOut.class(), Class::Transient);
    }
}
