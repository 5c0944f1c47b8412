//! The Redis client: every exchange has a deadline and goes through a breaker.
//!
//! ```text
//! a reader's command -> breaker closed: sent | open: avoided | to be probed: avoided, and a PING is sent in the background
//! ```
//!
//! A request is never the probe: a Redis that hangs for an hour would cost one request in each pause a whole deadline.
//!
//! Exchanges run on a thread of their own, so that the deadline measures Redis: a crowd of requests that keeps this process
//! busy must not look like a Redis that hangs, or the lock over the fleet would fail just when it is needed. The subscription and the
//! readings of heartbeats are there for the same reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyhouse_service::breaker::{Breaker, Pass, Verdict};
/// The longest that a command may take.
pub(super) use tallyhouse_service::changed_days::TIME_BUDGET;
use tallyhouse_service::redis::{self, FromRedisValue, RedisError};
use tallyhouse_service::redis::{OpenError, Pool, RedisUrl, Unavailable};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::clock::Clock;
use crate::telemetry::{Metrics, RedisTrouble};

/// Connections; commands of several requests share one.
const CONNECTIONS: usize = 16;

/// A pool of connections behind a breaker.
pub(super) struct RedisClient {
    pool: Pool,
    breaker: Breaker,
    metrics: Metrics,
    clock: Clock,
    thread: Option<Runtime>,
}

/// One exchange with Redis.
pub(super) enum Request {
    One(redis::Cmd),
    /// Several at once.
    Many(redis::Pipeline),
}

/// Redis was no help: it failed, was too slow, or is being left alone. It has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

impl RedisClient {
    /// To `url`; connects when first used.
    pub(super) fn new(url: &RedisUrl, metrics: Metrics, clock: Clock) -> Result<Self, OpenError> {
        let pool = Pool::new(url, CONNECTIONS)?;
        let thread = Builder::new_multi_thread().worker_threads(1).thread_name("redis").enable_all().build();
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "Redis has no thread of its own")).ok();
        Ok(Self { pool, breaker: Breaker::default().told("redis_cache"), metrics, clock, thread })
    }

    /// Where exchanges run.
    pub(super) fn thread(&self) -> Handle {
        self.thread.as_ref().map_or_else(Handle::current, |thread| thread.handle().clone())
    }

    pub(super) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Asks for somebody who waits. Says how long it took.
    pub(super) async fn ask_now<T>(self: &Arc<Self>, request: Request) -> Result<(T, Duration), Away>
    where
        T: FromRedisValue + Send + 'static,
    {
        match self.pass() {
            Some(Pass::Normal) => self.exchange(Pass::Normal, request).await,
            Some(Pass::Probe) => {
                let client = Arc::clone(self);
                tokio::spawn(async move {
                    let ping = Request::One(redis::cmd("PING"));
                    // What it says is for the breaker.
                    let (Ok(_) | Err(Away)) = client.exchange::<()>(Pass::Probe, ping).await;
                });
                self.avoided()
            }
            None => self.avoided(),
        }
    }

    /// Asks for nobody who waits.
    pub(super) async fn ask<T: FromRedisValue + Send + 'static>(&self, request: Request) -> Result<T, Away> {
        match self.pass() {
            Some(pass) => self.exchange(pass, request).await.map(|(value, _)| value),
            None => self.avoided(),
        }
    }

    /// Redis is not asked.
    pub(super) fn avoided<T>(&self) -> Result<T, Away> {
        self.metrics.redis_trouble(RedisTrouble::Avoided);
        Err(Away)
    }

    /// What Redis gave is damaged.
    pub(super) fn corrupt(&self) {
        self.metrics.redis_trouble(RedisTrouble::Corrupt);
    }

    fn pass(&self) -> Option<Pass> {
        self.breaker.pass((self.clock)())
    }

    async fn exchange<T>(&self, pass: Pass, request: Request) -> Result<(T, Duration), Away>
    where
        T: FromRedisValue + Send + 'static,
    {
        let pool = self.pool.clone();
        let exchange = self.thread().spawn(async move {
            let began = Instant::now();
            (tokio::time::timeout(TIME_BUDGET, exchange(pool, request)).await, began.elapsed())
        });
        let finish = |verdict| self.breaker.record(pass, verdict, (self.clock)());
        let trouble = match exchange.await {
            Ok((Ok(Ok(value)), took)) => {
                finish(Verdict::Succeeded);
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
        finish(Verdict::Failed);
        Err(Away)
    }
}

impl Drop for RedisClient {
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
    Pool(#[from] Unavailable),
    #[error("{0}")]
    Command(#[from] RedisError),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tallyhouse_service::metrics::Registry;
    use tokio::net::TcpListener;

    use super::*;

    /// It takes connections and says nothing.
    async fn hung() -> RedisUrl {
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", hung.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = hung.accept().await {
                held.push(stream);
            }
        });
        url
    }

    #[tokio::test]
    async fn nobody_who_waits_is_the_probe() {
        let registry = Registry::new();
        let now = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&now);
        let metrics = Metrics::register(&registry).unwrap();
        let client = RedisClient::new(&hung().await, metrics, Arc::new(move || clock.load(Ordering::Relaxed))).unwrap();
        let client = Arc::new(client);
        let ask = async || client.ask_now::<()>(Request::One(redis::cmd("PING"))).await;
        let waited = || {
            let families = registry.gather();
            let errors = families.iter().find(|family| family.name() == "tallyhouse_query_redis_errors_total").unwrap();
            let avoided =
                |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|l| l.value() == "avoided");
            errors
                .get_metric()
                .iter()
                .filter(|metric| !avoided(metric))
                .map(|m| m.get_counter().get_value())
                .sum::<f64>()
        };
        while client.breaker.pass(0) == Some(Pass::Normal) {
            assert_eq!(ask().await, Err(Away));
        }
        let before = waited();
        assert!(before > 0.0);
        now.store(60_000, Ordering::Relaxed);
        assert_eq!(ask().await, Err(Away));
        assert_eq!(waited(), before, "the reader waited");
        while waited() == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.breaker.pass(60_000), None, "the probe has failed");
    }
}
