//! After an insert: which days it touched is told to whoever caches answers.
//!
//! ```text
//! stored -> the versions of this process, at once
//!        -> Redis, when there is one (`tallyhouse_service::touched`)
//! ```
//!
//! Ingestion never waits for it. Days that Redis did not take are kept, each once however often it is touched, and sent again;
//! beyond a bound, and at the end of the process, they are dropped and counted, and cached answers about them live until their
//! time is up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::Pool;
use tallyhouse_service::day_versions::{DayVersions, Touched};
use tallyhouse_service::touched::{TellError, tell};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Between two sends, so that a busy day is not sent with every insert.
const PACE: Duration = Duration::from_millis(50);

const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Days that wait for Redis, at most.
const MOST: usize = 100_000;

/// Tells which days were touched. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    versions: DayVersions,
    redis: Option<Arc<Waiting>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    days: Mutex<BTreeSet<Touched>>,
    changed: Notify,
}

impl Waiting {
    fn days(&self) -> MutexGuard<'_, BTreeSet<Touched>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Tells this process, and Redis if `has_redis`: then [`Publisher::send`] must run.
    pub fn new(versions: DayVersions, has_redis: bool, metrics: Arc<Metrics>) -> Self {
        Self { versions, redis: has_redis.then(Arc::default), metrics }
    }

    /// An insert is stored that touched these days.
    pub fn publish(&self, touched: &[Touched]) {
        self.versions.raise(touched);
        let Some(waiting) = &self.redis else { return };
        let mut days = waiting.days();
        let room = MOST.saturating_sub(days.len());
        let dropped = touched.len().saturating_sub(room);
        days.extend(touched.iter().take(room).cloned());
        drop(days);
        self.metrics.touched_dropped.inc_by(dropped as u64);
        waiting.changed.notify_one();
    }

    /// Sends to Redis what waits, until `stop`. Then it is tried once more, and what Redis does not take is dropped and counted.
    pub async fn send(self, pool: Pool, stop: CancellationToken) {
        let Some(waiting) = &self.redis else { return };
        while !stop.is_cancelled() {
            let pause = match self.flush(&pool).await {
                Ok(0) => {
                    stop.run_until_cancelled(waiting.changed.notified()).await;
                    continue;
                }
                Ok(_) => PACE,
                Err(error) => {
                    self.metrics.touched_failures.inc();
                    tracing::warn!(%error, "Redis did not learn which days were touched; trying again");
                    AGAIN_AFTER
                }
            };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        if let Err(error) = self.flush(&pool).await {
            let days = std::mem::take(&mut *waiting.days()).len();
            self.metrics.touched_failures.inc();
            self.metrics.touched_dropped.inc_by(days as u64);
            tracing::warn!(%error, days, "Redis never learned that these days were touched: answers about them age out");
        }
    }

    /// Sends what waits once, and tells how many days that were. What Redis does not take waits on.
    async fn flush(&self, pool: &Pool) -> Result<usize, TellError> {
        let Some(waiting) = &self.redis else { return Ok(0) };
        let days = std::mem::take(&mut *waiting.days());
        if days.is_empty() {
            return Ok(0);
        }
        match tell(pool, &days).await {
            Ok(()) => Ok(days.len()),
            Err(error) => {
                waiting.days().extend(days);
                Err(error)
            }
        }
    }
}
