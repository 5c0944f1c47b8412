//! How a request passes through all layers of the cache.
//!
//! ```text
//! memory: fresh  -> HIT
//!         ageing -> HIT, and one refresh in the background
//!         none   -> single flight -> Redis -> lock over the fleet -> compute -> MISS | COALESCED
//! refused: because of the question, not of ClickHouse's state -> the same refusal for a few seconds, without a try
//! failed: an older answer, if one is kept -> STALE with the reason; else the error, which is never cached
//! ```
//!
//! While computing fails, each request tries again, and does not wait long for it. `stale_reason` is that of the last failure.
//!
//! Every wait is within the request's deadline. A computation has the deadline of the request that started it; a request that joined it
//! and has more time left tries once more. One whose time is over while others compute is given an older answer, or an error that says
//! when to come back.
//!
//! `fresh=true` computes past the cache, once for all who ask for it meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant as Deadline, timeout_at};

use super::cache_request::{CacheOutcome, CacheRequest};
use super::compute::{Accept, Obtained, Origin};
use super::entry::{CachedAnswer, Freshness};
use super::hot_keys::HotKeys;
use super::lock::Locks;
use super::refusals::Refusals;
use super::shared::SharedCache;
use super::single_flight::{Lost, Role, SingleFlight};
use super::stamp::{DaysStamp, Proven, VersionStamp};
use super::time_span::TimeSpan;
use super::ttl::{Kind, Policy};
use super::versions::Versions;
use super::{CacheStatus, Key, Memory, RedisTimeBudget, StaleReason};
use crate::clock::{Clock, Random};
use crate::store::ReadError;
use crate::telemetry::{Layer, Metrics, Refresh};

/// Refreshes beside requests at once. Beyond, the next reader of a stale answer tries again.
const REFRESHES: usize = 64;

/// For so long after a failure an older answer is given without another try.
const TROUBLE: Duration = Duration::from_secs(1);

/// For so long who asks waits only [`TRY_WITHIN`] for another try, if there is an older answer.
const TROUBLED: Duration = Duration::from_secs(60);

/// Long enough for an answer of a ClickHouse that is back. The try goes on beside.
const TRY_WITHIN: Duration = Duration::from_millis(500);

/// So much beyond its deadline a request waits for a computation that has the same: it ends by itself, and says why.
const GRACE: Duration = Duration::from_millis(500);

/// When to come back for an answer that was still being computed, in seconds.
pub(super) const COME_BACK_S: u32 = 1;

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
    pub hot_keys: Arc<HotKeys>,
    pub metrics: Metrics,
    pub clock: Clock,
    pub random: Random,
    pub(super) single_flight: SingleFlight<(Key, VersionStamp), Result<Obtained, ReadError>>,
    /// Computations past the cache.
    fresh_flight: SingleFlight<(Key, VersionStamp), Result<Obtained, ReadError>>,
    refreshes: Arc<Semaphore>,
    pub(super) troubles: Cache<[u8; 32], Trouble>,
    pub(super) refusals: Refusals,
    pub(super) last: Cache<[u8; 32], Key>,
}

/// What [`Answers`] is made of.
pub struct Layers {
    pub memory: Memory,
    pub shared: Option<Arc<SharedCache>>,
    pub versions: Versions,
    pub policy: Policy,
    pub metrics: Metrics,
    pub clock: Clock,
    pub random: Random,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) reason: StaleReason,
    pub(super) at: Instant,
}

/// A question at a state of the data.
#[derive(Clone)]
pub(super) struct CacheLookup {
    pub(super) request: CacheRequest,
    pub(super) key: Key,
    pub(super) stamp: VersionStamp,
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
            hot_keys: Arc::default(),
            metrics,
            clock,
            random,
            single_flight: SingleFlight::default(),
            fresh_flight: SingleFlight::default(),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            troubles: Cache::builder().max_capacity(TROUBLES).time_to_live(TROUBLED).build(),
            refusals: Refusals::new(),
            last: Cache::builder().max_capacity(LAST_BYTES).weigher(weigh).build(),
        }
    }

    /// The answer to a question.
    pub async fn get(&self, request: &CacheRequest) -> Result<CacheOutcome, ReadError> {
        let lookup = self.lookup(request).await?;
        if lookup.kind != Kind::Realtime {
            self.hot_keys.touch(&lookup.key, request, (self.clock)());
        }
        let remembered = self.memory.get(&lookup.key).map(|cached| (self.freshness(&lookup, &cached), cached));
        self.metrics.looked_up(Layer::Memory, Freshness::lookup(remembered.as_ref().map(|(freshness, _)| *freshness)));
        let given = match remembered {
            Some((Freshness::Fresh, cached)) => (cached, CacheStatus::Hit),
            Some((Freshness::Ageing, cached)) => self.ageing(&lookup, cached),
            Some((Freshness::StaleIfError | Freshness::Unusable, _)) | None => self.wait(&lookup).await?,
        };
        Ok(self.counted(given))
    }

    /// The answer, computed past the cache for all who ask for it so meanwhile; it replaces the remembered one.
    pub async fn fresh(&self, request: &CacheRequest) -> Result<CacheOutcome, ReadError> {
        let lookup = self.lookup(request).await?;
        let compute = || self.clone().compute_fresh(lookup.clone());
        let key = (lookup.key.clone(), lookup.stamp);
        let (role, found) = within(&lookup, self.fresh_flight.join(key, compute)).await;
        match (found, role) {
            (Ok(found), Role::Leader) => Ok((found.cached, CacheStatus::Miss)),
            (Ok(found), Role::Follower) => {
                self.metrics.coalesced();
                Ok((found.cached, CacheStatus::Coalesced))
            }
            (Err(error), _) => self.stale_if_error(&lookup, error).await.map(|given| self.counted(given)),
        }
    }

    async fn compute_fresh(self, lookup: CacheLookup) -> Result<Obtained, ReadError> {
        let lease = match self.fleet(&lookup) {
            Some(locks) => locks.token(&lookup).await,
            None => None,
        };
        let found = self.compute(&lookup, lease).await;
        self.metrics.cache.refreshed(Refresh::Fresh, found.is_ok());
        found
    }

    fn counted(&self, given: CacheOutcome) -> CacheOutcome {
        if let CacheStatus::Stale(reason) = given.1 {
            self.metrics.cache.stale(reason.label());
        }
        given
    }

    async fn lookup(&self, request: &CacheRequest) -> Result<CacheLookup, ReadError> {
        let (time_span, now_ms) = (TimeSpan::of(&request.plan), (self.clock)());
        let redis_time = RedisTimeBudget::default();
        let (project, span) = (request.scope.project(), time_span.span(now_ms));
        let stamp = self.versions.stamp(project, &span, &redis_time).await;
        let proven = match stamp.days {
            DaysStamp::Unknown => self.versions.proven(project, &span),
            DaysStamp::Known { .. } => None,
        };
        let key = Key::of(&request.scope, &request.name, stamp.generation).ok_or(ReadError::Failed)?;
        let kind = time_span.kind(stamp.days, now_ms);
        Ok(CacheLookup { request: request.clone(), key, stamp, proven, kind, redis_time })
    }

    pub(super) fn freshness(&self, lookup: &CacheLookup, cached: &CachedAnswer) -> Freshness {
        cached.freshness(lookup.stamp.days, lookup.proven, &self.policy, (self.clock)())
    }

    /// An answer whose time is about to end: given, and refreshed beside unless that has just failed.
    fn ageing(&self, lookup: &CacheLookup, cached: Arc<CachedAnswer>) -> CacheOutcome {
        let has_failed =
            self.troubles.get(&lookup.request.fallback.span).is_some_and(|trouble| trouble.at.elapsed() < TROUBLE);
        if !has_failed && let Ok(permit) = Arc::clone(&self.refreshes).try_acquire_owned() {
            self.refresh(lookup, Accept::NewerThan(cached.computed_ms), Some(permit));
        }
        (cached, CacheStatus::Hit)
    }

    fn refresh(&self, lookup: &CacheLookup, accept: Accept, permit: Option<OwnedSemaphorePermit>) {
        let answers = self.clone();
        let lookup = CacheLookup { request: lookup.request.in_background(), ..lookup.clone() };
        let key = (lookup.key.clone(), lookup.stamp);
        self.single_flight.launch(&key, || async move {
            let _permit = permit;
            let metrics = answers.metrics.clone();
            let found = answers.find_or_compute(lookup, accept).await;
            metrics.cache.refreshed(Refresh::Ahead, found.is_ok());
            found
        });
    }

    /// Refreshes a hot answer that was computed then, unless that is in flight; `permit` is held meanwhile.
    pub(super) async fn warm_up(&self, request: &CacheRequest, computed_ms: i64, permit: OwnedSemaphorePermit) {
        let Some(request) = (request.renew)((self.clock)()) else { return };
        let Ok(lookup) = self.lookup(&request).await else { return };
        let (answers, key) = (self.clone(), (lookup.key.clone(), lookup.stamp));
        self.single_flight.launch(&key, || async move {
            let _permit = permit;
            let metrics = answers.metrics.clone();
            let found = answers.find_or_compute(lookup, Accept::NewerThan(computed_ms)).await;
            metrics.cache.refreshed(Refresh::Warm, found.is_ok());
            found
        });
    }

    async fn wait(&self, lookup: &CacheLookup) -> Result<CacheOutcome, ReadError> {
        let trouble = self.troubles.get(&lookup.request.fallback.span);
        if let Some(trouble) = trouble
            && let Some(cached) = self.older(lookup).await
        {
            return self.troubled(lookup, trouble, cached).await;
        }
        let (role, found) = self.joined(lookup).await;
        if role == Role::Follower && found.as_ref().err().is_some_and(|error| has_more_time(lookup, *error)) {
            let (role, found) = self.joined(lookup).await;
            return self.given(lookup, role, found).await;
        }
        self.given(lookup, role, found).await
    }

    async fn joined(&self, lookup: &CacheLookup) -> (Role, Result<Obtained, ReadError>) {
        let compute = || self.clone().find_or_compute(lookup.clone(), Accept::Usable);
        within(lookup, self.single_flight.join(self.flight_key(lookup), compute)).await
    }

    /// The last try failed, and there is an older answer: who asks does not wait long for another try.
    async fn troubled(
        &self,
        lookup: &CacheLookup,
        trouble: Trouble,
        cached: Arc<CachedAnswer>,
    ) -> Result<CacheOutcome, ReadError> {
        if trouble.at.elapsed() < TROUBLE {
            return Ok((cached, CacheStatus::Stale(trouble.reason)));
        }
        let key = self.flight_key(lookup);
        // With nobody waiting, so that the try goes on when its reader has gone.
        if key.1 == lookup.stamp
            && let Ok(permit) = Arc::clone(&self.refreshes).try_acquire_owned()
        {
            self.refresh(lookup, Accept::Usable, Some(permit));
        }
        let compute = || self.clone().find_or_compute(lookup.clone(), Accept::Usable);
        let until = lookup.request.deadline.min(Deadline::now() + TRY_WITHIN);
        match timeout_at(until, self.single_flight.join(key, compute)).await {
            Ok((role, found)) => self.given(lookup, role, found.unwrap_or(Err(ReadError::Failed))).await,
            Err(_) => {
                // The others are given it at once, for a while.
                self.troubles.insert(lookup.request.fallback.span, Trouble { at: Instant::now(), ..trouble });
                Ok((cached, CacheStatus::Stale(trouble.reason)))
            }
        }
    }

    async fn given(
        &self,
        lookup: &CacheLookup,
        role: Role,
        found: Result<Obtained, ReadError>,
    ) -> Result<CacheOutcome, ReadError> {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.stale_if_error(lookup, error).await,
        };
        if role == Role::Follower && found.origin == Origin::Computed {
            self.metrics.coalesced();
        }
        Ok(match (found.origin, role) {
            (Origin::Remembered, _) if self.freshness(lookup, &found.cached) == Freshness::Ageing => {
                self.ageing(lookup, found.cached)
            }
            (Origin::Remembered, _) => (found.cached, CacheStatus::Hit),
            (Origin::Computed, Role::Leader) => (found.cached, CacheStatus::Miss),
            (Origin::Computed, Role::Follower) | (Origin::Elsewhere, _) => (found.cached, CacheStatus::Coalesced),
        })
    }

    /// Readers of one stamp share a computation; without versions, any computation of the key is joined.
    fn flight_key(&self, lookup: &CacheLookup) -> (Key, VersionStamp) {
        let any = match lookup.stamp.days {
            DaysStamp::Unknown => self.single_flight.find(|(key, _)| *key == lookup.key),
            DaysStamp::Known { .. } => None,
        };
        any.unwrap_or_else(|| (lookup.key.clone(), lookup.stamp))
    }

    /// An older answer instead of an error that passes.
    async fn stale_if_error(&self, lookup: &CacheLookup, error: ReadError) -> Result<CacheOutcome, ReadError> {
        let Some(reason) = StaleReason::of(&error) else { return Err(error) };
        let cached = self.older(lookup).await.ok_or(error)?;
        Ok((cached, CacheStatus::Stale(reason)))
    }

    /// Whatever is kept for the question, or for the same question as it was asked a little earlier.
    async fn older(&self, lookup: &CacheLookup) -> Option<Arc<CachedAnswer>> {
        // The last one's key may be of another generation: what an operator cleared is not given again.
        let last = |fallback| self.last.get(&fallback).filter(|key| key.generation() == lookup.stamp.generation);
        let fallback = lookup.request.fallback.all().into_iter().filter_map(last);
        for key in std::iter::once(lookup.key.clone()).chain(fallback) {
            let cached = match self.memory.get(&key) {
                Some(cached) => Some(cached),
                None => self.in_redis(lookup, &key).await.map(Arc::new),
            };
            if let Some(cached) = cached.filter(|cached| self.freshness(lookup, cached) != Freshness::Unusable) {
                return Some(cached);
            }
        }
        None
    }

    async fn in_redis(&self, lookup: &CacheLookup, key: &Key) -> Option<CachedAnswer> {
        self.fleet(lookup)?.shared.get(key, &lookup.redis_time).await.ok().flatten()
    }

    /// The other instances. Not for who has just found Redis to be no help: it is not asked twice by one request.
    pub(super) fn fleet(&self, lookup: &CacheLookup) -> Option<&Locks> {
        self.locks.as_ref().filter(|_| !lookup.redis_time.is_over())
    }
}

/// The outcome of a computation, waited for as long as the request has time.
async fn within(
    lookup: &CacheLookup,
    joining: impl Future<Output = (Role, Result<Result<Obtained, ReadError>, Lost>)>,
) -> (Role, Result<Obtained, ReadError>) {
    match timeout_at(lookup.request.deadline + GRACE, joining).await {
        Ok((role, found)) => (role, found.unwrap_or(Err(ReadError::Failed))),
        Err(_) => (Role::Follower, Err(ReadError::OutOfTime { retry_after_s: COME_BACK_S })),
    }
}

/// Whether a computation that ran out of time was that of a request with less time than this one.
fn has_more_time(lookup: &CacheLookup, error: ReadError) -> bool {
    let request = &lookup.request;
    let is_of_time = matches!(error, ReadError::TimedOut | ReadError::OutOfTime { .. });
    is_of_time && request.deadline.saturating_duration_since(Deadline::now()) > request.within / 2
}
