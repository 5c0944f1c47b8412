//! Exchanges with Redis, behind a breaker and each within a deadline. No request waits for one while Redis is known to be away.
//!
//! They run on a thread of their own, so that the deadline measures Redis and not how busy this process is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

use super::account::{Known, LEASE, LeaseReply, LeaseRequest, Lent};
use crate::breaker::{Breaker, Pass, Verdict};
use crate::clock::steady_ms;
use crate::redis::{self, Cmd, FromRedisValue, OpenError, Pool, RedisUrl};

/// The longest that one may take.
pub(super) const WITHIN: Duration = Duration::from_millis(100);

const CONNECTIONS: usize = 8;

const LEASE_SCRIPT: &str = include_str!("lease.lua");
const INSTANCES_SCRIPT: &str = include_str!("instances.lua");

/// An instance that does not ask for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(15);

pub(super) struct Exchange {
    pool: Pool,
    breaker: Breaker,
    thread: Option<Runtime>,
}

/// Redis was no help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    /// There was no connection: nothing was sent.
    Unreached,
    /// It failed, or was too slow: whether it did what it was asked for is not known.
    Failed,
    /// It was not asked, after failures.
    Avoided,
}

impl Exchange {
    pub(super) fn new(url: &RedisUrl) -> Result<Self, OpenError> {
        let thread = Builder::new_multi_thread().worker_threads(1).thread_name("limits").enable_all().build();
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "rate limits have no thread of their own")).ok();
        Ok(Self { pool: Pool::new(url, CONNECTIONS)?, breaker: Breaker::default().told("redis_rate_limits"), thread })
    }

    pub(super) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Where exchanges run.
    pub(super) fn runtime(&self) -> Handle {
        self.thread.as_ref().map_or_else(Handle::current, |thread| thread.handle().clone())
    }

    /// Whether Redis may be asked for somebody who waits. A request is never the probe.
    pub(super) fn is_open(self: &Arc<Self>) -> bool {
        match self.breaker.pass(steady_ms()) {
            Some(Pass::Normal) => true,
            Some(Pass::Probe) => {
                let exchange = Arc::clone(self);
                self.runtime().spawn(async move {
                    // What it says is for the breaker.
                    let (Ok(()) | Err(Away::Unreached | Away::Failed | Away::Avoided)) =
                        exchange.send_with(Pass::Probe, redis::cmd("PING")).await;
                });
                false
            }
            None => false,
        }
    }

    /// Asks for tokens, and gives back what is not used.
    pub(super) async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Away> {
        let LeaseRequest { name, rule, needed, wanted, back, settled, owed, repeated: _, known } = request;
        let mut script = redis::cmd("EVAL");
        script.arg(LEASE_SCRIPT).arg(1).arg(&**name).arg(rule.burst).arg(rule.per_ms());
        script.arg(needed).arg(wanted).arg(back).arg(owed).arg(millis(LEASE));
        match known {
            Some(known) => script.arg(known.left).arg(known.at_ms),
            None => script.arg(-1).arg(0),
        };
        settled.iter().for_each(|settled| {
            script.arg(settled.epoch).arg(settled.tokens);
        });
        let sent = Instant::now();
        let (tokens, left, wait_ms, epoch, at_ms): (u64, u64, u64, u64, u64) = self.send(script).await?;
        let left = Known { left, at_ms };
        Ok(LeaseReply { lent: Lent { tokens, epoch }, left, wait: Duration::from_millis(wait_ms), sent })
    }

    /// How many instances share the list, this one included.
    pub(super) async fn instances(&self, list: &str, id: &str) -> Result<u64, Away> {
        let mut script = redis::cmd("EVAL");
        script.arg(INSTANCES_SCRIPT).arg(1).arg(list).arg(id).arg(millis(GONE_AFTER));
        self.send(script).await
    }

    async fn send<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Away> {
        let pass = self.breaker.pass(steady_ms()).ok_or(Away::Avoided)?;
        self.send_with(pass, command).await
    }

    async fn send_with<T: FromRedisValue>(&self, pass: Pass, command: Cmd) -> Result<T, Away> {
        let mut is_sent = false;
        let exchange = async {
            let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
            is_sent = true;
            command.query_async(&mut connection).await.map_err(|error| error.to_string())
        };
        let answer = tokio::time::timeout(WITHIN, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
        let verdict = if answer.is_ok() { Verdict::Succeeded } else { Verdict::Failed };
        self.breaker.record(pass, verdict, steady_ms());
        answer.map_err(|error| {
            tracing::debug!(error, "Redis failed for the rate limits");
            if is_sent { Away::Failed } else { Away::Unreached }
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Waiting for the thread would hold up whoever drops this.
        if let Some(thread) = self.thread.take() {
            thread.shutdown_background();
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
