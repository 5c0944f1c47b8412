//! A request to the cache: the query, its key, and how to compute the answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::CachedAnswer;
use super::status::CacheStatus;
use super::{RedisTimeBudget, Rendered};
use crate::asked::Asked;
use crate::authorize::Scope;
use crate::plan::Plan;
use crate::store::ReadError;

/// Computes an answer until a deadline, waiting for Redis within the time budget it is given; also later, to refresh it.
pub type ComputeFn = Arc<
    dyn Fn(RedisTimeBudget, Instant) -> Pin<Box<dyn Future<Output = Result<Rendered, ReadError>> + Send>>
        + Send
        + Sync
        + 'static,
>;

/// A query, as far as the cache needs to know it.
#[derive(Clone)]
pub struct CacheRequest {
    pub scope: Scope,
    /// What is read now.
    pub plan: Arc<Plan>,
    /// What the answer is remembered under: the plan, without the times that follow the present.
    pub name: Arc<str>,
    /// Keys under which a later request finds the answer while ClickHouse is away.
    pub fallback: FallbackKeys,
    /// How long an answer may take, whatever is waited for.
    pub within: Duration,
    /// When whoever asks no longer waits: that long after the request came. Every wait for the answer is within it.
    pub deadline: Instant,
    pub compute: ComputeFn,
    /// The same request at a later instant.
    pub renew: Renew,
    /// How to ask it after a restart; without it, it is not.
    pub asked: Option<Arc<Asked>>,
}

impl CacheRequest {
    /// The same for nobody who waits: it has all of its time.
    pub(super) fn in_background(&self) -> Self {
        Self { deadline: Instant::now() + self.within, ..self.clone() }
    }
}

/// Asks a question anew at an instant, in milliseconds since the epoch: of a window that slides, another range is read then.
pub type Renew = Arc<dyn Fn(i64) -> Option<CacheRequest> + Send + Sync + 'static>;

/// Keys of a query relative to now: under them an older answer is found that may stand in for a newer one. Digests, which hold
/// the project and what metrics mean.
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
    /// The keys to look under, nearest first.
    pub const fn all(&self) -> [[u8; 32]; 3] {
        [self.span, self.shorter, self.start]
    }

    /// The keys to be found under.
    pub const fn own(&self) -> [[u8; 32]; 2] {
        [self.span, self.start]
    }
}

/// An answer, and what the cache did for it.
pub type CacheOutcome = (Arc<CachedAnswer>, CacheStatus);
