//! The second layer: Redis, when there is one. Slow, gone or corrupt counts as "not there": a Redis that hangs costs an
//! answer one deadline ([`RedisTimeBudget`]), and soon nothing (`cache/line.rs`).

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{self, FromRedisValue, RedisError};

use super::entry::CachedAnswer;
use super::line::Line;
pub use super::line::{Away, BadUrl};
pub(super) use super::line::{Request, TIME_BUDGET};
use super::packed::beside;
use super::{Key, RedisTimeBudget};
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// An answer larger than this, compressed, stays in the process: moving it would take Redis from everybody else.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// A connection to Redis that nothing depends on.
pub struct Shared {
    line: Arc<Line>,
    client: redis::Client,
}

impl Shared {
    /// A client for `url`; connects when first used.
    pub fn new(url: &str, metrics: Metrics, clock: Clock) -> Result<Self, BadUrl> {
        let client = redis::Client::open(url).map_err(|error| BadUrl(error.to_string()))?;
        Ok(Self { line: Arc::new(Line::new(url, metrics, clock)?), client })
    }

    /// The answer, whatever it is worth; `None` when there is none or it is damaged.
    pub async fn get(&self, key: &Key, redis_time: &RedisTimeBudget) -> Result<Option<CachedAnswer>, Away> {
        if !key.is_shared() {
            return Err(Away);
        }
        let name = key.in_redis().answer();
        let mut command = redis::cmd("GET");
        command.arg(&name);
        match self.ask_for::<Option<Vec<u8>>>(redis_time, Request::One(command)).await? {
            Some(written) => self.read(&name, written, redis_time).await,
            None => Ok(None),
        }
    }

    /// What was written down; damage is counted and removed.
    pub(super) async fn read(
        &self,
        name: &str,
        written: Vec<u8>,
        redis_time: &RedisTimeBudget,
    ) -> Result<Option<CachedAnswer>, Away> {
        let bytes = CachedAnswer::raw_bytes(&written);
        let whole = move || CachedAnswer::decode(&written).filter(|cached| cached.body.open().is_some());
        if let Some(cached) = beside(bytes, whole).await.flatten() {
            return Ok(Some(cached));
        }
        self.line.corrupt();
        let mut command = redis::cmd("DEL");
        command.arg(name);
        self.ask_for::<()>(redis_time, Request::One(command)).await?;
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
    pub(super) async fn ask_for<T>(&self, redis_time: &RedisTimeBudget, request: Request) -> Result<T, Away>
    where
        T: FromRedisValue + Send + 'static,
    {
        if redis_time.is_over() {
            return self.line.avoided();
        }
        let (value, took): (T, Duration) = self.line.ask_now(request).await.inspect_err(|_| redis_time.end())?;
        redis_time.spend(took);
        Ok(value)
    }

    /// Asks Redis, for nobody who waits.
    pub(super) async fn ask<T: FromRedisValue + Send + 'static>(&self, request: Request) -> Result<T, Away> {
        self.line.ask(request).await
    }
}
