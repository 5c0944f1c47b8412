//! What the cache is asked, and what it gives.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::Patience;
use super::entry::Kept;
use crate::authorize::Scope;
use crate::plan::Plan;
use crate::render::Rendered;
use crate::serve::CacheStatus;
use crate::store::ReadError;

/// Computes an answer, waiting no longer for Redis than it is told; also later, to refresh it.
pub type Recipe =
    Arc<dyn Fn(Patience) -> Pin<Box<dyn Future<Output = Result<Rendered, ReadError>> + Send>> + Send + Sync + 'static>;

/// A question, as far as the cache needs to know it.
#[derive(Clone)]
pub struct Wanted {
    /// Who asks.
    pub scope: Scope,
    /// What is read.
    pub plan: Arc<Plan>,
    /// The question as it was put, digested: it stays the same while the plans of a sliding window change.
    pub question: [u8; 32],
    /// How long computing it may take, waiting for ClickHouse included.
    pub within: Duration,
    /// How to compute the answer.
    pub recipe: Recipe,
}

/// An answer and where it came from.
pub type Given = (Arc<Kept>, CacheStatus);

/// Why an answer is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// Another is being computed.
    Revalidating,
    /// ClickHouse cannot be reached.
    Unavailable,
    /// ClickHouse has too much to do.
    Overloaded,
}

impl StaleReason {
    /// As in `meta.cache.stale_reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Revalidating => "revalidating",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
        }
    }

    /// The reason to give an older answer instead of this error, if it is one that passes.
    pub(super) const fn of(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Unavailable | ReadError::LeftAlone { .. } => Some(Self::Unavailable),
            // It was answered in time once.
            ReadError::Overloaded { .. } | ReadError::TenantBusy { .. } | ReadError::TimedOut => Some(Self::Overloaded),
            ReadError::TooExpensive { .. }
            | ReadError::TooManyEvents { .. }
            | ReadError::TooFewPoints { .. }
            | ReadError::Failed => None,
        }
    }
}
