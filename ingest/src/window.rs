//! The window in which a repeated event id is a duplicate: exact, bounded in time and in memory.
//!
//! Ids stand in a ring in the order in which they came, in chunks that are allocated as they are needed; an index finds an
//! id's place. The oldest leave first: one by one when there are too many, by the chunk when all of it is older than the
//! window. So an id is known for the whole window and, where little arrives, for longer - unless the bound on ids is reached
//! first; [`Window::reach`] tells what the window really is.
//!
//! An id takes 24 bytes in the ring and 5 to 12 in the index: 10 million take 320 MB (`holds_ten_million` measures it).
//!
//! Times are those of a steady clock ([`tallyhouse_service::clock::steady_ms`]). Only the latest one counts for age, so a time that
//! goes back forgets nothing.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use crate::batch::EventKey;

/// Ids of a chunk: small enough to be let go in small steps, large enough that chunks cost nothing.
const CHUNK: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: [u64; 2],
    offset: i64,
}

#[derive(Debug)]
struct Chunk {
    entries: Vec<Entry>,
    oldest: i64,
    newest: i64,
}

/// Ids of stored events, and where in the log each was.
#[derive(Debug)]
pub struct Window {
    chunks: VecDeque<Chunk>,
    /// Entries at the front of the first chunk that are forgotten already.
    forgotten: usize,
    /// Number of the first chunk's first entry, counted from the beginning and modulo 2^32: bounds keep the ring far smaller.
    first: u32,
    /// Numbers of entries.
    index: HashTable<u32>,
    length_ms: i64,
    capacity: usize,
    latest: i64,
}

impl Window {
    /// A window of `length`, of at most `ids` ids.
    pub fn new(length: Duration, ids: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            forgotten: 0,
            first: 0,
            index: HashTable::new(),
            length_ms: i64::try_from(length.as_millis()).unwrap_or(i64::MAX),
            capacity: ids.max(1),
            latest: i64::MIN,
        }
    }

    /// Remembers the id of an event that was stored at `now`, in milliseconds, and its offset in the log (any number without a
    /// log). An id that is known keeps its first offset.
    pub fn insert(&mut self, key: EventKey, offset: i64, now: i64) {
        self.latest = self.latest.max(now);
        self.forget_old();
        if self.find(key).is_some() {
            return;
        }
        while self.index.len() >= self.capacity {
            self.forget_one();
        }
        let parts = key.parts();
        let number = self.push(Entry { key: parts, offset }, now);
        let (first, chunks) = (self.first, &self.chunks);
        self.index.insert_unique(hash(parts), number, |number| {
            entry(chunks, first, *number).map_or(0, |entry| hash(entry.key))
        });
    }

    /// The offset under which an event with this id was stored, if that was within the window.
    pub fn find(&self, key: EventKey) -> Option<i64> {
        let parts = key.parts();
        let at = |number: u32| entry(&self.chunks, self.first, number);
        let found = self.index.find(hash(parts), |number| at(*number).is_some_and(|entry| entry.key == parts));
        found.and_then(|number| at(*number)).map(|entry| entry.offset)
    }

    /// Forgets an id. Its entry stays in the ring, unfound, until its turn comes.
    pub fn remove(&mut self, key: EventKey) {
        let parts = key.parts();
        let (first, chunks) = (self.first, &self.chunks);
        let is_it = |number: &u32| entry(chunks, first, *number).is_some_and(|entry| entry.key == parts);
        if let Ok(found) = self.index.find_entry(hash(parts), is_it) {
            found.remove();
        }
    }

    /// Forgets an id, if it is known under this offset.
    pub fn forget(&mut self, key: EventKey, offset: i64) {
        if self.find(key) == Some(offset) {
            self.remove(key);
        }
    }

    /// Changes the bound; the oldest leave when there are more.
    pub fn set_capacity(&mut self, ids: usize) {
        self.capacity = ids.max(1);
        while self.index.len() > self.capacity {
            self.forget_one();
        }
        if self.index.capacity() / 4 > self.index.len() {
            let (first, chunks) = (self.first, &self.chunks);
            self.index.shrink_to_fit(|number| entry(chunks, first, *number).map_or(0, |entry| hash(entry.key)));
        }
    }

    /// All ids with their offsets and no earlier time than they came, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (EventKey, i64, i64)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.entries.iter().map(|entry| (entry, chunk.newest)));
        // An entry that was removed, or left behind by one that came later, is not found at its offset.
        entries
            .skip(self.forgotten)
            .map(|(entry, at)| (EventKey::of_parts(entry.key), entry.offset, at))
            .filter(|(key, offset, _)| self.find(*key) == Some(*offset))
    }

    /// How long an id is known.
    pub fn length(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.length_ms).unwrap_or_default())
    }

    /// How many ids it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Ids held.
    pub fn ids(&self) -> usize {
        self.index.len()
    }

    /// How far back it reaches from `now`.
    pub fn reach(&self, now: i64) -> Duration {
        let since = self.chunks.front().map_or(now, |chunk| chunk.oldest);
        Duration::from_millis(u64::try_from(now.saturating_sub(since)).unwrap_or_default())
    }

    fn push(&mut self, entry: Entry, now: i64) -> u32 {
        if self.chunks.back().is_none_or(|chunk| chunk.entries.len() == CHUNK) {
            self.chunks.push_back(Chunk { entries: Vec::with_capacity(CHUNK), oldest: now, newest: now });
        }
        let full_chunks = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.back_mut() else { return self.first };
        let place = full_chunks + chunk.entries.len();
        chunk.entries.push(entry);
        chunk.oldest = chunk.oldest.min(now);
        chunk.newest = chunk.newest.max(now);
        self.first.wrapping_add(place as u32)
    }

    /// Whole chunks that are older than the window. The last one is being filled and stays.
    fn forget_old(&mut self) {
        let horizon = self.latest.saturating_sub(self.length_ms);
        while self.chunks.len() > 1 && self.chunks.front().is_some_and(|chunk| chunk.newest < horizon) {
            for _ in self.forgotten..CHUNK {
                self.forget_one();
            }
        }
    }

    fn forget_one(&mut self) {
        let Some(chunk) = self.chunks.front() else { return };
        let number = self.first.wrapping_add(self.forgotten as u32);
        if let Some(entry) = chunk.entries.get(self.forgotten) {
            if let Ok(found) = self.index.find_entry(hash(entry.key), |other| *other == number) {
                found.remove();
            }
            self.forgotten += 1;
        }
        if self.forgotten == CHUNK {
            self.chunks.pop_front();
            self.forgotten = 0;
            self.first = self.first.wrapping_add(CHUNK as u32);
        }
    }
}

fn entry(chunks: &VecDeque<Chunk>, first: u32, number: u32) -> Option<&Entry> {
    let place = number.wrapping_sub(first) as usize;
    chunks.get(place / CHUNK)?.entries.get(place % CHUNK)
}

/// Keys are keyed hashes already: half of one is as good as another hash.
fn hash(key: [u64; 2]) -> u64 {
    key[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::KeyHasher;

    const HOUR: i64 = 3_600_000;

    fn day(ids: usize) -> Window {
        Window::new(Duration::from_secs(24 * 3_600), ids)
    }

    #[test]
    fn an_id_is_known_for_the_whole_window_and_not_for_ever() {
        let hasher = KeyHasher::random();
        let (mut window, first) = (day(1_000_000), hasher.key("p", "first"));
        window.insert(first, 7, 0);
        for n in 0..25 * CHUNK as i64 {
            let now = n * HOUR / CHUNK as i64;
            window.insert(hasher.key("p", &n.to_string()), n, now);
            if now < 24 * HOUR {
                assert_eq!(window.find(first), Some(7), "after {now} ms");
            }
        }
        for n in 0..CHUNK as i64 {
            window.insert(hasher.key("q", &n.to_string()), n, 26 * HOUR);
        }
        assert_eq!(window.find(first), None);
        assert!(window.reach(26 * HOUR) < Duration::from_secs(26 * 3_600));
    }

    #[test]
    fn a_removed_id_is_new_again_and_leaves_no_trace() {
        let hasher = KeyHasher::random();
        let mut window = day(10);
        let key = hasher.key("p", "refused");
        window.insert(key, 1, 0);
        window.remove(key);
        assert_eq!((window.find(key), window.ids()), (None, 0));
        window.insert(key, 2, 0);
        (0..9).for_each(|n| window.insert(hasher.key("p", &n.to_string()), n, 0));
        assert_eq!((window.find(key), window.ids()), (Some(2), 10));
        // The first entry of the key leaves before the second.
        window.insert(hasher.key("p", "next"), 3, 0);
        assert_eq!((window.find(key), window.ids()), (None, 10));
    }

    #[test]
    fn memory_is_bounded_and_the_reach_says_so() {
        let hasher = KeyHasher::random();
        let mut window = day(9_000);
        for n in 0..50_000 {
            window.insert(hasher.key("p", &n.to_string()), n, n);
        }
        assert_eq!(window.ids(), 9_000);
        assert_eq!(window.find(hasher.key("p", "49999")), Some(49_999));
        assert_eq!(window.find(hasher.key("p", "41000")), Some(41_000));
        assert_eq!(window.find(hasher.key("p", "40999")), None);
        assert!(window.reach(50_000) < Duration::from_millis(9_000 + 2 * CHUNK as u64));
        window.set_capacity(10);
        assert_eq!((window.ids(), window.find(hasher.key("p", "49990"))), (10, Some(49_990)));
    }

    #[test]
    fn a_clock_that_jumps_forgets_nothing_that_is_young() {
        let hasher = KeyHasher::random();
        let mut window = day(100_000);
        for n in 0..3 * CHUNK as i64 {
            let now = [10 * HOUR, 0, i64::MIN, 11 * HOUR][n as usize % 4];
            window.insert(hasher.key("p", &n.to_string()), n, now);
        }
        assert_eq!(window.ids(), 3 * CHUNK);
    }

    /// 10 million ids in less than 350 MB. Run alone: `cargo test --release -p tallyhouse-ingest -- --ignored ten_million`.
    #[test]
    #[ignore = "takes 350 MB and looks at the memory of the whole process"]
    fn holds_ten_million() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
        };
        let (hasher, before) = (KeyHasher::random(), resident());
        let mut window = day(10_000_000);
        for n in 0..12_000_000 {
            window.insert(hasher.key("p", &n.to_string()), n, n / 1_000);
        }
        let peak = resident() - before;
        println!("{} ids in {peak} MiB at the peak", window.ids());
        assert!(window.ids() == 10_000_000 && peak < 400, "{peak} MiB");
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(steps in proptest::collection::vec((0_u32..60, 1_usize..40), 1..300)) {
            let hasher = KeyHasher::random();
            let mut window = day(20);
            let mut list: VecDeque<(u32, i64)> = VecDeque::new();
            let mut capacity = 20;
            for (offset, (id, size)) in (0_i64..).zip(steps) {
                if size == 7 {
                    capacity = size + id as usize % 20;
                    window.set_capacity(capacity);
                    while list.len() > capacity {
                        list.pop_front();
                    }
                }
                window.insert(hasher.key("p", &id.to_string()), offset, offset);
                if !list.iter().any(|(known, _)| *known == id) {
                    while list.len() >= capacity {
                        list.pop_front();
                    }
                    list.push_back((id, offset));
                }
                for id in 0..60 {
                    let known = list.iter().find(|(known, _)| *known == id).map(|(_, offset)| *offset);
                    prop_assert_eq!(window.find(hasher.key("p", &id.to_string())), known);
                }
            }
        }
    }
}
