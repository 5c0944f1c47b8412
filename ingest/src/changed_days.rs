//! After an insert: which days and hours it touched is told to whoever caches answers.
//!
//! ```text
//! stored, maybe stored, or long under way -> the versions of this process, at once
//!                                         -> Redis, when there is one (`tallyhouse_service::changed_days`): at most 5,000 at a time
//! all of it told                          -> Redis: a beat, four times a second
//! start after a kill, or more than can wait -> Redis: everything may have changed
//! ```
//!
//! Ingestion never waits for it. Without Redis nothing but the first line happens: what this process remembers ends with it.
//!
//! A beat vouches that all was told which was stored before. Whoever caches answers believes unchanged versions only while it goes
//! on, so that in every case below answers have short times (a minute) from a second after the first event that could not be told.
//!
//! Failure cases:
//! * Redis is away, or takes no writes: days wait, each once however often it is touched, and are sent again; no beat meanwhile;
//! * a piece is carried out, but not answered in time: it is sent again, which does no harm, and only it;
//! * it is away for so long that a day finds no room: the day is dropped and counted, and everything is told instead as soon as
//!   Redis is back;
//! * it is away at the end of the process: what waits is dropped and counted, and the marker stays, so that the next start tells
//!   everything;
//! * ClickHouse stores a block and its answer does not come: its days are told all the same, each half second;
//! * the process is killed after an insert and before its days were told: the batch is stored, so nobody sends it again, and
//!   nobody knows the days any more. Its beat stands still. The next process of this data folder finds the marker ([`crate::marker`]),
//!   tells everything, for as long as it takes, and takes the dead one off the list. That costs a cold cache, and the older answers
//!   that would be given while ClickHouse is away.
//!
//! Everything is told as by an operator's `DELETE /v1/cache`. What was inserted before and not told is covered by it; an insert
//! that the kill left half done is completed by whoever finds its file or its intent, who tells its days.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::Pool;
use tallyhouse_service::changed_days::{self, BEAT_EVERY, TellError, beat, leave, tell, tell_everything};
use tallyhouse_service::day_versions::{DayChange, DayVersions};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::marker::Marker;
use crate::metrics::Metrics;

/// Between two sends, so that a busy day is not sent with every insert.
const PACE: Duration = Duration::from_millis(50);

const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Days that wait for Redis, at most; besides these, one piece is on its way.
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
    pending: Mutex<PendingDays>,
    changed: Notify,
}

/// How this process vouches for what it told.
struct Pulse {
    id: String,
    beats: u64,
    last: Option<Instant>,
}

/// What Redis is still to be told.
#[derive(Debug, Default)]
struct PendingDays {
    days: BTreeSet<DayChange>,
    /// Days found no room, so that everything is to be told.
    has_dropped: bool,
}

impl Waiting {
    fn pending(&self) -> MutexGuard<'_, PendingDays> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingDays {
    /// Days are to be told. Gives how many neither wait already nor find room.
    fn put(&mut self, touched: &[DayChange]) -> usize {
        let mut dropped = 0;
        for day in touched {
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

    /// Takes the first piece behind `after`. Taken before it is sent: a day that is touched meanwhile waits anew.
    fn take(&mut self, after: Option<&DayChange>) -> BTreeSet<DayChange> {
        let some = changed_days::next(&self.days, after);
        for day in &some {
            self.days.remove(day);
        }
        some
    }
}

impl Publisher {
    /// Tells this process, and Redis if `has_redis`: then [`Publisher::send`] must run.
    pub fn new(versions: DayVersions, has_redis: bool, metrics: Arc<Metrics>) -> Self {
        Self { versions, redis: has_redis.then(Arc::default), metrics }
    }

    /// An insert is stored that touched these days.
    pub fn publish(&self, touched: &[DayChange]) {
        self.versions.raise(touched);
        let Some(waiting) = &self.redis else { return };
        let dropped = waiting.pending().put(touched);
        self.metrics.touched_dropped.inc_by(dropped as u64);
        waiting.changed.notify_one();
    }

    /// Sends to Redis what waits, until `stop`. Then it is tried once more; what Redis does not take is dropped and counted, and
    /// the marker stays. Without Redis it does nothing.
    pub async fn send(self, pool: Pool, mut marker: Marker, stop: CancellationToken) {
        let Some(waiting) = &self.redis else { return };
        if marker.is_unclean() {
            tracing::warn!("the last stop was not an orderly one: Redis is told that everything may have changed");
        }
        let (mut is_failing, mut pulse) = (false, Pulse { id: marker.id(), beats: 0, last: None });
        while !stop.is_cancelled() {
            let sent = self.flush_and_beat(waiting, &pool, &mut marker, &mut pulse).await;
            self.log(&sent, &mut is_failing);
            let pause = match sent {
                Ok(0) => {
                    let woken = tokio::time::timeout(BEAT_EVERY, waiting.changed.notified());
                    stop.run_until_cancelled(woken).await;
                    continue;
                }
                Ok(_) => PACE,
                Err(_) => AGAIN_AFTER,
            };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        let told = self.flush(waiting, &pool, &mut marker).await;
        match told {
            Ok(_) => {
                if pulse.last.is_some()
                    && let Err(error) = leave(&pool, &pulse.id).await
                {
                    tracing::warn!(%error, "Redis was not told that this process stopped: cached answers have short times until the next start");
                    // The next start takes it off the list.
                    return;
                }
                marker.end();
            }
            Err(error) => {
                let days = std::mem::take(&mut waiting.pending().days).len();
                self.metrics.touched_failures.inc();
                self.metrics.touched_dropped.inc_by(days as u64);
                tracing::warn!(%error, days, "Redis never learned what was touched: the next start tells it that everything was");
            }
        }
    }

    /// Vouches for what was told before, unless it did so just now. Whatever is stored from here on is the next beat's.
    async fn flush_and_beat(
        &self,
        waiting: &Waiting,
        pool: &Pool,
        marker: &mut Marker,
        pulse: &mut Pulse,
    ) -> Result<usize, TellError> {
        let sent = self.flush(waiting, pool, marker).await?;
        if pulse.last.is_none_or(|last| last.elapsed() >= BEAT_EVERY.mul_f64(0.9)) {
            pulse.beats += 1;
            beat(pool, &pulse.id, pulse.beats).await?;
            pulse.last = Some(Instant::now());
        }
        Ok(sent)
    }

    /// Counts every failure, and logs the first of a row.
    fn log(&self, sent: &Result<usize, TellError>, is_failing: &mut bool) {
        match sent {
            Ok(_) if *is_failing => tracing::info!("Redis learns again which days were touched"),
            Ok(_) => {}
            Err(error) => {
                self.metrics.touched_failures.inc();
                if !*is_failing {
                    tracing::warn!(%error, "Redis did not learn which days were touched; trying again until it does");
                }
            }
        }
        *is_failing = sent.is_err();
    }

    /// Sends everything that waits, and tells how many days that were. What Redis does not take waits on.
    async fn flush(&self, waiting: &Waiting, pool: &Pool, marker: &mut Marker) -> Result<usize, TellError> {
        self.tell_everything_if_needed(waiting, pool, marker).await?;
        let (mut sent, mut last) = (0, None);
        loop {
            // In one pass: days that are touched all the time do not keep others from being told.
            let some = waiting.pending().take(last.as_ref());
            if some.is_empty() {
                return Ok(sent);
            }
            if let Err(error) = tell(pool, &some).await {
                waiting.pending().days.extend(some);
                return Err(error);
            }
            sent += some.len();
            last = some.into_iter().next_back();
        }
    }

    async fn tell_everything_if_needed(
        &self,
        waiting: &Waiting,
        pool: &Pool,
        marker: &mut Marker,
    ) -> Result<(), TellError> {
        let has_dropped = std::mem::take(&mut waiting.pending().has_dropped);
        if !has_dropped && !marker.is_unclean() {
            return Ok(());
        }
        if let Err(error) = tell_everything(pool, &marker.gone()).await {
            waiting.pending().has_dropped |= has_dropped;
            return Err(error);
        }
        self.metrics.touched_everything.inc();
        tracing::info!("Redis learned that everything may have changed: no answer from before is given again");
        marker.settle();
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
    fn what_waits_goes_in_pieces_and_a_day_that_is_touched_meanwhile_waits_anew() {
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
