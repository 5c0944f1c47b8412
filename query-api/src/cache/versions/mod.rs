//! The version stamp of a question: the versions of its days and hours.
//!
//! ```text
//! with Redis   `…:writers`, four times a second: whether versions are current (`heartbeats.rs`)
//!              HGETALL `…:days:<project>` on first use, then what `…:touched` says has changed
//!              run_id and master_replid of INFO: counters are comparable only while the same process counts the same data
//! embedded     the versions that the ingester of this process raises
//! neither      unknown
//! ```
//!
//! A server that restarts from a snapshot, and a replica that takes over, may have lost the last counts and nothing else: the same sums
//! then mean other data. So no answer from before a restart of Redis is looked up after it.
//!
//! With Redis its hash is the authority, and counters of this process never enter a shared key. A version that Redis does not give is
//! *unknown*: then answers live for a short time. That includes a hash that never existed or was evicted: the first reader creates one with
//! a number of its own, and while it cannot be written, versions stay unknown. The stamp is taken before the data is read, so a computation
//! that an insert overtakes is cached under the older stamp, which nobody looks up any more.

mod fleet;
mod listen;
mod read;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tallyhouse_service::changed_days;
use tallyhouse_service::day_versions::{DayChange, DayVersions, Span};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::RedisTimeBudget;
use super::clear_counts::ClearCounts;
use super::day_version_table::Slot;
use super::heartbeats::READ_EVERY;
use super::shared::{Away, Request, SharedCache};
use super::stamp::{DaysStamp, Proven, VersionStamp};
use crate::clock::Clock;
use crate::telemetry::Metrics;
use fleet::Fleet;
use listen::AGAIN_AFTER;

/// Tells stamps. Clones share what they know.
#[derive(Clone)]
pub struct Versions {
    source: Source,
    clear_counts: Arc<ClearCounts>,
    clock: Clock,
}

#[derive(Clone)]
enum Source {
    Nobody,
    Process(DayVersions),
    Fleet(Arc<Fleet>),
}

impl Versions {
    /// From Redis if there is one, else from the ingester of this process if it has one.
    pub fn new(shared: Option<Arc<SharedCache>>, process: Option<DayVersions>, clock: Clock, metrics: Metrics) -> Self {
        let source = match (shared, process) {
            (Some(shared), _) => Source::Fleet(Arc::new(Fleet::new(shared, metrics))),
            (None, Some(days)) => Source::Process(days),
            (None, None) => Source::Nobody,
        };
        Self { source, clear_counts: Arc::default(), clock }
    }

    /// The stamp of these days and hours, all of them over, of a project. A change after quiet is in it at once, more of them once in
    /// half a second: each costs an answer.
    pub async fn stamp(&self, project: &str, span: &Span, redis_time: &RedisTimeBudget) -> VersionStamp {
        let (here, slot) = (self.clear_counts.generation(project), Slot::at((self.clock)()));
        match &self.source {
            Source::Nobody => VersionStamp { generation: here, days: DaysStamp::Unknown },
            Source::Process(versions) => {
                let (epoch, sum) = versions.of(project, span, slot.0);
                VersionStamp { generation: here, days: DaysStamp::Known { epoch, sum } }
            }
            Source::Fleet(fleet) => match fleet.stamp(project, span, slot, redis_time).await {
                Some(stamp) => {
                    if !span.is_empty() {
                        fleet.table().prove(project, (self.clock)());
                    }
                    stamp
                }
                None => {
                    let generation = fleet.table().generation(project).unwrap_or(here);
                    VersionStamp { generation, days: DaysStamp::Unknown }
                }
            },
        }
    }

    /// What the data was when its stamp could last be told.
    pub fn proven(&self, project: &str, span: &Span) -> Option<Proven> {
        let Source::Fleet(fleet) = &self.source else { return None };
        let (days, at_ms) = fleet.table().proven(project, span)?;
        Some(Proven { days, at_ms })
    }

    /// Makes every key of the project, or of all, another one. Fails when Redis did not take it, so that other instances do not learn of it. With all
    /// that is remembered gone, nobody waits for silent writers: a change that they did not publish does no harm any more.
    pub async fn clear(&self, project: Option<&str>) -> Result<(), Away> {
        self.clear_counts.raise(project);
        let Source::Fleet(fleet) = &self.source else { return Ok(()) };
        let mut commands = changed_days::clearing(project);
        if project.is_none() {
            changed_days::without(&mut commands, &fleet.heartbeats().silent(Instant::now()));
        }
        let sent = fleet.shared.ask::<()>(Request::Many(commands)).await;
        fleet.table().cleared(project);
        sent
    }

    /// Raises the versions of days that somebody changed who cannot raise them: a tool without Redis. Where nobody counts
    /// versions, the projects are cleared instead; `Err` when Redis did not take them all.
    pub async fn raise(&self, days: &BTreeSet<DayChange>) -> Result<(), Away> {
        match &self.source {
            Source::Nobody => {
                days.iter().for_each(|change| self.clear_counts.raise(Some(&change.project)));
                Ok(())
            }
            Source::Process(versions) => {
                versions.raise(&days.iter().cloned().collect::<Vec<_>>());
                Ok(())
            }
            Source::Fleet(fleet) => {
                let mut some = changed_days::next(days, None);
                while !some.is_empty() {
                    fleet.shared.ask::<()>(Request::Many(changed_days::commands(&some))).await?;
                    // Here at once, whatever becomes of the message.
                    some.iter().for_each(|change| fleet.table().heard(&change.project, change.units()));
                    some = changed_days::next(days, some.last());
                }
                Ok(())
            }
        }
    }

    /// Listens to what changes until `stopped`; `cleared` is called with the project that another process cleared. It must be brief:
    /// all this is on the thread of exchanges with Redis. A crowd that keeps this process busy for longer than a heartbeat is believed
    /// would else make versions unknown, and wait for answers that are right.
    pub async fn follow(&self, cleared: impl Fn(Option<&str>) + Send + Sync + 'static, stopped: CancellationToken) {
        let Source::Fleet(fleet) = &self.source else { return };
        let following = Arc::clone(fleet).follow(cleared, stopped);
        fleet.shared.on_exchange_thread(following).await;
    }
}

impl Fleet {
    async fn follow(self: Arc<Self>, cleared: impl Fn(Option<&str>) + Send + Sync, stopped: CancellationToken) {
        let fleet = &self;
        let listening = async {
            for link in 1.. {
                if let Err(error) = fleet.listen(link, &cleared).await {
                    tracing::debug!(%error, "the subscription to Redis ended");
                }
                fleet.table().unlinked();
                sleep(AGAIN_AFTER).await;
            }
        };
        let reading_heartbeats = async {
            let mut again = tokio::time::interval(READ_EVERY);
            again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                again.tick().await;
                // It has been counted; what is not read is not believed.
                let (Ok(()) | Err(Away)) = fleet.read_heartbeats(&cleared).await;
            }
        };
        tokio::select! {
            () = listening => {}
            () = reading_heartbeats => {}
            () = stopped.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tallyhouse_service::day_versions::Day;
    use tallyhouse_service::metrics::Registry;

    use super::*;

    /// Long after the days of these tests, so that they are looked at by days.
    const TODAY: Day = 1_000_000;

    fn span(from: i64, to: i64) -> Span {
        Span::between(from * 86_400, (to + 1) * 86_400, TODAY)
    }

    fn metrics() -> Metrics {
        Metrics::register(&Registry::new()).unwrap()
    }

    async fn stamp(versions: &Versions) -> VersionStamp {
        versions.stamp("p", &span(1, 7), &RedisTimeBudget::default()).await
    }

    #[tokio::test]
    async fn the_ingester_of_the_process_is_heard_at_once() {
        let days = DayVersions::default();
        let versions = Versions::new(None, Some(days.clone()), Arc::new(|| 0), metrics());
        let before = stamp(&versions).await;
        days.raise(&[DayChange::day("p", 8), DayChange::day("q", 3)]);
        assert_eq!(stamp(&versions).await, before);
        days.raise(&[DayChange::day("p", 3)]);
        assert_ne!(stamp(&versions).await, before);
        assert!(!before.generation.is_shared(), "counters of a process are not shared");
    }

    #[tokio::test]
    async fn a_trickle_in_the_process_moves_the_stamp_twice_a_second() {
        let (days, now_ms) = (DayVersions::default(), Arc::new(AtomicI64::new(0)));
        let clock = Arc::clone(&now_ms);
        let clock: Clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let versions = Versions::new(None, Some(days.clone()), clock, metrics());
        let late = [DayChange::day("p", 3)];
        let mut seen = Vec::new();
        for ms in 0..2_000 {
            now_ms.store(1_250 + ms, Ordering::SeqCst);
            if ms % 50 == 0 {
                days.raise(&late);
            }
            seen.push(stamp(&versions).await);
            seen.dedup();
        }
        assert_eq!(seen.len(), 5, "one for each slot: {seen:?}");
        now_ms.store(3_500, Ordering::SeqCst);
        let last = stamp(&versions).await;
        assert!(!seen.contains(&last), "the last one shows");
        now_ms.store(9_000, Ordering::SeqCst);
        assert_eq!(stamp(&versions).await, last);
        days.raise(&late);
        assert_ne!(stamp(&versions).await, last, "after quiet it shows at once");
    }

    #[tokio::test]
    async fn clearing_changes_every_generation_and_nobody_knows_without_a_source() {
        let versions = Versions::new(None, None, Arc::new(|| 0), metrics());
        let before = stamp(&versions).await;
        assert_eq!(before.days, DaysStamp::Unknown);
        assert_eq!(versions.clear(None).await, Ok(()));
        let after = stamp(&versions).await;
        assert_ne!(after.generation, before.generation);
        assert_eq!(versions.clear(Some("q")).await, Ok(()));
        assert_eq!(stamp(&versions).await.generation, after.generation, "q was cleared");
        let days = BTreeSet::from([DayChange::day("p", 3)]);
        assert_eq!(versions.raise(&days).await, Ok(()));
        assert_ne!(stamp(&versions).await.generation, after.generation, "nobody counts, so it is cleared");
    }
}
