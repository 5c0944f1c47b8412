//! The second layer: Redis, when there is one. Slow, gone or corrupt counts as "not there".
//!
//! Every command has a deadline and goes through a breaker: a Redis that hangs costs an answer one deadline ([`Patience`]),
//! and soon nothing. Commands run on a thread of their own, so that the
//! deadline measures Redis: a crowd of readers that keeps this process busy must not look like a Redis that hangs, or
//! the lock over the fleet would fail just when it is needed.

use std::time::{Duration, Instant};

use deadpool_redis::redis::{self, FromRedisValue, RedisError};
use deadpool_redis::{Config, Pool, PoolConfig, PoolError, Timeouts};
use tallyhouse_service::breaker::Breaker;
use tokio::runtime::{Builder, Handle, Runtime};

use super::entry::Kept;
use super::packed::beside;
use super::{Key, Patience};
use crate::Clock;
use crate::metrics::{Metrics, RedisTrouble};

/// The longest that a command may take.
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
    thread: Option<Runtime>,
}

/// One exchange with Redis.
pub(super) enum Request {
    /// A command.
    One(redis::Cmd),
    /// Several at once.
    Many(redis::Pipeline),
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
        let pool = config.create_pool(Some(deadpool_redis::Runtime::Tokio1)).map_err(|error| bad(&error))?;
        let client = redis::Client::open(url).map_err(|error| bad(&error))?;
        let thread = Builder::new_multi_thread().worker_threads(1).thread_name("redis").enable_all().build();
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "Redis has no thread of its own")).ok();
        Ok(Self { pool, client, breaker: Breaker::default(), metrics, clock, thread })
    }

    /// The answer, whatever it is worth; `None` when there is none or it is damaged.
    pub async fn get(&self, key: &Key, patience: &Patience) -> Result<Option<Kept>, Away> {
        if !key.is_shared() {
            return Err(Away);
        }
        let name = key.in_redis().answer();
        let mut command = redis::cmd("GET");
        command.arg(&name);
        match self.ask_for::<Option<Vec<u8>>>(patience, Request::One(command)).await? {
            Some(written) => self.read(&name, written, patience).await,
            None => Ok(None),
        }
    }

    /// What was written down; damage is counted and removed.
    pub(super) async fn read(&self, name: &str, written: Vec<u8>, patience: &Patience) -> Result<Option<Kept>, Away> {
        let bytes = Kept::raw_bytes(&written);
        let whole = move || Kept::decode(&written).filter(|kept| kept.body.open().is_some());
        if let Some(kept) = beside(bytes, whole).await.flatten() {
            return Ok(Some(kept));
        }
        self.metrics.redis_trouble(RedisTrouble::Corrupt);
        let mut command = redis::cmd("DEL");
        command.arg(name);
        self.ask_for::<()>(patience, Request::One(command)).await?;
        Ok(None)
    }

    /// Tries Redis, for the health page; also closes the breaker when Redis is back.
    pub async fn ping(&self) -> bool {
        self.ask::<()>(Request::One(redis::cmd("PING"))).await.is_ok()
    }

    /// A connection of one's own, for listening.
    pub(super) async fn listen(&self) -> Result<redis::aio::PubSub, RedisError> {
        self.client.get_async_pubsub().await
    }

    /// Asks Redis for an answer, as long as that still waits for it.
    pub(super) async fn ask_for<T>(&self, patience: &Patience, request: Request) -> Result<T, Away>
    where
        T: FromRedisValue + Send + 'static,
    {
        if patience.is_over() {
            self.metrics.redis_trouble(RedisTrouble::Avoided);
            return Err(Away);
        }
        let (value, took) = self.timed(request).await.inspect_err(|_| patience.end())?;
        patience.spend(took);
        Ok(value)
    }

    /// Asks Redis, for nobody who waits.
    pub(super) async fn ask<T: FromRedisValue + Send + 'static>(&self, request: Request) -> Result<T, Away> {
        self.timed(request).await.map(|(value, _)| value)
    }

    async fn timed<T: FromRedisValue + Send + 'static>(&self, request: Request) -> Result<(T, Duration), Away> {
        if !self.breaker.allows((self.clock)()) {
            self.metrics.redis_trouble(RedisTrouble::Avoided);
            return Err(Away);
        }
        let thread = self.thread.as_ref().map_or_else(Handle::current, |thread| thread.handle().clone());
        let pool = self.pool.clone();
        let exchange = thread.spawn(async move {
            let began = Instant::now();
            (tokio::time::timeout(PATIENCE, exchange(pool, request)).await, began.elapsed())
        });
        let trouble = match exchange.await {
            Ok((Ok(Ok(value)), took)) => {
                self.breaker.succeeded((self.clock)());
                return Ok((value, took));
            }
            Ok((Ok(Err(trouble)), _)) => {
                tracing::debug!(error = %trouble, "Redis failed");
                RedisTrouble::Failed
            }
            Ok((Err(_), _)) => RedisTrouble::TimedOut,
            Err(error) => {
                tracing::error!(%error, "an exchange with Redis ended without a result");
                RedisTrouble::Failed
            }
        };
        self.metrics.redis_trouble(trouble);
        self.breaker.failed((self.clock)());
        Err(Away)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Waiting for the thread would hold up whoever drops this.
        if let Some(thread) = self.thread.take() {
            thread.shutdown_background();
        }
    }
}

async fn exchange<T: FromRedisValue>(pool: Pool, request: Request) -> Result<T, Trouble> {
    let mut connection = pool.get().await?;
    Ok(match request {
        Request::One(command) => command.query_async(&mut connection).await?,
        Request::Many(commands) => commands.query_async(&mut connection).await?,
    })
}

/// Why Redis failed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// No connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// A command.
    #[error("{0}")]
    Command(#[from] RedisError),
}
