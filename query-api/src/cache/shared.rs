//! The second layer of the cache: Redis, when there is one. Slow, gone or corrupt counts as "not there": a Redis that hangs costs an
//! answer one deadline ([`RedisTimeBudget`]), and nothing once the breaker is open (`cache/redis_client.rs`).

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::changed_days::WRITERS;
use tallyhouse_service::redis::{self, FromRedisValue, OpenError, Pool, RedisUrl, SubscribeError, Subscriber};
use tokio::task::JoinSet;

use super::compressed::beside;
use super::entry::CachedAnswer;
pub use super::redis_client::Away;
use super::redis_client::RedisClient;
pub(super) use super::redis_client::{Request, TIME_BUDGET};
use super::{Key, RedisTimeBudget, redis_memory};
use crate::clock::Clock;
use crate::telemetry::{Metrics, RedisMemory};

/// An answer larger than this, compressed, stays in the process: moving it would take Redis from everybody else.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// A connection to Redis that nothing depends on.
pub struct SharedCache {
    client: Arc<RedisClient>,
    subscriber: Subscriber,
}

impl SharedCache {
    /// A client for `url`; connects when first used.
    pub fn new(url: &RedisUrl, metrics: Metrics, clock: Clock) -> Result<Self, OpenError> {
        let subscriber = Subscriber::new(url, WRITERS)?;
        Ok(Self { client: Arc::new(RedisClient::new(url, metrics, clock)?), subscriber })
    }

    /// For metrics.
    pub fn pool(&self) -> Pool {
        self.client.pool()
    }

    /// The answer, however fresh it is; `None` when there is none or it is damaged.
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
        self.client.corrupt();
        let mut command = redis::cmd("DEL");
        command.arg(name);
        self.ask_for::<()>(redis_time, Request::One(command)).await?;
        Ok(None)
    }

    /// Tries Redis, for the health page; also closes the breaker when Redis is back.
    pub async fn ping(&self) -> bool {
        self.ask::<()>(Request::One(redis::cmd("PING"))).await.is_ok()
    }

    /// How much of its memory Redis uses.
    pub async fn memory(&self) -> Option<RedisMemory> {
        let info = redis::cmd("INFO").arg("memory").to_owned();
        redis_memory::read(&self.ask::<redis::Value>(Request::One(info)).await.ok()?)
    }

    /// A connection of one's own, for listening.
    pub(super) async fn listen(&self) -> Result<redis::aio::PubSub, SubscribeError> {
        self.subscriber.connect().await
    }

    /// Runs what must go on while this process is busy, on the thread of exchanges; no longer than somebody waits.
    pub(super) async fn on_exchange_thread(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = JoinSet::new();
        tasks.spawn_on(work, &self.client.thread());
        if let Some(Err(error)) = tasks.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Asks Redis for an answer, as long as that still waits for it.
    pub(super) async fn ask_for<T>(&self, redis_time: &RedisTimeBudget, request: Request) -> Result<T, Away>
    where
        T: FromRedisValue + Send + 'static,
    {
        if redis_time.is_over() {
            return self.client.avoided();
        }
        let (value, took): (T, Duration) = self.client.ask_now(request).await.inspect_err(|_| redis_time.end())?;
        redis_time.spend(took);
        Ok(value)
    }

    /// Asks Redis, for nobody who waits.
    pub(super) async fn ask<T: FromRedisValue + Send + 'static>(&self, request: Request) -> Result<T, Away> {
        self.client.ask(request).await
    }
}
