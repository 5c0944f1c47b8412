//! Where an answer came from, as `X-Cache` and `meta.cache` say it.

use crate::store::ReadError;

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// The answer was remembered.
    Hit,
    /// It was computed for this request.
    Miss,
    /// It was computed for another request that came first.
    Coalesced,
    /// It was remembered and is no longer fresh.
    Stale(StaleReason),
}

impl CacheStatus {
    /// As in `X-Cache`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Coalesced => "COALESCED",
            Self::Stale(_) => "STALE",
        }
    }
}

/// Why an answer is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// ClickHouse cannot be reached.
    Unavailable,
    /// ClickHouse has too much to do.
    Overloaded,
}

impl StaleReason {
    /// As in `meta.cache.stale_reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
        }
    }

    /// The reason to give an older answer instead of this error, if it is one that passes.
    pub(super) const fn of(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Unavailable | ReadError::LeftAlone { .. } => Some(Self::Unavailable),
            // It was answered in time once.
            ReadError::Overloaded { .. }
            | ReadError::TenantBusy { .. }
            | ReadError::OutOfTime { .. }
            | ReadError::TimedOut => Some(Self::Overloaded),
            ReadError::TooExpensive { .. }
            | ReadError::TooManyEvents { .. }
            | ReadError::TooFewPoints { .. }
            | ReadError::Failed => None,
        }
    }
}
