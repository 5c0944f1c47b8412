//! What a failed query means: to the caller, and to the breaker. A failure that the question caused shows that ClickHouse works.

use tallyhouse_sql::{Class as Failure, StoreError};

use crate::admission::{Class, MAX_RESULT_ROWS, NotAdmitted};

/// Why there is no answer. Details are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// ClickHouse cannot be reached, or was interrupted.
    #[error("the data store is not available at the moment; try again")]
    Unavailable,
    /// ClickHouse is left alone because it fails.
    #[error("the data store is not available at the moment; try again in {retry_after_s} s")]
    LeftAlone {
        /// When a question may be let through again.
        retry_after_s: u32,
    },
    /// Too many questions at once, over all projects.
    #[error("too many queries are running; try again in {retry_after_s} s")]
    Overloaded {
        /// When to retry.
        retry_after_s: u32,
    },
    /// Too many questions of this project at once.
    #[error("this project has too many queries waiting; let some end, and try again in {retry_after_s} s")]
    TenantBusy {
        /// When to retry.
        retry_after_s: u32,
    },
    /// What the request waited for took all of its time.
    #[error("the request's time was over before its query could run; try again in {retry_after_s} s")]
    OutOfTime {
        /// When to retry.
        retry_after_s: u32,
    },
    /// The question is too big.
    #[error(
        "the query needs more than its limit of {limit}: ask for a shorter range, a coarser granularity or fewer groups"
    )]
    TooExpensive {
        /// The limit that was reached.
        limit: &'static str,
    },
    /// No answer in time.
    #[error("the query took longer than it may and was stopped: ask for a shorter range or a coarser granularity")]
    TimedOut,
    /// More events than one question may read.
    #[error(
        "the query would read {events} events, at most {limit} are read at once: about {fitting_hours} hours of them would \
         fit; ask for a shorter range, or for rarer event types"
    )]
    TooManyEvents {
        /// How many there are.
        events: u64,
        limit: u64,
        /// A range of which so many hours are as many events as may be read.
        fitting_hours: u64,
    },
    /// What was read is not enough to say anything.
    #[error(
        "the series has {given} whole buckets with a value, {needed} are needed: ask for a longer range, a finer granularity or \
         fewer conditions"
    )]
    TooFewPoints {
        needed: usize,
        /// What there is, with history.
        given: usize,
    },
    /// A fault of ours.
    #[error("the query failed; the cause is in the log")]
    Failed,
}

impl ReadError {
    /// A name of the kind of error, without figures.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unavailable | Self::LeftAlone { .. } => "unavailable",
            Self::Overloaded { .. } => "overloaded",
            Self::TenantBusy { .. } => "too_many_queries",
            Self::OutOfTime { .. } | Self::TimedOut => "timed_out",
            Self::TooExpensive { .. } => "too_expensive",
            Self::TooManyEvents { .. } => "too_many_events",
            Self::TooFewPoints { .. } => "too_few_points",
            Self::Failed => "failed",
        }
    }

    /// Whether it is the question that cannot be answered, whenever it is asked of the same data.
    pub const fn is_of_the_question(self) -> bool {
        match self {
            Self::TooExpensive { .. } | Self::TooManyEvents { .. } | Self::TooFewPoints { .. } => true,
            Self::Unavailable
            | Self::LeftAlone { .. }
            | Self::Overloaded { .. }
            | Self::TenantBusy { .. }
            | Self::OutOfTime { .. }
            | Self::TimedOut
            | Self::Failed => false,
        }
    }
}

/// Coming back to a ClickHouse that has too much to do, in seconds: as long as it takes until that is forgotten.
const OVERLOAD_RETRY_S: u32 = 10;

impl From<NotAdmitted> for ReadError {
    fn from(refused: NotAdmitted) -> Self {
        match refused {
            NotAdmitted::Unavailable { retry_after_s } => Self::LeftAlone { retry_after_s },
            NotAdmitted::Overloaded { retry_after_s } => Self::Overloaded { retry_after_s },
            NotAdmitted::TenantBusy { retry_after_s } => Self::TenantBusy { retry_after_s },
            NotAdmitted::OutOfTime { retry_after_s } => Self::OutOfTime { retry_after_s },
        }
    }
}

/// What the end of a query says about the health of ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthSignal {
    /// It works.
    Works,
    /// It does not.
    Fails,
    /// It has too much to do.
    Overloaded,
    /// It does not, unless the question was too much: others tell.
    NoEnd,
    /// Neither.
    Nothing,
}

/// What a failure means to the caller.
pub(super) fn public(error: &StoreError) -> ReadError {
    let overloaded = ReadError::Overloaded { retry_after_s: OVERLOAD_RETRY_S };
    match (error.class(), error) {
        (_, StoreError::TimedOut | StoreError::Refused { code: 159 | 160, .. }) => ReadError::TimedOut,
        (_, StoreError::Refused { code: 241, message }) if is_of_the_server(message) => overloaded,
        (Failure::TooExpensive, StoreError::Refused { code: 241, .. }) => ReadError::TooExpensive { limit: "memory" },
        (Failure::TooExpensive, StoreError::Refused { code: 396, .. }) => ReadError::TooExpensive { limit: RESULT },
        (Failure::TooExpensive, _) => ReadError::TooExpensive { limit: "rows read" },
        (Failure::Transient, _) => ReadError::Unavailable,
        (Failure::Overloaded, _) => overloaded,
        (Failure::Permanent, _) => ReadError::Failed,
    }
}

const RESULT: &str = "500,000 result rows";
const _: () = assert!(MAX_RESULT_ROWS == 500_000, "the text names it");

/// What a failure says of ClickHouse.
pub(super) fn signal(error: &StoreError, class: Class) -> HealthSignal {
    match error {
        StoreError::Unreachable(_) => HealthSignal::Fails,
        StoreError::TimedOut => of_timeout(class),
        StoreError::Unintelligible(_) => HealthSignal::Works,
        StoreError::Refused { code, message } => match code {
            // TIMEOUT_EXCEEDED, TOO_SLOW: ClickHouse's clock was quicker than ours.
            159 | 160 => of_timeout(class),
            241 if is_of_the_server(message) => HealthSignal::Overloaded,
            // QUOTA_EXCEEDED: of whoever asks.
            201 => HealthSignal::Works,
            // UNKNOWN_TABLE, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, QUERY_WAS_CANCELLED: it answers, only not this.
            60 | 395 | 394 => HealthSignal::Works,
            _ => match error.class() {
                Failure::Transient => HealthSignal::Fails,
                Failure::Overloaded => HealthSignal::Overloaded,
                Failure::TooExpensive | Failure::Permanent => HealthSignal::Works,
            },
        },
    }
}

/// Dashboards and real-time questions are small by construction, so that slow ones of several projects are ClickHouse's fault. An ad
/// hoc one may just have been too big.
pub(super) fn of_timeout(class: Class) -> HealthSignal {
    match class {
        Class::Dashboard | Class::Realtime | Class::Stream => HealthSignal::NoEnd,
        Class::AdHoc => HealthSignal::Nothing,
    }
}

/// `(total) memory limit exceeded` is the server's limit, all others are the query's or the user's. ClickHouse has one
/// number for all of them.
fn is_of_the_server(message: &str) -> bool {
    message.contains("(total)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u32, message: &str) -> StoreError {
        StoreError::Refused { code, message: message.to_owned() }
    }

    const TOTAL: &str = "Code: 241. DB::Exception: (total) memory limit exceeded: would use 9.00 GiB";
    const OWN: &str = "Code: 241. DB::Exception: Query memory limit exceeded: would use 1.00 GiB";

    #[test]
    fn clickhouse_errors_become_what_a_caller_can_act_on() {
        let public = |code| public(&refused(code, OWN));
        let overloaded = ReadError::Overloaded { retry_after_s: 10 };
        assert_eq!(public(159), ReadError::TimedOut);
        assert_eq!(public(202), overloaded);
        assert_eq!(public(241), ReadError::TooExpensive { limit: "memory" });
        assert_eq!(super::public(&refused(241, TOTAL)), overloaded);
        assert_eq!(public(396), ReadError::TooExpensive { limit: "500,000 result rows" });
        assert_eq!(public(62), ReadError::Failed);
        // A table that is not there yet: migrations are under way.
        assert_eq!(public(60), ReadError::Unavailable);
        assert_eq!(super::public(&StoreError::Unreachable(String::new())), ReadError::Unavailable);
    }

    #[test]
    fn a_failure_of_the_question_is_none_of_clickhouse() {
        for (code, message, expected) in [
            (62, "", HealthSignal::Works),
            (60, "", HealthSignal::Works),
            (158, "", HealthSignal::Works),
            (201, "", HealthSignal::Works),
            (394, "", HealthSignal::Works),
            (396, "", HealthSignal::Works),
            (241, OWN, HealthSignal::Works),
            (241, TOTAL, HealthSignal::Overloaded),
            (202, "", HealthSignal::Overloaded),
            (439, "", HealthSignal::Overloaded),
            (209, "", HealthSignal::Fails),
            (999, "", HealthSignal::Fails),
        ] {
            assert_eq!(signal(&refused(code, message), Class::AdHoc), expected, "{code} {message}");
        }
        assert_eq!(signal(&StoreError::Unreachable(String::new()), Class::AdHoc), HealthSignal::Fails);
        assert_eq!(signal(&refused(159, ""), Class::AdHoc), HealthSignal::Nothing);
        assert_eq!(signal(&refused(159, ""), Class::Dashboard), HealthSignal::NoEnd);
    }
}
