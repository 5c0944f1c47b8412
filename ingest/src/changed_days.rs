//! Invalidation of cached answers: after an insert, the days and hours that it changed are published.
//!
//! ```text
//! stored, maybe stored, or long under way   -> the day versions of this process, at once
//!                                           -> Redis, if there is one (`tallyhouse_service::changed_days`): at most 5,000 days at a time
//! nothing is pending                        -> Redis: a heartbeat, four times a second
//! unclean shutdown before, or pending full  -> Redis: invalidate everything
//! ```
//!
//! Ingestion never waits for it. Without Redis only the first line happens: day versions of this process end with it.
//!
//! A heartbeat says that every change of what was stored before has been published. Caches trust unchanged versions only while it goes
//! on, so in every case below answers have a short TTL (a minute) from a second after the first event whose change could not be published.
//!
//! Failure cases:
//! * Redis is away, or takes no writes: changed days stay pending, each once, and are sent again; no heartbeat meanwhile;
//! * Redis carries out a chunk, but does not answer in time: only this chunk is sent again, which does no harm;
//! * Redis is away for so long that pending days reach their bound: further ones are dropped and counted, and everything is invalidated as
//!   soon as Redis is back;
//! * Redis is away when the process ends: pending days are dropped and counted, and the marker stays, so that the next start invalidates
//!   everything;
//! * ClickHouse stores a block and its answer does not come: its days are published nevertheless, every half second;
//! * the process is killed after an insert and before its days were published: nobody sends the batch again, and nobody knows its days.
//!   The heartbeat stops. The next process of this data folder finds the marker ([`crate::unclean_shutdown`]), invalidates everything, however
//!   long that takes, and removes the dead writer from the list. That costs a cold cache, and the older answers that would be given
//!   while ClickHouse is away.
//!
//! Invalidating everything does the same as an operator's `DELETE /v1/cache`. It covers what was inserted before and not published; an
//! insert that the kill interrupted is completed by the next owner of its file or its intent, who publishes its days.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_service::changed_days::{
    self, BEAT_EVERY, InvalidateError, beat, invalidate, invalidate_everything, leave,
};
use tallyhouse_service::day_versions::{DayChange, DayVersions};
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::redis::Pool;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use crate::unclean_shutdown::ShutdownMarker;

/// Between two sends, so that a busy day is not sent with every insert.
const PACE: Duration = Duration::from_millis(50);

const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Days that may be pending; besides these, one chunk is on its way.
const MOST: usize = 100_000;

/// Publishes changed days. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    versions: DayVersions,
    redis: Option<Arc<Notifications>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Notifications {
    pending: Mutex<PendingDays>,
    arrived: Notify,
}

/// The heartbeats of this process.
struct Heartbeat {
    id: String,
    beats: u64,
    last: Option<Instant>,
}

/// Changed days that Redis does not know yet.
#[derive(Debug, Default)]
struct PendingDays {
    days: BTreeSet<DayChange>,
    /// Days were dropped, so everything has to be invalidated.
    has_dropped: bool,
}

impl Notifications {
    fn pending(&self) -> MutexGuard<'_, PendingDays> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingDays {
    /// Adds days. Returns how many were dropped: not pending already, and beyond the bound.
    fn put(&mut self, changed: &[DayChange]) -> usize {
        let mut dropped = 0;
        for day in changed {
            if self.days.contains(day) {
                continue;
            }
            if self.days.len() < MOST {
                self.days.insert(day.clone());
            } else {
                dropped += 1;
            }
        }
        self.has_dropped |= dropped > 0;
        dropped
    }

    /// Takes the first chunk behind `after`. It is taken before it is sent: a day that changes meanwhile is pending again.
    fn take(&mut self, after: Option<&DayChange>) -> BTreeSet<DayChange> {
        let some = changed_days::next(&self.days, after);
        for day in &some {
            self.days.remove(day);
        }
        some
    }
}

impl Publisher {
    /// Publishes to this process, and to Redis if `has_redis`: then [`Publisher::send`] must run.
    pub fn new(versions: DayVersions, has_redis: bool, metrics: Arc<Metrics>) -> Self {
        Self { versions, redis: has_redis.then(Arc::default), metrics }
    }

    /// Publishes the days that an insert changed.
    pub fn publish(&self, changed: &[DayChange]) {
        self.versions.raise(changed);
        let Some(notifications) = &self.redis else { return };
        let dropped = notifications.pending().put(changed);
        self.metrics.changed_days_dropped.inc_by(dropped as u64);
        notifications.arrived.notify_one();
    }

    /// Sends pending days to Redis until `stop`, and once more then; what Redis does not take is dropped and counted, and the marker
    /// stays. Without Redis it does nothing.
    pub async fn send(self, pool: Pool, mut marker: ShutdownMarker, health: Health, stop: CancellationToken) {
        let Some(notifications) = &self.redis else { return };
        if marker.is_unclean() {
            tracing::warn!("the last shutdown was unclean: all cached answers are invalidated");
        }
        let mut heartbeat = Heartbeat { id: marker.id(), beats: 0, last: None };
        while !stop.is_cancelled() {
            let sent = self.flush_and_beat(notifications, &pool, &mut marker, &mut heartbeat).await;
            self.tell(&sent, &health);
            let pause = match sent {
                Ok(0) => {
                    let woken = tokio::time::timeout(BEAT_EVERY, notifications.arrived.notified());
                    stop.run_until_cancelled(woken).await;
                    continue;
                }
                Ok(_) => PACE,
                Err(_) => AGAIN_AFTER,
            };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        let flushed = self.flush(notifications, &pool, &mut marker).await;
        match flushed {
            Ok(_) => {
                if heartbeat.last.is_some()
                    && let Err(error) = leave(&pool, &heartbeat.id).await
                {
                    tracing::warn!(%error, "Redis did not learn that this process stopped: cached answers have a short TTL until the next start");
                    // The next start removes it from the list.
                    return;
                }
                marker.remove();
            }
            Err(error) => {
                let days = std::mem::take(&mut notifications.pending().days).len();
                self.metrics.changed_days_failures.inc();
                self.metrics.changed_days_dropped.inc_by(days as u64);
                tracing::warn!(%error, days, "Redis did not take the changed days that were pending: the next start invalidates everything");
            }
        }
    }

    /// Sends a heartbeat after what was pending, unless one was just sent. It covers nothing that is stored from here on.
    async fn flush_and_beat(
        &self,
        notifications: &Notifications,
        pool: &Pool,
        marker: &mut ShutdownMarker,
        heartbeat: &mut Heartbeat,
    ) -> Result<usize, InvalidateError> {
        let sent = self.flush(notifications, pool, marker).await?;
        if heartbeat.last.is_none_or(|last| last.elapsed() >= BEAT_EVERY.mul_f64(0.9)) {
            heartbeat.beats += 1;
            beat(pool, &heartbeat.id, heartbeat.beats).await?;
            heartbeat.last = Some(Instant::now());
        }
        Ok(sent)
    }

    /// Counts every failure, and tells the first of a row.
    fn tell(&self, sent: &Result<usize, InvalidateError>, health: &Health) {
        match sent {
            Ok(_) => health.set("redis", Status::Up, ""),
            Err(error) => {
                self.metrics.changed_days_failures.inc();
                let told = format!("does not take changed days; they are sent again until it does: {error}");
                health.set("redis", Status::Degraded, told);
            }
        }
    }

    /// Sends all pending days and returns how many. What Redis does not take stays pending.
    async fn flush(
        &self,
        notifications: &Notifications,
        pool: &Pool,
        marker: &mut ShutdownMarker,
    ) -> Result<usize, InvalidateError> {
        self.invalidate_everything_if_needed(notifications, pool, marker).await?;
        let (mut sent, mut last) = (0, None);
        loop {
            // In one pass: days that change all the time do not keep others from being sent.
            let some = notifications.pending().take(last.as_ref());
            if some.is_empty() {
                return Ok(sent);
            }
            if let Err(error) = invalidate(pool, &some).await {
                notifications.pending().days.extend(some);
                return Err(error);
            }
            sent += some.len();
            last = some.into_iter().next_back();
        }
    }

    async fn invalidate_everything_if_needed(
        &self,
        notifications: &Notifications,
        pool: &Pool,
        marker: &mut ShutdownMarker,
    ) -> Result<(), InvalidateError> {
        let has_dropped = std::mem::take(&mut notifications.pending().has_dropped);
        if !has_dropped && !marker.is_unclean() {
            return Ok(());
        }
        if let Err(error) = invalidate_everything(pool, &marker.gone()).await {
            notifications.pending().has_dropped |= has_dropped;
            return Err(error);
        }
        self.metrics.changed_days_everything.inc();
        tracing::info!("all cached answers are invalidated");
        marker.resolve();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: std::ops::Range<usize>) -> Vec<DayChange> {
        days.map(|day| DayChange::day("p", day as i32)).collect()
    }

    #[test]
    fn only_a_day_that_neither_waits_nor_fits_is_dropped() {
        let mut pending = PendingDays::default();
        assert_eq!(pending.put(&days(0..MOST - 2)), 0);
        // Most of them wait already, and the two that do not are last.
        assert_eq!(pending.put(&days(MOST - 1_000..MOST)), 0);
        assert_eq!((pending.days.len(), pending.has_dropped), (MOST, false));
        assert_eq!(pending.put(&days(MOST - 1_000..MOST + 3)), 3);
        assert_eq!((pending.days.len(), pending.has_dropped), (MOST, true));
    }

    #[test]
    fn pending_days_go_in_chunks_and_a_day_that_changes_meanwhile_is_pending_again() {
        let mut pending = PendingDays::default();
        pending.put(&days(0..7_000));
        let first = pending.take(None);
        assert_eq!((first.len(), pending.days.len()), (changed_days::AT_ONCE, 2_000));
        pending.put(&days(0..1));
        let second = pending.take(first.last());
        assert_eq!((second.len(), pending.days.len()), (2_000, 1), "the pass goes on behind the first piece");
        assert!(pending.take(second.last()).is_empty());
        assert_eq!(pending.take(None).len(), 1);
    }
}
