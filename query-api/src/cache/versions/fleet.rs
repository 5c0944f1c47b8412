//! The versions that an instance reads from Redis, and the stamps that follow from them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tallyhouse_service::day_versions::Span;
use tokio::sync::Notify;

use super::super::RedisTimeBudget;
use super::super::day_version_table::{DayVersionTable, Moment, Slot, VersionLookup};
use super::super::heartbeats::{UnknownReason, WriterHeartbeats};
use super::super::shared::{Away, Request, SharedCache};
use super::super::single_flight::{Lost, SingleFlight};
use super::super::stamp::VersionStamp;
use super::read::heartbeat_reading;
use crate::telemetry::Metrics;

pub(super) struct Fleet {
    pub(super) shared: Arc<SharedCache>,
    table: Mutex<DayVersionTable>,
    heartbeats: Mutex<WriterHeartbeats>,
    reading: SingleFlight<String, Result<Duration, Away>>,
    /// The first reading of the pulse.
    heartbeat_reading: SingleFlight<(), Result<Duration, Away>>,
    /// Redis is another one: the subscription may be to the one before, which still answers.
    pub(super) moved: Notify,
    pub(super) metrics: Metrics,
}

impl Fleet {
    pub(super) fn new(shared: Arc<SharedCache>, metrics: Metrics) -> Self {
        Self {
            shared,
            table: Mutex::default(),
            heartbeats: Mutex::default(),
            reading: SingleFlight::default(),
            heartbeat_reading: SingleFlight::default(),
            moved: Notify::new(),
            metrics,
        }
    }
}

impl Fleet {
    /// `None` when Redis does not answer, or versions are unknown.
    pub(super) async fn stamp(
        self: &Arc<Self>,
        project: &str,
        span: &Span,
        slot: Slot,
        redis_time: &RedisTimeBudget,
    ) -> Option<VersionStamp> {
        if !self.heartbeats().is_known() {
            self.first_heartbeats(redis_time).await;
        }
        let stamp = self.counted(project, span, slot, redis_time).await;
        // Judged after the versions were read: they are no older than what vouches for them.
        match (stamp, self.heartbeats().unknown_reason(Instant::now())) {
            (Some(stamp), None) => Some(stamp),
            // There is nothing to vouch for.
            (Some(stamp), Some(_)) if span.is_empty() => Some(stamp),
            (Some(_), Some(reason)) => {
                self.metrics.cache.unknown(reason.label());
                None
            }
            (None, reason) => {
                self.metrics.cache.unknown(reason.unwrap_or(UnknownReason::NoAnswer).label());
                None
            }
        }
    }

    async fn counted(
        self: &Arc<Self>,
        project: &str,
        span: &Span,
        slot: Slot,
        redis_time: &RedisTimeBudget,
    ) -> Option<VersionStamp> {
        // Three times: a reading that somebody else began may have been overtaken by a message, and one of days may find another hash.
        for _ in 0..3 {
            let now = Moment { at: Instant::now(), slot };
            let lookup = self.table().look_up(project, span, now);
            if let VersionLookup::Known(stamp) = lookup {
                return Some(stamp);
            }
            if redis_time.is_over() {
                return None;
            }
            let (fleet, name) = (Arc::clone(self), project.to_owned());
            let reading = || async move {
                let own = RedisTimeBudget::default();
                fleet.read(&name, lookup, now, &own).await.map(|()| own.spent())
            };
            match self.reading.join(project.to_owned(), reading).await.1 {
                Ok(Ok(took)) => redis_time.spend(took),
                Ok(Err(Away)) | Err(Lost) => {
                    redis_time.end();
                    return None;
                }
            }
        }
        match self.table().look_up(project, span, Moment { at: Instant::now(), slot }) {
            VersionLookup::Known(stamp) => Some(stamp),
            VersionLookup::ReadAll | VersionLookup::Read(_) => None,
        }
    }

    /// Who asks before the first reading waits for one.
    async fn first_heartbeats(self: &Arc<Self>, redis_time: &RedisTimeBudget) {
        let fleet = Arc::clone(self);
        let reading = || async move {
            let (sent, own) = (Instant::now(), RedisTimeBudget::default());
            let reply = fleet.shared.ask_for(&own, Request::Many(heartbeat_reading())).await?;
            fleet.took_heartbeats(sent, reply, &|_: Option<&str>| {}).await.map(|()| own.spent())
        };
        match self.heartbeat_reading.join((), reading).await.1 {
            Ok(Ok(took)) => redis_time.spend(took),
            Ok(Err(Away)) | Err(Lost) => redis_time.end(),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, DayVersionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heartbeats(&self) -> MutexGuard<'_, WriterHeartbeats> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
