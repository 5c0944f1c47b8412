//! The first layer: in this process, bounded by bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;

use super::{Entry, Key};

/// Remembered answers of this process; clones share them.
#[derive(Debug, Clone)]
pub struct Memory {
    cache: Cache<Key, Arc<Entry>>,
}

impl Memory {
    /// Holds at most about `bytes`.
    pub fn new(bytes: u64) -> Self {
        let weigh = |key: &Key, entry: &Arc<Entry>| u32::try_from(key.bytes() + entry.bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(FromWriting).build();
        Self { cache }
    }

    /// The answer, unless it has ended.
    pub fn get(&self, key: &Key, now_ms: i64) -> Option<Arc<Entry>> {
        self.cache.get(key).filter(|entry| entry.is_fresh(now_ms))
    }

    /// Remembers an answer.
    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        self.cache.insert(key, entry);
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

/// Frees an entry some time after it was written, whoever reads it. [`Entry::is_fresh`] decides what is given out; this
/// only gives memory back.
struct FromWriting;

impl Expiry<Key, Arc<Entry>> for FromWriting {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        lifetime(entry)
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        lifetime(entry)
    }
}

fn lifetime(entry: &Entry) -> Option<Duration> {
    Some(Duration::from_millis(u64::try_from(entry.expires_ms - entry.computed_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::authorize::Scope;
    use crate::plan::{Plan, RealtimePlan};

    fn key(number: i64) -> Key {
        Key::of(&Scope::for_test("p"), &Plan::Realtime(RealtimePlan { short_from: number, long_from: 0, to: 0 }))
            .unwrap()
    }

    fn entry(bytes: usize) -> Arc<Entry> {
        Arc::new(Entry {
            head: Bytes::from(vec![b'x'; bytes]),
            etag: String::new(),
            computed_ms: 0,
            expires_ms: 60_000,
        })
    }

    #[test]
    fn reading_never_moves_the_end() {
        let memory = Memory::new(1 << 20);
        memory.put(key(1), entry(1));
        for now in [0, 30_000, 59_999] {
            assert!(memory.get(&key(1), now).is_some(), "{now}");
        }
        assert!(memory.get(&key(1), 60_000).is_none());
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let memory = Memory::new(100_000);
        for number in 0..500 {
            memory.put(key(number), entry(1_000));
        }
        memory.cache.run_pending_tasks();
        assert!(memory.bytes() <= 100_000 && memory.bytes() > 0, "{}", memory.bytes());
    }
}
