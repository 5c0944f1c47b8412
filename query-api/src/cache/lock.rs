//! Single flight over the fleet: one instance computes, the others wait for the answer that it publishes.
//!
//! ```text
//! acquire -> leader: compute, renewing -> publish (if the token is still the newest) and unlock, at once
//!        -> taken: wait until the lock is gone -> the answer is there, or take over
//!        -> Redis away: compute without
//! ```
//!
//! * A leader that dies stops renewing; its lock expires within [`LOCK`] and a follower takes over.
//! * A leader that was only slow, and lost its lock, has an old fencing token: its answer replaces no newer one.
//! * Nobody waits beyond the request's deadline. The leader's query is the same, and began earlier: to send it once more would help nobody.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::redis;
use tokio::time::{sleep, timeout_at};

use super::answers::CacheLookup;
use super::entry::CachedAnswer;
use super::shared::{Away, MAX_BYTES, Request, SharedCache};
use super::stamp::VersionStamp;
use super::{Key, RedisTimeBudget};
use crate::clock::Random;
use crate::telemetry::{Dropped, LockEvent, Metrics};

/// How long a lock lives without being renewed: as long as a dead leader strands its followers.
pub const LOCK: Duration = Duration::from_secs(2);

/// Between two renewals; three may fail.
const RENEW: Duration = Duration::from_millis(500);

/// Between two looks at somebody else's lock, at first and at last.
const LOOK_AFTER: Duration = Duration::from_millis(2);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(50);

/// A fencing counter outlives every computation that took a token from it.
const FENCE_MS: u64 = 600_000;

/// Takes the lock and a token, and brings the answer that is there; nothing when the lock is taken.
const ACQUIRE: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
local token = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return {token, redis.call('GET', KEYS[3])}";

/// Takes a token, whoever has the lock.
const TOKEN: &str = "local token = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return token";

const RENEWAL: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0";

const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Writes the answer unless a newer token was given out since, and unlocks: who sees the lock gone sees the answer.
const PUBLISH: &str = "local newest = redis.call('GET', KEYS[2]) == ARGV[1]
if newest then redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3]) end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return newest and 1 or 0";

/// The result of waiting for the fleet.
pub(super) enum FleetOutcome {
    /// Compute; the others wait.
    Lead(Box<Lease>),
    /// Another instance computed it meanwhile.
    Found(CachedAnswer),
    /// Compute; nobody knows of it.
    Alone,
    /// The request's time is over, and somebody else still computes.
    OutOfTime,
}

/// Locks of the fleet.
#[derive(Clone)]
pub struct Locks {
    pub shared: Arc<SharedCache>,
    pub metrics: Metrics,
    pub random: Random,
}

impl Locks {
    /// Waits until there is an answer that `is_good`, or this instance has the lock; no longer than the request does. A dead leader's
    /// lock is over after [`LOCK`], and what is left of the time is for the query.
    pub(super) async fn acquire_or_wait(
        &self,
        lookup: &CacheLookup,
        is_good: impl Fn(&CachedAnswer) -> bool,
    ) -> FleetOutcome {
        let deadline = lookup.request.deadline;
        let mut has_waited = false;
        loop {
            match self.acquire(lookup).await {
                Err(Away) => return FleetOutcome::Alone,
                Ok(Some((lease, Some(cached)))) if is_good(&cached) => {
                    drop(lease);
                    return FleetOutcome::Found(cached);
                }
                Ok(Some((lease, _))) => {
                    self.metrics.cache.lock(if has_waited { LockEvent::TookOver } else { LockEvent::Led });
                    return FleetOutcome::Lead(Box::new(lease));
                }
                Ok(None) => {}
            }
            if !has_waited {
                self.metrics.cache.lock(LockEvent::Waited);
            }
            has_waited = true;
            match timeout_at(deadline, self.until_unlocked(lookup)).await {
                Ok(Ok(())) => {}
                Ok(Err(Away)) => {
                    self.metrics.cache.lock(LockEvent::GaveUp);
                    return FleetOutcome::Alone;
                }
                Err(_) => {
                    self.metrics.cache.lock(LockEvent::GaveUp);
                    return FleetOutcome::OutOfTime;
                }
            }
            match self.shared.get(&lookup.key, &lookup.redis_time).await {
                Ok(Some(cached)) if is_good(&cached) => return FleetOutcome::Found(cached),
                Ok(_) => {}
                Err(Away) => return FleetOutcome::Alone,
            }
        }
    }

    /// A lease without a lock: for an answer that replaces whatever there is.
    pub(super) async fn token(&self, CacheLookup { key, stamp, redis_time, .. }: &CacheLookup) -> Option<Lease> {
        if !key.is_shared() {
            return None;
        }
        let fence = key.in_redis().fence();
        let mut script = redis::cmd("EVAL");
        script.arg(TOKEN).arg(1).arg(fence).arg(FENCE_MS);
        let token = self.shared.ask_for(redis_time, Request::One(script)).await;
        token.ok().map(|token| self.lease(key, *stamp, token))
    }

    async fn acquire(&self, lookup: &CacheLookup) -> Result<Option<(Lease, Option<CachedAnswer>)>, Away> {
        let CacheLookup { key, stamp, redis_time, .. } = lookup;
        if !key.is_shared() {
            return Err(Away);
        }
        let names = key.in_redis();
        let mut script = redis::cmd("EVAL");
        script.arg(ACQUIRE).arg(3).arg(names.lock(*stamp)).arg(names.fence()).arg(names.answer());
        script.arg(millis(LOCK)).arg(FENCE_MS);
        let call = self.shared.ask_for(redis_time, Request::One(script));
        let taken: Vec<redis::Value> = call.await?;
        let mut taken = taken.into_iter();
        let Some(redis::Value::Int(token)) = taken.next() else { return Ok(None) };
        let lease = self.lease(key, *stamp, token);
        let cached = match taken.next() {
            Some(redis::Value::BulkString(written)) => self.shared.read(&names.answer(), written, redis_time).await?,
            _ => None,
        };
        Ok(Some((lease, cached)))
    }

    /// The time of looks is not of the answer's time budget: it waits for whoever has the lock, not for Redis.
    async fn until_unlocked(&self, lookup: &CacheLookup) -> Result<(), Away> {
        let lock = lookup.key.in_redis().lock(lookup.stamp);
        let mut exists = redis::cmd("EXISTS");
        exists.arg(&lock);
        let mut pause = LOOK_AFTER;
        loop {
            sleep(pause.mul_f64(0.5 + 0.5 * (self.random)())).await;
            pause = (pause * 2).min(LOOK_AT_LEAST_EVERY);
            let own = RedisTimeBudget::default();
            let call = self.shared.ask_for(&own, Request::One(exists.clone()));
            let is_locked: bool = call.await.inspect_err(|_| lookup.redis_time.end())?;
            if !is_locked {
                return Ok(());
            }
        }
    }

    fn lease(&self, key: &Key, stamp: VersionStamp, token: i64) -> Lease {
        Lease { locks: self.clone(), key: key.clone(), stamp, token, is_over: false }
    }
}

/// The right to publish. Dropped unpublished, it unlocks, so that a follower need not wait for the lock's end.
pub(super) struct Lease {
    locks: Locks,
    key: Key,
    stamp: VersionStamp,
    token: i64,
    is_over: bool,
}

impl Lease {
    /// Runs `work`, keeping the lock. A lock that was lost does not stop it: the fencing token keeps order.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let renewing = async {
            loop {
                sleep(RENEW).await;
                // One that failed is tried again; that the lock ends is the worst that happens.
                if self.run(RENEWAL, &[&millis(LOCK).to_string()]).await.is_err() {
                    tracing::debug!("a lock was not renewed");
                }
            }
        };
        tokio::select! {
            done = work => done,
            never = renewing => never,
        }
    }

    /// Publishes the answer and unlocks.
    pub(super) async fn publish(mut self, cached: &CachedAnswer, now_ms: i64) {
        let remaining = u64::try_from(cached.ends.shared_ms() - now_ms).unwrap_or(0);
        if remaining == 0 || cached.bytes() > MAX_BYTES {
            self.locks.metrics.cache.dropped(Dropped::TooLarge);
            return;
        }
        let (names, written) = (self.key.in_redis(), cached.encode());
        let mut script = redis::cmd("EVAL");
        script.arg(PUBLISH).arg(3).arg(names.lock(self.stamp)).arg(names.fence()).arg(names.answer());
        script.arg(self.token).arg(written).arg(remaining);
        let call = self.locks.shared.ask(Request::One(script));
        match call.await {
            Ok(true) => self.is_over = true,
            Ok(false) => {
                self.is_over = true;
                self.locks.metrics.cache.lock(LockEvent::FencedOut);
            }
            Err(Away) => self.locks.metrics.cache.dropped(Dropped::RedisAway),
        }
    }

    async fn run(&self, script: &'static str, rest: &[&str]) -> Result<i64, Away> {
        run(&self.locks.shared, script, &self.key.in_redis().lock(self.stamp), self.token, rest).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_over {
            return;
        }
        let (shared, token) = (Arc::clone(&self.locks.shared), self.token);
        let lock = self.key.in_redis().lock(self.stamp);
        runtime.spawn(async move {
            if run(&shared, RELEASE, &lock, token, &[]).await.is_err() {
                tracing::debug!("a lock was not released; it ends by itself");
            }
        });
    }
}

async fn run(shared: &SharedCache, script: &'static str, lock: &str, token: i64, rest: &[&str]) -> Result<i64, Away> {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(lock).arg(token).arg(rest);
    shared.ask(Request::One(command)).await
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
