//! The way to an answer through all layers.
//!
//! ```text
//! memory: fresh  -> HIT
//!         ageing -> HIT, and one refresh beside
//!         none   -> flight of this process -> Redis -> flight of the fleet -> compute -> MISS | COALESCED
//! refused: for what the question is, not for how ClickHouse is -> the same refusal for a few seconds, without a try
//! failed: an older answer, if one is kept -> STALE with the reason; else the error, which is never remembered
//! ```
//!
//! While computing fails, each question tries again, and its readers do not wait long for that: the reason that they are told is
//! that of the last failure, for as long as it lasts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::{Kept, Worth};
use super::flight::{Flights, Role};
use super::fly::{Accept, Found, Origin};
use super::heat::Heat;
use super::lock::Locks;
use super::question::{Given, Wanted};
use super::reach::Reach;
use super::refusals::Refusals;
use super::shared::Shared;
use super::stamp::{DaysStamp, Proven, Stamp};
use super::ttl::{Kind, Policy};
use super::versions::Versions;
use super::{CacheStatus, Key, Memory, RedisTimeBudget, StaleReason};
use crate::clock::{Clock, Random};
use crate::telemetry::{Layer, Metrics, Refresh};
use crate::store::ReadError;

/// Refreshes beside requests at once. Beyond, the next reader of a stale answer tries again.
const REFRESHES: usize = 64;

/// For so long after a failure an older answer is given without another try.
const TROUBLE: Duration = Duration::from_secs(1);

/// For so long who asks waits only [`TRY_WITHIN`] for another try, if there is an older answer.
const TROUBLED: Duration = Duration::from_secs(60);

/// Long enough for an answer of a ClickHouse that is back. The try goes on beside.
const TRY_WITHIN: Duration = Duration::from_millis(500);

/// Questions whose last failure is remembered.
const TROUBLES: u64 = 10_000;

/// Bytes for which answer was last given to which question.
const LAST_BYTES: u64 = 8 << 20;

/// All layers. Clones share them.
#[derive(Clone)]
pub struct Answers {
    /// In this process.
    pub memory: Memory,
    /// In Redis, when configured.
    pub locks: Option<Locks>,
    /// What the data was when.
    pub versions: Versions,
    /// How long answers live.
    pub policy: Policy,
    /// What is asked most.
    pub heat: Arc<Heat>,
    /// Counts what happens.
    pub metrics: Metrics,
    /// The present.
    pub clock: Clock,
    /// Jitter.
    pub random: Random,
    pub(super) flights: Flights<(Key, Stamp), Result<Found, ReadError>>,
    refreshes: Arc<Semaphore>,
    pub(super) troubles: Cache<[u8; 32], Trouble>,
    pub(super) refusals: Refusals,
    pub(super) last: Cache<[u8; 32], Key>,
}

/// What [`Answers`] is made of.
pub struct Layers {
    /// [`Answers::memory`].
    pub memory: Memory,
    /// [`Answers::locks`].
    pub shared: Option<Arc<Shared>>,
    /// [`Answers::versions`].
    pub versions: Versions,
    /// [`Answers::policy`].
    pub policy: Policy,
    /// [`Answers::metrics`].
    pub metrics: Metrics,
    /// [`Answers::clock`].
    pub clock: Clock,
    /// [`Answers::random`].
    pub random: Random,
}

/// A failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) reason: StaleReason,
    pub(super) at: Instant,
}

/// A question at a state of the data.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) wanted: Wanted,
    pub(super) key: Key,
    pub(super) stamp: Stamp,
    /// While the stamp is unknown: the last one that was not.
    pub(super) proven: Option<Proven>,
    pub(super) kind: Kind,
    /// What is left for Redis.
    pub(super) redis_time: RedisTimeBudget,
}

impl Answers {
    /// Nothing remembered yet.
    pub fn new(layers: Layers) -> Self {
        let Layers { memory, shared, versions, policy, metrics, clock, random } = layers;
        let locks = shared.map(|shared| Locks { shared, metrics: metrics.clone(), random: Arc::clone(&random) });
        let weigh = |_: &[u8; 32], key: &Key| u32::try_from(key.bytes() + 64).unwrap_or(u32::MAX);
        Self {
            memory,
            locks,
            versions,
            policy,
            heat: Arc::default(),
            metrics,
            clock,
            random,
            flights: Flights::default(),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            troubles: Cache::builder().max_capacity(TROUBLES).time_to_live(TROUBLED).build(),
            refusals: Refusals::new(),
            last: Cache::builder().max_capacity(LAST_BYTES).weigher(weigh).build(),
        }
    }

    /// The answer to a question.
    pub async fn get(&self, wanted: &Wanted) -> Result<Given, ReadError> {
        let ask = self.ask(wanted).await?;
        if ask.kind != Kind::Realtime {
            self.heat.touch(&ask.key, wanted, (self.clock)());
        }
        let remembered = self.memory.get(&ask.key).map(|kept| (self.worth(&ask, &kept), kept));
        self.metrics.looked_up(Layer::Memory, Worth::lookup(remembered.as_ref().map(|(worth, _)| *worth)));
        let given = match remembered {
            Some((Worth::Fresh, kept)) => (kept, CacheStatus::Hit),
            Some((Worth::Ageing, kept)) => self.ageing(&ask, kept),
            Some((Worth::Excuse | Worth::Nothing, _)) | None => self.wait(&ask).await?,
        };
        Ok(self.counted(given))
    }

    /// The answer, computed for this caller alone; it replaces the remembered one.
    pub async fn fresh(&self, wanted: &Wanted) -> Result<Given, ReadError> {
        let ask = self.ask(wanted).await?;
        let lease = match self.fleet(&ask) {
            Some(locks) => locks.token(&ask).await,
            None => None,
        };
        let found = self.compute(&ask, lease).await;
        self.metrics.cache.refreshed(Refresh::Fresh, found.is_ok());
        match found {
            Ok(found) => Ok((found.kept, CacheStatus::Miss)),
            Err(error) => self.excused(&ask, error).await.map(|given| self.counted(given)),
        }
    }

    fn counted(&self, given: Given) -> Given {
        if let CacheStatus::Stale(reason) = given.1 {
            self.metrics.cache.stale(reason.label());
        }
        given
    }

    async fn ask(&self, wanted: &Wanted) -> Result<Ask, ReadError> {
        let (reach, now_ms) = (Reach::of(&wanted.plan), (self.clock)());
        let redis_time = RedisTimeBudget::default();
        let (project, span) = (wanted.scope.project(), reach.span(now_ms));
        let stamp = self.versions.stamp(project, &span, &redis_time).await;
        let proven = match stamp.days {
            DaysStamp::Unknown => self.versions.proven(project, &span),
            DaysStamp::Known { .. } => None,
        };
        let key = Key::of(&wanted.scope, &wanted.name, stamp.generation).ok_or(ReadError::Failed)?;
        let kind = reach.kind(stamp.days, now_ms);
        Ok(Ask { wanted: wanted.clone(), key, stamp, proven, kind, redis_time })
    }

    pub(super) fn worth(&self, ask: &Ask, kept: &Kept) -> Worth {
        kept.worth(ask.stamp.days, ask.proven, &self.policy, (self.clock)())
    }

    /// An answer whose time is about to end: given, and refreshed beside unless that has just failed.
    fn ageing(&self, ask: &Ask, kept: Arc<Kept>) -> Given {
        let has_failed =
            self.troubles.get(&ask.wanted.around.span).is_some_and(|trouble| trouble.at.elapsed() < TROUBLE);
        if !has_failed && let Ok(permit) = Arc::clone(&self.refreshes).try_acquire_owned() {
            self.refresh(ask, Accept::NewerThan(kept.computed_ms), Some(permit));
        }
        (kept, CacheStatus::Hit)
    }

    fn refresh(&self, ask: &Ask, accept: Accept, permit: Option<OwnedSemaphorePermit>) {
        let (answers, ask) = (self.clone(), ask.clone());
        let key = (ask.key.clone(), ask.stamp);
        self.flights.launch(&key, || async move {
            let _permit = permit;
            let metrics = answers.metrics.clone();
            let found = answers.fly(ask, accept).await;
            metrics.cache.refreshed(Refresh::Ahead, found.is_ok());
            found
        });
    }

    /// Refreshes a hot answer that was computed then, unless that is under way; `turn` is held meanwhile.
    pub(super) async fn warm_up(&self, wanted: &Wanted, computed_ms: i64, turn: OwnedSemaphorePermit) {
        let Some(wanted) = (wanted.renew)((self.clock)()) else { return };
        let Ok(ask) = self.ask(&wanted).await else { return };
        let (answers, key) = (self.clone(), (ask.key.clone(), ask.stamp));
        self.flights.launch(&key, || async move {
            let _turn = turn;
            let metrics = answers.metrics.clone();
            let found = answers.fly(ask, Accept::NewerThan(computed_ms)).await;
            metrics.cache.refreshed(Refresh::Warm, found.is_ok());
            found
        });
    }

    async fn wait(&self, ask: &Ask) -> Result<Given, ReadError> {
        let trouble = self.troubles.get(&ask.wanted.around.span);
        if let Some(trouble) = trouble
            && let Some(kept) = self.older(ask).await
        {
            return self.troubled(ask, trouble, kept).await;
        }
        let flight = || self.clone().fly(ask.clone(), Accept::Usable);
        let (role, found) = self.flights.join(self.flight_for(ask), flight).await;
        self.landed(ask, role, found.unwrap_or(Err(ReadError::Failed))).await
    }

    /// The last try failed, and there is an older answer: who asks does not wait long for another try.
    async fn troubled(&self, ask: &Ask, trouble: Trouble, kept: Arc<Kept>) -> Result<Given, ReadError> {
        if trouble.at.elapsed() < TROUBLE {
            return Ok((kept, CacheStatus::Stale(trouble.reason)));
        }
        let key = self.flight_for(ask);
        // With nobody waiting, so that the try goes on when its reader has gone.
        if key.1 == ask.stamp
            && let Ok(permit) = Arc::clone(&self.refreshes).try_acquire_owned()
        {
            self.refresh(ask, Accept::Usable, Some(permit));
        }
        let flight = || self.clone().fly(ask.clone(), Accept::Usable);
        match tokio::time::timeout(TRY_WITHIN, self.flights.join(key, flight)).await {
            Ok((role, found)) => self.landed(ask, role, found.unwrap_or(Err(ReadError::Failed))).await,
            Err(_) => {
                // The others are given it at once, for a while.
                self.troubles.insert(ask.wanted.around.span, Trouble { at: Instant::now(), ..trouble });
                Ok((kept, CacheStatus::Stale(trouble.reason)))
            }
        }
    }

    async fn landed(&self, ask: &Ask, role: Role, found: Result<Found, ReadError>) -> Result<Given, ReadError> {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.excused(ask, error).await,
        };
        if role == Role::Follower && found.origin == Origin::Computed {
            self.metrics.coalesced();
        }
        Ok(match (found.origin, role) {
            (Origin::Remembered, _) if self.worth(ask, &found.kept) == Worth::Ageing => self.ageing(ask, found.kept),
            (Origin::Remembered, _) => (found.kept, CacheStatus::Hit),
            (Origin::Computed, Role::Leader) => (found.kept, CacheStatus::Miss),
            (Origin::Computed, Role::Follower) | (Origin::Elsewhere, _) => (found.kept, CacheStatus::Coalesced),
        })
    }

    /// Readers of one stamp share a flight; who knows no versions takes any.
    fn flight_for(&self, ask: &Ask) -> (Key, Stamp) {
        let any = match ask.stamp.days {
            DaysStamp::Unknown => self.flights.find(|(key, _)| *key == ask.key),
            DaysStamp::Known { .. } => None,
        };
        any.unwrap_or_else(|| (ask.key.clone(), ask.stamp))
    }

    /// An older answer instead of an error that passes.
    async fn excused(&self, ask: &Ask, error: ReadError) -> Result<Given, ReadError> {
        let Some(reason) = StaleReason::of(&error) else { return Err(error) };
        let kept = self.older(ask).await.ok_or(error)?;
        Ok((kept, CacheStatus::Stale(reason)))
    }

    /// Whatever is kept for the question, or for the same question as it was asked a little earlier.
    async fn older(&self, ask: &Ask) -> Option<Arc<Kept>> {
        // The last one's key may be of another generation: what an operator cleared is not given again.
        let last = |around| self.last.get(&around).filter(|key| key.generation() == ask.stamp.generation);
        let around = ask.wanted.around.all().into_iter().filter_map(last);
        for key in std::iter::once(ask.key.clone()).chain(around) {
            let kept = match self.memory.get(&key) {
                Some(kept) => Some(kept),
                None => self.in_redis(ask, &key).await.map(Arc::new),
            };
            if let Some(kept) = kept.filter(|kept| self.worth(ask, kept) != Worth::Nothing) {
                return Some(kept);
            }
        }
        None
    }

    async fn in_redis(&self, ask: &Ask, key: &Key) -> Option<Kept> {
        self.fleet(ask)?.shared.get(key, &ask.redis_time).await.ok().flatten()
    }

    /// The other instances. Not for who has just found Redis to be no help: it is not asked twice by one request.
    pub(super) fn fleet(&self, ask: &Ask) -> Option<&Locks> {
        self.locks.as_ref().filter(|_| !ask.redis_time.is_over())
    }
}
