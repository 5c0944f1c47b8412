//! Parts of answers: aligned chunks of series, so that a sliding window computes only its tail again.
//!
//! ```text
//! get_many: memory -> one MGET for the missing parts -> decompressed together
//! put_many: compressed together -> memory, and in the background one pipeline to Redis
//! ```
//!
//! A part is given only for the stamp that it was computed at. Redis that fails, damage, or too many writes in flight make a part
//! missing: they cost a computation, never a wrong answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;
use moka::sync::Cache;
use tallyhouse_service::redis;
use tokio::sync::Semaphore;

use super::RedisTimeBudget;
use super::compressed::{Compressed, beside};
use super::entry::{is_ahead, sealed, take, unsealed};
use super::in_flight::{InFlightParts, PartWaiter, Reservation};
use super::key::PartKey;
use super::shared::{MAX_BYTES, Request, SharedCache};
use super::stamp::DaysStamp;
use super::ttl::{Life, Policy};
use crate::admission::Class;
use crate::clock::{Clock, Random};
use crate::telemetry::{Dropped, Layer, Metrics};

/// Pipelines to Redis in flight at once; beyond, parts are remembered in memory only.
const WRITES: usize = 32;

/// First bytes of a written part.
const MAGIC: &[u8; 4] = b"THP1";

/// Remembered parts; clones share them.
#[derive(Clone)]
pub struct Parts {
    memory: Cache<Arc<str>, StoredPart>,
    in_flight: InFlightParts,
    shared: Option<Arc<SharedCache>>,
    writes: Arc<Semaphore>,
    policy: Policy,
    metrics: Metrics,
    clock: Clock,
    random: Random,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredPart {
    body: Compressed,
    days: DaysStamp,
    read_ms: i64,
    ends_ms: i64,
    project: Arc<str>,
}

/// A part that was remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedPart {
    /// What was put.
    pub bytes: Bytes,
    /// When it was read from ClickHouse, in milliseconds since the epoch.
    pub read_ms: i64,
}

/// A part to be remembered.
#[derive(Debug, Clone)]
pub struct ComputedPart {
    pub key: PartKey,
    pub bytes: Bytes,
    pub life: Life,
    pub reach: Reach,
}

/// Who is given a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All instances.
    Fleet,
    /// This process.
    Process,
}

/// What [`Parts`] is made of.
pub struct PartsDeps {
    /// Bytes that memory may take.
    pub bytes: u64,
    pub shared: Option<Arc<SharedCache>>,
    /// How long answers live.
    pub policy: Policy,
    pub metrics: Metrics,
    pub clock: Clock,
    pub random: Random,
}

impl Parts {
    /// Nothing remembered yet.
    pub fn new(deps: PartsDeps) -> Self {
        let PartsDeps { bytes, shared, policy, metrics, clock, random } = deps;
        let weigh = |name: &Arc<str>, part: &StoredPart| {
            u32::try_from(name.len() + part.body.held().len() + size_of::<StoredPart>()).unwrap_or(u32::MAX)
        };
        let memory = Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(FromWriting).build();
        let in_flight = InFlightParts::default();
        Self { memory, in_flight, shared, writes: Arc::new(Semaphore::new(WRITES)), policy, metrics, clock, random }
    }

    /// The parts, in the order of their keys; `None` for what is not known.
    pub async fn get_many(&self, keys: &[PartKey], redis_time: &RedisTimeBudget) -> Vec<Option<CachedPart>> {
        let mut found: Vec<Option<StoredPart>> = keys.iter().map(|key| self.in_memory(key)).collect();
        let is_asked = |(place, key): &(usize, &PartKey)| {
            key.stamp.generation.is_shared() && found.get(*place).is_some_and(Option::is_none)
        };
        let missing: Vec<(usize, &PartKey)> = keys.iter().enumerate().filter(is_asked).collect();
        for ((place, key), part) in missing.iter().zip(self.in_redis(&missing, redis_time).await) {
            let part = part.filter(|part| self.is_for(part, key));
            self.metrics.cache.part(Layer::Redis, part.is_some());
            if let (Some(part), Some(slot)) = (part, found.get_mut(*place)) {
                self.memory.insert(Arc::clone(&key.name), part.clone());
                *slot = Some(part);
            }
        }
        opened(found).await
    }

    /// Reserves the parts that are missing: who computes each, in the order of their keys.
    pub fn reserve<'k>(&self, class: Class, keys: impl IntoIterator<Item = &'k PartKey>) -> Vec<Reservation> {
        self.in_flight.reserve(class, keys)
    }

    /// A part that somebody else computes; `None` when they did not.
    pub async fn awaited(&self, waiter: PartWaiter) -> Option<CachedPart> {
        let part = waiter.part().await;
        self.metrics.cache.part(Layer::InFlight, part.is_some());
        part
    }

    /// Remembers parts that were read at `read_ms`, in milliseconds since the epoch. Redis is written to beside the caller.
    pub async fn put_many(&self, parts: Vec<ComputedPart>, read_ms: i64) {
        let bytes = parts.iter().map(|part| part.bytes.len()).sum();
        let pack = |part: ComputedPart| (part.key, Compressed::of(&part.bytes), part.life, part.reach);
        let packed = beside(bytes, move || parts.into_iter().map(pack).collect::<Vec<_>>()).await.unwrap_or_default();
        let mut written = Vec::new();
        for (key, body, life, reach) in packed {
            // Nobody would notice that its days were written to.
            let life = if key.stamp.days == DaysStamp::Unknown { Life::Open } else { life };
            let time = life.duration(&self.policy, (self.random)());
            let ends_ms = read_ms.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
            let (days, project) = (key.stamp.days, Arc::clone(&key.project));
            let part = StoredPart { body, days, read_ms, ends_ms, project };
            if part.body.held().len() > MAX_BYTES {
                self.metrics.cache.dropped(Dropped::TooLarge);
            } else if reach == Reach::Fleet && key.stamp.generation.is_shared() {
                written.push((Arc::clone(&key.name), part.encode(), u64::try_from(time.as_millis()).unwrap_or(1)));
            }
            self.memory.insert(key.name, part);
        }
        self.write(written);
    }

    /// Forgets the parts of a project, or all; gives their number.
    pub fn clear(&self, project: Option<&str>) -> u64 {
        let is_meant = |part: &StoredPart| project.is_none_or(|project| *part.project == *project);
        let names: Vec<_> = self.memory.iter().filter(|(_, part)| is_meant(part)).map(|(name, _)| name).collect();
        names.iter().for_each(|name| self.memory.invalidate(name.as_ref()));
        names.len() as u64
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> u64 {
        self.memory.weighted_size()
    }

    fn in_memory(&self, key: &PartKey) -> Option<StoredPart> {
        let part = self.memory.get(&key.name).filter(|part| self.is_for(part, key));
        self.metrics.cache.part(Layer::Memory, part.is_some());
        part
    }

    fn is_for(&self, part: &StoredPart, key: &PartKey) -> bool {
        let now_ms = (self.clock)();
        part.days == key.stamp.days && now_ms < part.ends_ms && !is_ahead(part.read_ms, now_ms)
    }

    async fn in_redis(&self, missing: &[(usize, &PartKey)], redis_time: &RedisTimeBudget) -> Vec<Option<StoredPart>> {
        let Some(shared) = self.shared.as_ref().filter(|_| !missing.is_empty()) else { return Vec::new() };
        let mut command = redis::cmd("MGET");
        missing.iter().for_each(|(_, key)| {
            command.arg(&*key.name);
        });
        let found = shared.ask_for(redis_time, Request::One(command)).await;
        let found: Vec<Option<Vec<u8>>> = found.unwrap_or_default();
        let read = |(found, (_, key)): (Option<Vec<u8>>, &(usize, &PartKey))| StoredPart::decode(&found?, &key.project);
        found.into_iter().zip(missing).map(read).collect()
    }

    fn write(&self, parts: Vec<(Arc<str>, Vec<u8>, u64)>) {
        let Some(shared) = self.shared.clone().filter(|_| !parts.is_empty()) else { return };
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else {
            self.metrics.cache.dropped(Dropped::TooManyWrites);
            return;
        };
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let mut commands = redis::pipe();
            for (name, written, millis) in parts {
                commands.pset_ex(&*name, written, millis).ignore();
            }
            let sent = shared.ask::<()>(Request::Many(commands));
            if sent.await.is_err() {
                metrics.cache.dropped(Dropped::RedisAway);
            }
        });
    }
}

impl StoredPart {
    /// Magic, checksum of the rest, days, times, raw length, body; numbers little-endian.
    fn encode(&self) -> Vec<u8> {
        let (is_known, epoch, sum) = match self.days {
            DaysStamp::Known { epoch, sum } => (1_u64, epoch, sum),
            DaysStamp::Unknown => (0, 0, 0),
        };
        let mut rest = Vec::with_capacity(48 + self.body.held().len());
        [is_known, epoch, sum].iter().for_each(|number| rest.extend_from_slice(&number.to_le_bytes()));
        [self.read_ms, self.ends_ms].iter().for_each(|time| rest.extend_from_slice(&time.to_le_bytes()));
        rest.extend_from_slice(&self.body.raw().to_le_bytes());
        rest.extend_from_slice(self.body.held());
        sealed(MAGIC, &rest)
    }

    fn decode(written: &[u8], project: &Arc<str>) -> Option<Self> {
        let mut rest = unsealed(MAGIC, written)?;
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let days = match (number()?, number()?, number()?) {
            (0, ..) => DaysStamp::Unknown,
            (_, epoch, sum) => DaysStamp::Known { epoch, sum },
        };
        let mut time = || take(&mut rest).map(i64::from_le_bytes);
        let (read_ms, ends_ms) = (time()?, time()?);
        let raw = take(&mut rest).map(u32::from_le_bytes)?;
        let body = Compressed::from_parts(Bytes::copy_from_slice(rest), raw);
        Some(Self { body, days, read_ms, ends_ms, project: Arc::clone(project) })
    }
}

/// Opens parts together, so that many small ones hold up nobody either. One that is damaged is as good as none.
async fn opened(parts: Vec<Option<StoredPart>>) -> Vec<Option<CachedPart>> {
    let (count, bytes) = (parts.len(), parts.iter().flatten().map(|part| part.body.work()).sum());
    let open = |part: Option<StoredPart>| {
        let part = part?;
        Some(CachedPart { bytes: part.body.open()?, read_ms: part.read_ms })
    };
    let opened = beside(bytes, move || parts.into_iter().map(open).collect()).await;
    opened.unwrap_or_else(|| vec![None; count])
}

/// Frees a part when its time is up; [`Parts::is_for`] decides what is given out.
struct FromWriting;

impl Expiry<Arc<str>, StoredPart> for FromWriting {
    fn expire_after_create(&self, _: &Arc<str>, part: &StoredPart, _: Instant) -> Option<Duration> {
        lifetime(part)
    }

    fn expire_after_update(
        &self,
        _: &Arc<str>,
        part: &StoredPart,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        lifetime(part)
    }
}

fn lifetime(part: &StoredPart) -> Option<Duration> {
    Some(Duration::from_millis(u64::try_from(part.ends_ms - part.read_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tallyhouse_service::metrics::Registry;

    use super::*;
    use crate::authorize::Scope;
    use crate::cache::stamp::{Generation, VersionStamp};

    fn parts(now_ms: &Arc<AtomicI64>) -> Parts {
        let now_ms = Arc::clone(now_ms);
        Parts::new(PartsDeps {
            bytes: 1 << 20,
            shared: None,
            policy: Policy { open: Duration::from_secs(60) },
            metrics: Metrics::register(&Registry::new()).unwrap(),
            clock: Arc::new(move || now_ms.load(Ordering::SeqCst)),
            random: Arc::new(|| 0.5),
        })
    }

    fn key(project: &str, what: &str, days: DaysStamp) -> PartKey {
        PartKey::of(
            &Scope::for_test(project),
            &what,
            VersionStamp { generation: Generation::Process { all: 0, project: 0 }, days },
        )
    }

    fn computed(key: PartKey, bytes: Bytes, life: Life) -> ComputedPart {
        ComputedPart { key, bytes, life, reach: Reach::Fleet }
    }

    async fn get(parts: &Parts, keys: &[PartKey]) -> Vec<Option<Bytes>> {
        let found = parts.get_many(keys, &RedisTimeBudget::default()).await;
        found.into_iter().map(|part| part.map(|part| part.bytes)).collect()
    }

    fn known(sum: u64) -> DaysStamp {
        DaysStamp::Known { epoch: 0, sum }
    }

    #[tokio::test]
    async fn parts_come_in_order_and_only_at_their_stamp() {
        let parts = parts(&Arc::default());
        let long = Bytes::from("b".repeat(10_000));
        let small = computed(key("p", "a", known(1)), Bytes::from_static(b"a"), Life::Closed);
        parts.put_many(vec![small, computed(key("p", "b", known(1)), long.clone(), Life::Closed)], 0).await;
        let asked = [key("p", "b", known(1)), key("p", "c", known(1)), key("p", "a", known(1))];
        assert_eq!(get(&parts, &asked).await, [Some(long), None, Some(Bytes::from_static(b"a"))]);
        let others = [key("p", "a", known(2)), key("q", "a", known(1)), key("p", "a", DaysStamp::Unknown)];
        assert_eq!(get(&parts, &others).await, [None, None, None]);
        assert_eq!((parts.clear(Some("q")), parts.clear(Some("p"))), (0, 2));
    }

    #[tokio::test]
    async fn closed_parts_live_an_hour_and_open_or_unversioned_ones_seconds() {
        let now_ms = Arc::new(AtomicI64::new(0));
        let parts = parts(&now_ms);
        let keys = [key("p", "closed", known(1)), key("p", "open", known(1)), key("p", "x", DaysStamp::Unknown)];
        let lives = [Life::Closed, Life::Open, Life::Closed];
        let put = keys.iter().cloned().zip(lives).map(|(key, life)| computed(key, Bytes::new(), life));
        parts.put_many(put.collect(), 0).await;
        for (at, expected) in [(9_999, [true; 3]), (10_000, [true, false, false]), (3_600_000, [false; 3])] {
            now_ms.store(at, Ordering::SeqCst);
            let there: Vec<_> = get(&parts, &keys).await.iter().map(Option::is_some).collect();
            assert_eq!(there, expected, "{at}");
        }
    }

    #[tokio::test]
    async fn a_part_from_the_future_is_not_there_until_it_is_replaced() {
        let now_ms = Arc::new(AtomicI64::new(3_600_000));
        let (parts, key) = (parts(&now_ms), key("p", "a", known(1)));
        let put = async |read_ms| {
            let part = computed(key.clone(), Bytes::from_static(b"a"), Life::Closed);
            parts.put_many(vec![part], read_ms).await;
        };
        put(3_600_000).await;
        let is_there = async || get(&parts, std::slice::from_ref(&key)).await[0].is_some();
        assert!(is_there().await);
        // The clock went back, by seconds and by an hour.
        now_ms.store(3_595_000, Ordering::SeqCst);
        assert!(is_there().await);
        now_ms.store(0, Ordering::SeqCst);
        assert!(!is_there().await);
        put(0).await;
        assert!(is_there().await);
    }

    #[tokio::test]
    async fn large_parts_come_back_too_and_tell_when_they_were_read() {
        let parts = parts(&Arc::default());
        // More than is opened on the caller's thread.
        let keys: Vec<_> = (0..40).map(|part| key("p", &part.to_string(), known(1))).collect();
        let body = |place: usize| Bytes::from(place.to_string().repeat(20_000));
        let put = keys.iter().enumerate().map(|(place, key)| computed(key.clone(), body(place), Life::Closed));
        parts.put_many(put.collect(), 77).await;
        let found = parts.get_many(&keys, &RedisTimeBudget::default()).await;
        let expected = (0..40).map(|place| Some(CachedPart { bytes: body(place), read_ms: 77 }));
        assert!(found.into_iter().eq(expected));
    }

    #[test]
    fn a_written_part_is_read_and_damage_is_noticed() {
        let project: Arc<str> = "p".into();
        let body = Compressed::of("abc".repeat(3_000).as_bytes());
        let part = StoredPart { body, days: known(3), read_ms: 1, ends_ms: 5, project: Arc::clone(&project) };
        let written = part.encode();
        assert_eq!(StoredPart::decode(&written, &project), Some(part));
        for place in 0..written.len() {
            let mut damaged = written.clone();
            damaged[place] ^= 1;
            assert_eq!(StoredPart::decode(&damaged, &project), None, "byte {place}");
        }
    }
}
