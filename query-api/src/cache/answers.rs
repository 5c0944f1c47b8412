//! The way to an answer through all layers.
//!
//! ```text
//! memory: fresh -> HIT
//!         stale -> STALE at once, and one refresh beside
//!         none  -> flight of this process -> Redis -> flight of the fleet -> compute -> MISS | COALESCED
//! failed: an older answer, if one is kept -> STALE with the reason; else the error, which is never remembered
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::{Kept, Worth};
use super::flight::{Flights, Role};
use super::heat::Heat;
use super::lock::{Lease, Locks, Turn};
use super::packed::Packed;
use super::reach::Reach;
use super::shared::{Away, Shared};
use super::stamp::{DaysStamp, Stamp};
use super::ttl::{Kind, Policy};
use super::versions::Versions;
use super::{Key, Memory};
use crate::authorize::Scope;
use crate::metrics::{Layer, Metrics, Refresh};
use crate::plan::Plan;
use crate::render::Rendered;
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

/// From this size an answer is compressed on a thread of its own.
const BLOCKING_BYTES: usize = 256 << 10;

/// Computes an answer; also later, to refresh it.
pub type Recipe =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Rendered, ReadError>> + Send>> + Send + Sync + 'static>;

/// A question, as far as the cache needs to know it.
#[derive(Clone)]
pub struct Wanted {
    /// Who asks.
    pub scope: Scope,
    /// What is read.
    pub plan: Arc<Plan>,
    /// The question as it was put, digested: it stays the same while the plans of a sliding window change.
    pub question: [u8; 32],
    /// How to compute the answer.
    pub recipe: Recipe,
}

/// An answer and where it came from.
pub type Given = (Arc<Kept>, CacheStatus);

/// Why an answer is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// Another is being computed.
    Revalidating,
    /// ClickHouse cannot be reached.
    Unavailable,
    /// ClickHouse has too much to do.
    Overloaded,
}

impl StaleReason {
    /// As in `meta.cache.stale_reason`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Revalidating => "revalidating",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
        }
    }

    /// The reason to give an older answer instead of this error, if it is one that passes.
    const fn of(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Unavailable => Some(Self::Unavailable),
            // It was answered in time once.
            ReadError::Overloaded | ReadError::TimedOut => Some(Self::Overloaded),
            ReadError::TooExpensive { .. } | ReadError::Failed => None,
        }
    }
}

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
    troubles: Cache<Key, StaleReason>,
    last: Cache<[u8; 32], Key>,
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
struct Ask {
    wanted: Wanted,
    key: Key,
    stamp: Stamp,
    kind: Kind,
}

/// Which answers a flight takes instead of computing.
#[derive(Debug, Clone, Copy)]
enum Accept {
    /// Any that may be given out.
    Usable,
    /// One computed after this instant.
    NewerThan(i64),
}

/// What a flight brought.
#[derive(Debug, Clone)]
struct Found {
    kept: Arc<Kept>,
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Remembered,
    Elsewhere,
    Computed,
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
            Some(locks) => locks.token(&ask.key, ask.stamp).await,
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
        let stamp = self.versions.stamp(wanted.scope.project(), reach.closed_days(now_ms)).await;
        let key = Key::of(&wanted.scope, &wanted.plan, stamp.generation).ok_or(ReadError::Failed)?;
        Ok(Ask { wanted: wanted.clone(), key, stamp, kind: reach.kind(stamp.days, now_ms) })
    }

    fn worth(&self, ask: &Ask, kept: &Kept) -> Worth {
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
        self.fleet(ask)?.shared.get(key).await.ok().flatten()
    }

    /// The other instances. Not for who could not learn the versions: Redis has just been no help, and is not asked
    /// twice by one request.
    fn fleet(&self, ask: &Ask) -> Option<&Locks> {
        self.locks.as_ref().filter(|_| ask.stamp.days != DaysStamp::Unknown)
    }

    async fn fly(self, ask: Ask, accept: Accept) -> Result<Found, ReadError> {
        let is_good = |kept: &Kept| {
            let is_usable = matches!(self.worth(&ask, kept), Worth::Fresh | Worth::Stale);
            match accept {
                Accept::Usable => is_usable,
                Accept::NewerThan(computed_ms) => is_usable && kept.computed_ms > computed_ms,
            }
        };
        // A flight may have landed between this reader's look and its take-off.
        if let Some(kept) = self.memory.get(&ask.key).filter(|kept| is_good(kept)) {
            return Ok(Found { kept, origin: Origin::Remembered });
        }
        let Some(locks) = self.fleet(&ask) else { return self.compute(&ask, None).await };
        let known = locks.shared.get(&ask.key).await;
        let worth = known.as_ref().ok().and_then(Option::as_ref).map(|kept| self.worth(&ask, kept));
        self.metrics.looked_up(Layer::Redis, worth);
        match known {
            Ok(Some(kept)) if is_good(&kept) => return Ok(self.found(&ask, kept, Origin::Remembered)),
            Ok(_) => {}
            Err(Away) => return self.compute(&ask, None).await,
        }
        match locks.turn(&ask.key, ask.stamp, is_good).await {
            Turn::Found(kept) => Ok(self.found(&ask, kept, Origin::Elsewhere)),
            Turn::Lead(lease) => self.compute(&ask, Some(lease)).await,
            Turn::Alone => self.compute(&ask, None).await,
        }
    }

    fn found(&self, ask: &Ask, kept: Kept, origin: Origin) -> Found {
        let kept = Arc::new(kept);
        self.remember(ask, &kept);
        Found { kept, origin }
    }

    async fn compute(&self, ask: &Ask, lease: Option<Lease>) -> Result<Found, ReadError> {
        let began_ms = (self.clock)();
        let computing = (ask.wanted.recipe)();
        let rendered = match &lease {
            Some(lease) => lease.during(computing).await,
            None => computing.await,
        };
        let rendered = rendered.inspect_err(|error| {
            if let Some(reason) = StaleReason::of(error) {
                self.troubles.insert(ask.key.clone(), reason);
            }
        })?;
        let kept = Arc::new(Kept {
            body: pack(rendered.head).await?,
            etag: rendered.etag,
            computed_ms: began_ms,
            ends: self.policy.ends(ask.kind, (self.clock)(), (self.random)()),
            days: ask.stamp.days,
        });
        self.troubles.invalidate(&ask.key);
        self.remember(ask, &kept);
        if let Some(lease) = lease {
            // Beside the answer, not before it: nobody waits for Redis to have written.
            let (written, now_ms) = (Arc::clone(&kept), (self.clock)());
            tokio::spawn(async move { lease.publish(&written, now_ms).await });
        }
        Ok(Found { kept, origin: Origin::Computed })
    }

    fn remember(&self, ask: &Ask, kept: &Arc<Kept>) {
        self.memory.put(ask.key.clone(), Arc::clone(kept));
        self.last.insert(ask.wanted.question, ask.key.clone());
    }
}

async fn pack(head: bytes::Bytes) -> Result<Packed, ReadError> {
    if head.len() < BLOCKING_BYTES {
        return Ok(Packed::of(head));
    }
    tokio::task::spawn_blocking(|| Packed::of(head)).await.map_err(|_| ReadError::Failed)
}
