//! The first layer of the cache: answers in this process, bounded by bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;

use super::Key;
use super::entry::{CachedAnswer, is_ahead};

/// Remembered answers of this process; clones share them.
#[derive(Debug, Clone)]
pub struct Memory {
    cache: Cache<Key, Arc<CachedAnswer>>,
}

impl Memory {
    /// Holds at most about `bytes`.
    pub fn new(bytes: u64) -> Self {
        let weigh =
            |key: &Key, cached: &Arc<CachedAnswer>| u32::try_from(key.bytes() + cached.bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(FromWriting).build();
        Self { cache }
    }

    /// The answer, however fresh it is.
    pub fn get(&self, key: &Key) -> Option<Arc<CachedAnswer>> {
        self.cache.get(key)
    }

    /// Remembers an answer, unless a later one is there: a computation that began before an insert may end after one
    /// that began later. One from the future is not later.
    pub fn put(&self, key: Key, cached: Arc<CachedAnswer>, now_ms: i64) {
        let computed_ms = cached.computed_ms;
        let is_later = |known: &CachedAnswer| known.computed_ms > computed_ms && !is_ahead(known.computed_ms, now_ms);
        self.cache.entry(key).and_compute_with(|known| match known {
            Some(known) if is_later(known.value()) => moka::ops::compute::Op::Nop,
            _ => moka::ops::compute::Op::Put(cached),
        });
    }

    /// Forgets the answers of a project, or all; gives their number.
    pub fn clear(&self, project: Option<&str>) -> u64 {
        let is_meant = |key: &Key| project.is_none_or(|project| key.project() == project);
        let keys: Vec<_> = self.cache.iter().map(|(key, _)| key).filter(|key| is_meant(key)).collect();
        keys.iter().for_each(|key| self.cache.invalidate(key.as_ref()));
        keys.len() as u64
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

/// Frees an answer some time after it was written, whoever reads it. [`CachedAnswer::freshness`] decides what is given out; this
/// only gives memory back.
struct FromWriting;

impl Expiry<Key, Arc<CachedAnswer>> for FromWriting {
    fn expire_after_create(&self, _: &Key, cached: &Arc<CachedAnswer>, _: Instant) -> Option<Duration> {
        lifetime(cached)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        cached: &Arc<CachedAnswer>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        lifetime(cached)
    }
}

fn lifetime(cached: &CachedAnswer) -> Option<Duration> {
    Some(Duration::from_millis(u64::try_from(cached.ends.keep_ms - cached.computed_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::Scope;
    use crate::cache::entry::tests::cached;
    use crate::cache::stamp::Generation;

    fn key(project: &str, number: i64) -> Key {
        Key::of(&Scope::for_test(project), &number.to_string(), Generation::Process { all: 0, project: 0 }).unwrap()
    }

    #[test]
    fn a_later_answer_is_not_replaced_by_an_earlier_one() {
        let memory = Memory::new(1 << 20);
        let at = |computed_ms| Arc::new(CachedAnswer { computed_ms, ..cached("x") });
        for computed_ms in [1_000, 3_000, 2_000] {
            memory.put(key("p", 1), at(computed_ms), 3_000);
        }
        assert_eq!(memory.get(&key("p", 1)).unwrap().computed_ms, 3_000);
    }

    #[test]
    fn an_answer_from_the_future_is_replaced() {
        let memory = Memory::new(1 << 20);
        for (computed_ms, now_ms, known_ms) in
            [(90_000, 90_000, 90_000), (80_000, 85_000, 90_000), (70_000, 70_000, 70_000)]
        {
            memory.put(key("p", 1), Arc::new(CachedAnswer { computed_ms, ..cached("x") }), now_ms);
            assert_eq!(memory.get(&key("p", 1)).unwrap().computed_ms, known_ms);
        }
    }

    #[test]
    fn clearing_a_project_leaves_the_others() {
        let memory = Memory::new(1 << 20);
        for (project, number) in [("p", 1), ("p", 2), ("q", 1)] {
            memory.put(key(project, number), Arc::new(cached("x")), 0);
        }
        assert_eq!(memory.clear(Some("p")), 2);
        assert!(memory.get(&key("p", 1)).is_none() && memory.get(&key("q", 1)).is_some());
        assert_eq!(memory.clear(None), 1);
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let memory = Memory::new(100_000);
        for number in 0..500 {
            memory.put(key("p", number), Arc::new(cached(vec![b'x'; 1_000])), 0);
        }
        memory.cache.run_pending_tasks();
        assert!(memory.bytes() <= 100_000 && memory.bytes() > 0, "{}", memory.bytes());
    }
}
