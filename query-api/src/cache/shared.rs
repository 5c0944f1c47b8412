//! The second layer: Redis, when there is one. Slow, gone or corrupt counts as "not there".

use std::time::Duration;

use deadpool_redis::redis::{AsyncCommands, RedisError};
use deadpool_redis::{Config, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use tallyhouse_service::breaker::Breaker;

use super::{Entry, Key};
use crate::metrics::{Metrics, RedisTrouble};

/// The longest that a request waits for Redis.
const PATIENCE: Duration = Duration::from_millis(100);

/// Connections; commands of several requests share one.
const CONNECTIONS: usize = 16;

/// An answer larger than this stays in the process: moving it would take Redis from everybody else.
const MAX_BYTES: usize = 4 << 20;

/// A connection to Redis that nothing depends on.
#[derive(Debug)]
pub struct Shared {
    pool: Pool,
    breaker: Breaker,
    metrics: Metrics,
}

/// A Redis URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

impl Shared {
    /// A client for `url`; connects when first used.
    pub fn new(url: &str, metrics: Metrics) -> Result<Self, BadUrl> {
        let mut config = Config::from_url(url);
        let mut pool = PoolConfig::new(CONNECTIONS);
        pool.timeouts = Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
        config.pool = Some(pool);
        let pool = config.create_pool(Some(Runtime::Tokio1)).map_err(|error| BadUrl(error.to_string()))?;
        Ok(Self { pool, breaker: Breaker::default(), metrics })
    }

    /// The answer, unless it has ended, is damaged, or Redis is not well.
    pub async fn get(&self, key: &Key, now_ms: i64) -> Option<Entry> {
        let name = key.in_redis();
        let written = self
            .guarded(now_ms, async |pool: &Pool| {
                pool.get().await?.get::<_, Option<Vec<u8>>>(&name).await.map_err(Trouble::from)
            })
            .await??;
        match Entry::decode(&written) {
            Some(entry) => Some(entry).filter(|entry| entry.is_fresh(now_ms)),
            None => {
                self.metrics.redis_trouble(RedisTrouble::Corrupt);
                self.guarded(now_ms, async |pool: &Pool| {
                    pool.get().await?.del::<_, ()>(&name).await.map_err(Trouble::from)
                })
                .await;
                None
            }
        }
    }

    /// Remembers an answer until its end.
    pub async fn put(&self, key: &Key, entry: &Entry, now_ms: i64) {
        let remaining = u64::try_from(entry.expires_ms - now_ms).unwrap_or(0);
        if remaining == 0 || entry.head.len() > MAX_BYTES {
            return;
        }
        let (name, written) = (key.in_redis(), entry.encode());
        self.guarded(now_ms, async |pool: &Pool| {
            pool.get().await?.pset_ex::<_, _, ()>(&name, written, remaining).await.map_err(Trouble::from)
        })
        .await;
    }

    /// Whether Redis is being left alone.
    pub fn is_avoided(&self) -> bool {
        self.breaker.is_open()
    }

    /// Tries Redis, for the health page; also closes the breaker when Redis is back.
    pub async fn ping(&self, now_ms: i64) -> bool {
        self.guarded(now_ms, async |pool: &Pool| pool.get().await?.ping::<()>().await.map_err(Trouble::from))
            .await
            .is_some()
    }

    async fn guarded<T>(&self, now_ms: i64, call: impl AsyncFnOnce(&Pool) -> Result<T, Trouble>) -> Option<T> {
        if !self.breaker.allows(now_ms) {
            self.metrics.redis_trouble(RedisTrouble::Avoided);
            return None;
        }
        let trouble = match tokio::time::timeout(PATIENCE, call(&self.pool)).await {
            Ok(Ok(value)) => {
                self.breaker.succeeded(now_ms);
                return Some(value);
            }
            Ok(Err(trouble)) => {
                tracing::debug!(error = %trouble, "Redis failed");
                RedisTrouble::Failed
            }
            Err(_) => RedisTrouble::TimedOut,
        };
        self.metrics.redis_trouble(trouble);
        self.breaker.failed(now_ms);
        None
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Pool(#[from] PoolError),
    #[error("{0}")]
    Command(#[from] RedisError),
}
