//! The way to an answer through all layers.
//!
//! ```text
//! memory: fresh -> HIT
//!         stale -> STALE at once, and one refresh beside
//!         none  -> flight of this process -> Redis -> flight of the fleet -> compute -> MISS | COALESCED
//! failed: an older answer, if one is kept -> STALE with the reason; else the error, which is never remembered
//! ```

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::{Kept, Worth};
use super::flight::{Flights, Role};
use super::fly::{Accept, Found, Origin};
use super::heat::Heat;
use super::lock::Locks;
use super::question::{Given, StaleReason, Wanted};
use super::reach::Reach;
use super::shared::Shared;
use super::stamp::{DaysStamp, Stamp};
use super::ttl::{Kind, Policy};
use super::versions::Versions;
use super::{Key, Memory, Patience};
use crate::metrics::{Layer, Metrics, Refresh};
use crate::serve::CacheStatus;
use crate::store::ReadError;
use crate::{Clock, Random};

/// Refreshes beside requests at once. Beyond, the next reader of a stale answer tries again.
const REFRESHES: usize = 64;

/// For so long after a failure an older answer is given without another try.
const TROUBLE: Duration = Duration::from_secs(1);

/// Answers whose last failure is remembered.
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
    flights: Flights<(Key, Stamp), Result<Found, ReadError>>,
    refreshes: Arc<Semaphore>,
    pub(super) troubles: Cache<Key, StaleReason>,
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

/// A question at a state of the data.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) wanted: Wanted,
    pub(super) key: Key,
    pub(super) stamp: Stamp,
    pub(super) kind: Kind,
    /// What is left for Redis.
    pub(super) patience: Patience,
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
            troubles: Cache::builder().max_capacity(TROUBLES).time_to_live(TROUBLE).build(),
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
        self.metrics.looked_up(Layer::Memory, remembered.as_ref().map(|(worth, _)| *worth));
        let given = match remembered {
            Some((Worth::Fresh, kept)) => (kept, CacheStatus::Hit),
            Some((Worth::Stale, kept)) => self.stale(&ask, kept),
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
            self.metrics.cache.stale(reason);
        }
        given
    }

    async fn ask(&self, wanted: &Wanted) -> Result<Ask, ReadError> {
        let (reach, now_ms) = (Reach::of(&wanted.plan), (self.clock)());
        let patience = Patience::default();
        let stamp = self.versions.stamp(wanted.scope.project(), reach.closed_days(now_ms), &patience).await;
        let key = Key::of(&wanted.scope, &wanted.plan, stamp.generation).ok_or(ReadError::Failed)?;
        Ok(Ask { wanted: wanted.clone(), key, stamp, kind: reach.kind(stamp.days, now_ms), patience })
    }

    pub(super) fn worth(&self, ask: &Ask, kept: &Kept) -> Worth {
        kept.worth(ask.stamp.days, &self.policy, (self.clock)())
    }

    /// An answer past its soft end: given, and refreshed beside unless that has just failed.
    fn stale(&self, ask: &Ask, kept: Arc<Kept>) -> Given {
        let reason = self.troubles.get(&ask.key).unwrap_or_else(|| {
            self.refresh(ask, kept.computed_ms);
            StaleReason::Revalidating
        });
        (kept, CacheStatus::Stale(reason))
    }

    fn refresh(&self, ask: &Ask, computed_ms: i64) {
        let Ok(permit) = Arc::clone(&self.refreshes).try_acquire_owned() else { return };
        let (answers, ask) = (self.clone(), ask.clone());
        let key = (ask.key.clone(), ask.stamp);
        self.flights.launch(&key, || async move {
            let _permit = permit;
            let metrics = answers.metrics.clone();
            let found = answers.fly(ask, Accept::NewerThan(computed_ms)).await;
            metrics.cache.refreshed(Refresh::Stale, found.is_ok());
            found
        });
    }

    /// Refreshes a hot answer that was computed then, unless that is under way; `turn` is held meanwhile.
    pub(super) async fn warm_up(&self, wanted: &Wanted, computed_ms: i64, turn: OwnedSemaphorePermit) {
        let Ok(ask) = self.ask(wanted).await else { return };
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
        if let Some(reason) = self.troubles.get(&ask.key)
            && let Some(kept) = self.older(ask).await
        {
            return Ok((kept, CacheStatus::Stale(reason)));
        }
        let flight = || self.clone().fly(ask.clone(), Accept::Usable);
        let (role, found) = self.flights.join(self.flight_for(ask), flight).await;
        let found = match found.unwrap_or(Err(ReadError::Failed)) {
            Ok(found) => found,
            Err(error) => return self.excused(ask, error).await,
        };
        if role == Role::Follower && found.origin == Origin::Computed {
            self.metrics.coalesced();
        }
        Ok(match (found.origin, role) {
            (Origin::Remembered, _) if self.worth(ask, &found.kept) == Worth::Stale => self.stale(ask, found.kept),
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

    /// Whatever is kept for the plan, or for what the question was planned as last time.
    async fn older(&self, ask: &Ask) -> Option<Arc<Kept>> {
        // The last plan's key may be of another generation: what an operator cleared is not given again.
        let last = self.last.get(&ask.wanted.question).filter(|key| key.generation() == ask.stamp.generation);
        for key in [Some(ask.key.clone()), last].into_iter().flatten() {
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
        self.fleet(ask)?.shared.get(key, &ask.patience).await.ok().flatten()
    }

    /// The other instances. Not for who could not learn the versions: Redis has just been no help, and is not asked
    /// twice by one request.
    pub(super) fn fleet(&self, ask: &Ask) -> Option<&Locks> {
        self.locks.as_ref().filter(|_| ask.stamp.days != DaysStamp::Unknown)
    }
}
