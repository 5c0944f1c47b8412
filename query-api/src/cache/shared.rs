//! The second layer: Redis, when there is one. Slow, gone or corrupt counts as "not there".
//!
//! Every command has a deadline and goes through a breaker: a Redis that hangs costs a request one deadline, because who
//! was told [`Away`] does not ask again, and soon costs nothing.

use std::time::Duration;

use deadpool_redis::redis::{self, AsyncCommands, RedisError};
use deadpool_redis::{Config, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use tallyhouse_service::breaker::Breaker;

use super::Key;
use super::entry::Kept;
use crate::Clock;
use crate::metrics::{Metrics, RedisTrouble};

/// The longest that a request waits for Redis.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Connections; commands of several requests share one.
const CONNECTIONS: usize = 16;

/// An answer larger than this, compressed, stays in the process: moving it would take Redis from everybody else.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// A connection to Redis that nothing depends on.
pub struct Shared {
    pool: Pool,
    client: redis::Client,
    breaker: Breaker,
    metrics: Metrics,
    clock: Clock,
}

/// A Redis URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

/// Redis was no help: it failed, was too slow, or is being left alone. It has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

impl Shared {
    /// A client for `url`; connects when first used.
    pub fn new(url: &str, metrics: Metrics, clock: Clock) -> Result<Self, BadUrl> {
        let bad = |error: &dyn std::fmt::Display| BadUrl(error.to_string());
        let mut config = Config::from_url(url);
        let mut pool = PoolConfig::new(CONNECTIONS);
        pool.timeouts = Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) };
        config.pool = Some(pool);
        let pool = config.create_pool(Some(Runtime::Tokio1)).map_err(|error| bad(&error))?;
        let client = redis::Client::open(url).map_err(|error| bad(&error))?;
        Ok(Self { pool, client, breaker: Breaker::default(), metrics, clock })
    }

    /// The answer, whatever it is worth; `None` when there is none or it is damaged.
    pub async fn get(&self, key: &Key) -> Result<Option<Kept>, Away> {
        if !key.is_shared() {
            return Err(Away);
        }
        let name = key.in_redis().answer();
        let written = self.guarded(async |pool| Ok(pool.get().await?.get::<_, Option<Vec<u8>>>(&name).await?)).await?;
        match written {
            Some(written) => self.read(&name, &written).await,
            None => Ok(None),
        }
    }

    /// What was written down; damage is counted and removed.
    pub(super) async fn read(&self, name: &str, written: &[u8]) -> Result<Option<Kept>, Away> {
        if let Some(kept) = Kept::decode(written).filter(|kept| kept.body.open().is_some()) {
            return Ok(Some(kept));
        }
        self.metrics.redis_trouble(RedisTrouble::Corrupt);
        self.guarded(async |pool| Ok(pool.get().await?.del::<_, ()>(name).await?)).await?;
        Ok(None)
    }

    /// Whether Redis is being left alone.
    pub fn is_avoided(&self) -> bool {
        self.breaker.is_open()
    }

    /// Tries Redis, for the health page; also closes the breaker when Redis is back.
    pub async fn ping(&self) -> bool {
        self.guarded(async |pool| Ok(pool.get().await?.ping::<()>().await?)).await.is_ok()
    }

    /// A connection of one's own, for listening.
    pub(super) async fn listen(&self) -> Result<redis::aio::PubSub, RedisError> {
        self.client.get_async_pubsub().await
    }

    /// One exchange with Redis.
    pub(super) async fn guarded<T>(&self, call: impl AsyncFnOnce(&Pool) -> Result<T, Trouble>) -> Result<T, Away> {
        if !self.breaker.allows((self.clock)()) {
            self.metrics.redis_trouble(RedisTrouble::Avoided);
            return Err(Away);
        }
        let trouble = match tokio::time::timeout(PATIENCE, call(&self.pool)).await {
            Ok(Ok(value)) => {
                self.breaker.succeeded((self.clock)());
                return Ok(value);
            }
            Ok(Err(trouble)) => {
                tracing::debug!(error = %trouble, "Redis failed");
                RedisTrouble::Failed
            }
            Err(_) => RedisTrouble::TimedOut,
        };
        self.metrics.redis_trouble(trouble);
        self.breaker.failed((self.clock)());
        Err(Away)
    }
}

/// Why Redis failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// A command.
    #[error("{0}")]
    Command(#[from] RedisError),
}
