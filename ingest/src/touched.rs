//! After an insert: which days it touched is told to whoever caches answers.
//!
//! ```text
//! stored -> the versions of this process, at once
//!        -> Redis, when there is one: HINCRBY tallyhouse:days:{project} {day}, PUBLISH tallyhouse:touched {project} {days…}
//! ```
//!
//! Ingestion never waits for it. Days that Redis did not take are kept, each once however often it is touched, and sent again;
//! beyond a bound, and at the end of the process, they are dropped and counted, and cached answers about them live until their
//! time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{self, RedisError};
use deadpool_redis::{Config, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use tallyhouse_service::day_versions::{DayVersions, Touched};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The hash of a project's days, by project.
pub const DAYS_KEY: &str = "tallyhouse:days:";

/// The channel: a project, then days since 1970, blanks between.
pub const CHANNEL: &str = "tallyhouse:touched";

/// Versions outlive every cached answer.
const KEPT_SECONDS: i64 = 8 * 24 * 3_600;

/// The longest wait for Redis.
const PATIENCE: Duration = Duration::from_millis(100);

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

    /// Sends what waits once, within [`PATIENCE`], and tells how many days that were. What Redis does not take waits on.
    async fn flush(&self, pool: &Pool) -> Result<usize, FlushError> {
        let Some(waiting) = &self.redis else { return Ok(0) };
        let days = std::mem::take(&mut *waiting.days());
        if days.is_empty() {
            return Ok(0);
        }
        let sent = tokio::time::timeout(PATIENCE, write(pool, &days)).await;
        match sent.unwrap_or(Err(FlushError::NoAnswer)) {
            Ok(()) => Ok(days.len()),
            Err(error) => {
                waiting.days().extend(days);
                Err(error)
            }
        }
    }
}

/// Why Redis did not take them.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error("{0}")]
    Pool(#[from] PoolError),
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer within {PATIENCE:?}")]
    NoAnswer,
}

async fn write(pool: &Pool, days: &BTreeSet<Touched>) -> Result<(), FlushError> {
    let mut by_project: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut pipeline = redis::pipe();
    for Touched { project, day } in days {
        pipeline.hincr(format!("{DAYS_KEY}{project}"), day, 1).ignore();
        by_project.entry(project).or_default().push(day.to_string());
    }
    for (project, days) in by_project {
        pipeline.expire(format!("{DAYS_KEY}{project}"), KEPT_SECONDS).ignore();
        // Last: who hears of it finds the new version.
        pipeline.publish(CHANNEL, format!("{project} {}", days.join(" "))).ignore();
    }
    let mut connection = pool.get().await?;
    Ok(pipeline.query_async::<()>(&mut connection).await?)
}

/// Connections to a Redis. The error tells nothing of the URL, which may hold a password.
pub fn pool(url: &str) -> Result<Pool, String> {
    let mut config = Config::from_url(url);
    let timeouts = Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
    config.pool = Some(PoolConfig { max_size: 2, timeouts, ..PoolConfig::default() });
    config
        .create_pool(Some(Runtime::Tokio1))
        .map_err(|_| "is not a Redis URL, such as redis://127.0.0.1:6379".to_owned())
}
