//! Errors of ClickHouse and of the connection to it, and whether a retry can help.

use std::borrow::Cow;

use clickhouse::error::Error as ClientError;

use crate::redacted::redacted;

/// A failed call to ClickHouse.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke: the call may or may not have been carried out.
    #[error("ClickHouse is not reachable: {0}")]
    Unreachable(String),
    /// No answer in time: the call may or may not have been carried out.
    #[error("ClickHouse did not answer in time")]
    TimedOut,
    /// ClickHouse refused the call. Shown without the statement and the values that ClickHouse quotes.
    #[error("ClickHouse refused (code {code}): {}", redacted(message))]
    Refused {
        /// ClickHouse's error number.
        code: u32,
        /// Its text as it came: it may quote the statement and values.
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

/// Whose fault a failed insert is: that of an event in it, or of something that every event would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A value was refused: the same rows are refused again, others may not be.
    Data,
    /// The server, the network, a limit or the tables: no row of the batch is to blame.
    Operational,
    /// The number tells neither.
    Unclear,
}

/// What a rebuild (`rollups::gate`) and the migrations throw to hold inserts back.
const HELD_BACK: [&str; 2] =
    ["a rebuild of rollups holds inserts back for a moment", "a migration holds inserts back for a moment"];

/// ClickHouse's text from where an exception's own begins.
fn thrown(message: &str) -> &str {
    message.split_once("DB::Exception: ").map_or(message, |(_, text)| text)
}

/// Characters of ClickHouse's text that [`StoreError::reason`] keeps.
const MAX_REASON: usize = 300;

impl StoreError {
    /// Whose fault it is. Only the number counts; what it is not known for is [`Fault::Unclear`].
    ///
    /// `throwIf` (395) is both: a view may refuse a value by it, and a rebuild or migration holds inserts back by it, which says so
    /// (`HELD_BACK`). Where that text does not come first, which a value could bring in, it counts as [`Fault::Data`]; whoever
    /// blames an event must see first that another one passes.
    pub fn fault(&self) -> Fault {
        let Self::Refused { code, message } = self else { return Fault::Operational };
        match code {
            395 if HELD_BACK.iter().any(|text| thrown(message).starts_with(text)) => Fault::Operational,
            // CANNOT_PARSE_TEXT, POSITION_OUT_OF_BOUND, PARAMETER_OUT_OF_BOUND, SIZE_OF_FIXED_STRING_DOESNT_MATCH,
            // CANNOT_PARSE_ESCAPE_SEQUENCE, _QUOTED_STRING, _INPUT_ASSERTION_FAILED, CANNOT_READ_ALL_DATA, BAD_ARGUMENTS (a
            // value that a quantile state cannot hold), CANNOT_PARSE_DATE, _DATETIME
            6 | 11 | 12 | 19 | 25 | 26 | 27 | 33 | 36 | 38 | 41
            // ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE, CANNOT_PARSE_NUMBER, INCORRECT_DATA, TOO_LARGE_ARRAY_SIZE,
            // TOO_LARGE_STRING_SIZE, ILLEGAL_DIVISION, SIZES_OF_ARRAYS_DONT_MATCH, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
            | 69 | 70 | 72 | 117 | 128 | 131 | 153 | 190 | 321
            // CANNOT_CONVERT_CHARSET, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN, CANNOT_PARSE_UUID,
            // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, DECIMAL_OVERFLOW, CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING, CANNOT_PARSE_BOOL
            | 346 | 349 | 376 | 395 | 407 | 441 | 467
            // VIOLATED_CONSTRAINT, AGGREGATE_FUNCTION_THROW, CANNOT_READ_MAP_FROM_TEXT, UNEXPECTED_DATA_AFTER_PARSED_VALUE,
            // CANNOT_PARSE_IPV4, _IPV6, UNKNOWN_ELEMENT_OF_ENUM
            | 469 | 503 | 563 | 632 | 675 | 676 | 691 => Fault::Data,
            // NO_SUCH_COLUMN_IN_TABLE, CANNOT_WRITE_TO_*, UNKNOWN_IDENTIFIER, LOGICAL_ERROR, UNKNOWN_TABLE, SYNTAX_ERROR,
            // CANNOT_OPEN_FILE, UNKNOWN_DATABASE, CANNOT_*_SOCKET, UNKNOWN_SETTING
            16 | 24 | 47 | 49 | 60 | 62 | 75 | 76 | 81 | 95 | 96 | 115
            // TOO_MANY_ROWS, TIMEOUT_EXCEEDED, TOO_SLOW, CANNOT_ALLOCATE_MEMORY, users, passwords and quotas
            | 158..=160 | 173 | 192..=194 | 199 | 201..=204 | 209 | 210
            // TABLE_IS_DROPPED, replicas and ZooKeeper, ABORTED, MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE,
            // TOO_MANY_PARTS
            | 218 | 224 | 225 | 231 | 236 | 241..=244 | 251..=255 | 265 | 279 | 285 | 289 | 291 | 294
            // TOO_MANY_BYTES, UNKNOWN_STATUS_OF_INSERT, cancelled, CANNOT_SCHEDULE_TASK, SETTING_CONSTRAINT_VIOLATION,
            // DEADLOCK_AVOIDED, access, S3, AUTHENTICATION_FAILED, TOO_MANY_PARTITIONS, TOO_MANY_MUTATIONS
            | 307 | 319 | 369 | 394 | 396 | 415 | 416 | 439 | 452 | 473 | 495 | 497 | 499 | 516 | 565 | 574 | 659 | 677
            | 692 | 696 | 735 | 749 | 762 | 771 | 774 | 777 | 778 | 999 => Fault::Operational,
            _ => Fault::Unclear,
        }
    }

    /// What it is, without anything that ClickHouse said.
    pub fn summary(&self) -> Cow<'static, str> {
        match self {
            Self::Refused { code, .. } => format!("refused (code {code})").into(),
            Self::Unreachable(_) => "unreachable".into(),
            Self::TimedOut => "timed out".into(),
            Self::Unintelligible(_) => "unintelligible".into(),
        }
    }

    /// Why it was refused, for whoever sent the event: one line of bounded length, without ClickHouse's stack trace and without
    /// the values that it quotes, which may be another event's.
    pub fn reason(&self) -> String {
        let Self::Refused { code, message } = self else { return self.to_string() };
        let text = thrown(message);
        // In the order in which ClickHouse appends them.
        let ends = ["Stack trace:", " Column values:", ": while ", ": While ", " (version ", "\n"];
        let text = ends.iter().fold(text, |text, end| text.split_once(end).map_or(text, |(before, _)| before));
        let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        format!("ClickHouse refuses it (code {code}): {}", text.trim_end_matches(['.', ' ']))
    }

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
    fn only_values_that_are_refused_are_an_events_fault() {
        let fault = |code| StoreError::Refused { code, message: String::new() }.fault();
        for code in [6, 36, 69, 117, 128, 131, 321, 395, 469] {
            assert_eq!(fault(code), Fault::Data, "{code}");
        }
        for code in [16, 47, 60, 159, 193, 202, 210, 241, 242, 243, 252, 516, 999] {
            assert_eq!(fault(code), Fault::Operational, "{code}");
        }
        assert_eq!(fault(48), Fault::Unclear);
        let thrown = |text: &str| StoreError::from(ClientError::BadResponse(text.to_owned())).fault();
        let gate = "a rebuild of rollups holds inserts back for a moment: while executing";
        assert_eq!(thrown(&format!("Code: 395. DB::Exception: {gate}")), Fault::Operational);
        assert_eq!(thrown(&format!("Code: 395. DB::Exception: no such type: {gate}")), Fault::Data);
        assert_eq!(thrown(&format!("Code: 469. DB::Exception: {gate}")), Fault::Data);
        assert_eq!(StoreError::TimedOut.fault(), Fault::Operational);
        assert_eq!(StoreError::Unreachable(String::new()).fault(), Fault::Operational);
    }

    #[test]
    fn a_reason_has_no_stack_trace_and_no_values() {
        let reason = |message: &str| StoreError::Refused { code: 469, message: message.to_owned() }.reason();
        assert_eq!(
            reason(
                "Code: 469. DB::Exception: Constraint `np` for table tallyhouse.events is violated at row 6. Expression: \
                 (event_type != 'poison'). Column values: event_type = 'secret': while pushing to view a.b. \
                 (VIOLATED_CONSTRAINT) (version 26.7.2.1)\nStack trace:\n0. x"
            ),
            "ClickHouse refuses it (code 469): Constraint `np` for table tallyhouse.events is violated at row 6. Expression: \
             (event_type != 'poison')"
        );
        assert!(reason(&"x".repeat(10_000)).len() < 400);
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
