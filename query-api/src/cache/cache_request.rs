//! What the cache is asked, and what it gives.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::entry::CachedAnswer;
use super::status::CacheStatus;
use super::{RedisTimeBudget, Rendered};
use crate::authorize::Scope;
use crate::plan::Plan;
use crate::store::ReadError;

/// Computes an answer, waiting no longer for Redis than it is told; also later, to refresh it.
pub type ComputeFn = Arc<
    dyn Fn(RedisTimeBudget) -> Pin<Box<dyn Future<Output = Result<Rendered, ReadError>> + Send>>
        + Send
        + Sync
        + 'static,
>;

/// A question, as far as the cache needs to know it.
#[derive(Clone)]
pub struct CacheRequest {
    /// Who asks.
    pub scope: Scope,
    /// What is read now.
    pub plan: Arc<Plan>,
    /// What the answer is remembered under: the plan, without the times that follow the present.
    pub name: Arc<str>,
    /// Under what it is found while ClickHouse is away, by who asks a little later.
    pub fallback: FallbackKeys,
    /// How long computing it may take, waiting for ClickHouse included.
    pub within: Duration,
    /// How to compute the answer.
    pub compute: ComputeFn,
    /// The same question, asked later.
    pub renew: Renew,
}

/// Asks a question anew at an instant, in milliseconds since the epoch: of a window that slides, another range is read then.
pub type Renew = Arc<dyn Fn(i64) -> Option<CacheRequest> + Send + Sync + 'static>;

/// A question, relative to now: which answer stands in for another. Digests, which hold the project and what metrics mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackKeys {
    /// By how long the range is and how long ago it ends: windows that slide, however their times are written.
    pub span: [u8; 32],
    /// As if it were a minute shorter: one that was sent just before the turn of a minute.
    pub shorter: [u8; 32],
    /// By when it begins: windows that grow.
    pub start: [u8; 32],
}

impl FallbackKeys {
    /// Where to look, nearest first.
    pub const fn all(&self) -> [[u8; 32]; 3] {
        [self.span, self.shorter, self.start]
    }

    /// Where to be found.
    pub const fn own(&self) -> [[u8; 32]; 2] {
        [self.span, self.start]
    }
}

/// An answer and where it came from.
pub type Given = (Arc<CachedAnswer>, CacheStatus);
