//! The window in which a repeated event id is a duplicate: exact, bounded in time and in memory, fair between tenants.
//!
//! Each project has a ring of chunks with its ids in order of arrival; one index finds an id's place. Chunks older than the window
//! are evicted. When there are too many ids, the oldest of the project with the most is evicted: a loud project cannot evict the ids
//! of a quiet one. So an id is known for the whole window and, where little arrives, for
//! longer - unless the bound on ids is reached first; [`Window::reach`] is what the window really is.
//!
//! An id takes 20 bytes in its ring and 5 to 12 in the index: 10 million take 290 MB (`holds_ten_million` measures it).
//!
//! A process has one bound. Partitions have windows of their own, which go with them; [`Windows`] takes from the largest when all of
//! them together hold too much, so that idle ones cost the others nothing.
//!
//! Times are those of a steady clock ([`tallyhouse_service::clock::steady_ms`]). Only the latest one counts for age, so a time that
//! goes back forgets nothing.

mod ring;
mod shared;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashTable;

use crate::event_key::EventKey;
use ring::{CHUNK, Chunk, Entry, Ring, entry, entry_hash, is_of, resize, size_class};
pub use shared::{Windows, locked};

/// The offset of an entry that was removed.
const GONE: i64 = i64::MIN;

/// Rings are looked through for old chunks when so large a part of the window has passed.
const SWEEPS: i64 = 100;

/// Ids of stored events, and where in the log each was.
#[derive(Debug)]
pub struct Window {
    /// By slot; a free one is empty.
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    rings: HashMap<u32, Ring>,
    /// Rings by about how many ids they have.
    by_size: BTreeSet<(u32, u32)>,
    /// Numbers of entries: slot of the chunk and place in it.
    index: HashTable<u32>,
    length_ms: i64,
    capacity: usize,
    latest: i64,
    swept: i64,
    /// The time of the newest id that left because there were too many.
    cut: i64,
}

impl Window {
    /// A window of `length`, of at most `ids` ids.
    pub fn new(length: Duration, ids: usize) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            rings: HashMap::new(),
            by_size: BTreeSet::new(),
            index: HashTable::new(),
            length_ms: i64::try_from(length.as_millis()).unwrap_or(i64::MAX),
            capacity: ids.max(1),
            latest: i64::MIN,
            swept: i64::MIN,
            cut: i64::MIN,
        }
    }

    /// Remembers the id of an event that was stored at `now`, in milliseconds, and its offset in the log (any number without a
    /// log). An id that is known keeps its first offset.
    pub fn insert(&mut self, key: EventKey, offset: i64, now: i64) {
        self.latest = self.latest.max(now);
        if self.latest.saturating_sub(self.swept) > self.length_ms / SWEEPS {
            self.swept = self.latest;
            self.forget_old();
        }
        if self.find(key).is_some() {
            return;
        }
        while self.index.len() >= self.capacity {
            self.forget_of_the_largest();
        }
        let number = self.push(key, offset, now);
        let chunks = &self.chunks;
        self.index.insert_unique(key.hash(), number, |number| entry_hash(chunks, *number));
    }

    /// The offset under which an event with this id was stored, if that was within the window.
    pub fn find(&self, key: EventKey) -> Option<i64> {
        let found = self.index.find(key.hash(), |number| is_of(&self.chunks, *number, key))?;
        entry(&self.chunks, *found).map(|(_, entry)| entry.offset)
    }

    /// Forgets an id. Its entry stays in the ring, without an offset, until its turn comes.
    pub fn remove(&mut self, key: EventKey) {
        let chunks = &self.chunks;
        let Ok(found) = self.index.find_entry(key.hash(), |number| is_of(chunks, *number, key)) else { return };
        let number = *found.get() as usize;
        found.remove();
        let chunk = self.chunks.get_mut(number / CHUNK);
        if let Some(entry) = chunk.and_then(|chunk| chunk.entries.get_mut(number % CHUNK)) {
            entry.offset = GONE;
        }
    }

    /// Forgets an id, if it is known under this offset.
    pub fn forget(&mut self, key: EventKey, offset: i64) {
        if self.find(key) == Some(offset) {
            self.remove(key);
        }
    }

    /// Forgets ids, the oldest of the largest project, and gives back memory that is no longer used.
    pub fn forget_some(&mut self, ids: usize) {
        let left = self.index.len().saturating_sub(ids);
        while self.index.len() > left {
            self.forget_of_the_largest();
        }
        if self.index.capacity() / 4 > self.index.len() {
            let chunks = &self.chunks;
            self.index.shrink_to_fit(|number| entry_hash(chunks, *number));
        }
    }

    /// All ids with their offsets and no earlier time than they came, oldest chunk first.
    pub fn iter(&self) -> impl Iterator<Item = (EventKey, i64, i64)> {
        let mut slots: Vec<(u32, usize)> = Vec::new();
        for ring in self.rings.values() {
            let forgotten = std::iter::once(ring.forgotten).chain(std::iter::repeat(0));
            slots.extend(ring.chunks.iter().copied().zip(forgotten));
        }
        let mut chunks: Vec<(&Chunk, usize)> =
            slots.into_iter().filter_map(|(slot, skip)| Some((self.chunks.get(slot as usize)?, skip))).collect();
        chunks.sort_by_key(|(chunk, _)| chunk.newest);
        chunks
            .into_iter()
            .flat_map(|(chunk, skip)| chunk.entries.iter().skip(skip).map(move |entry| (chunk, entry)))
            .map(|(chunk, entry)| (EventKey::from_parts(chunk.project, entry.id), entry.offset, chunk.newest))
            // An entry that was removed, or left behind by one that came later, is not found at its offset.
            .filter(|(key, offset, _)| self.find(*key) == Some(*offset))
    }

    /// Ids of events whose offsets lie in a range, in no order, with no earlier time than they came. The id of an event without an offset
    /// has a negative one.
    pub fn within(&self, offsets: &Range<i64>) -> Vec<(EventKey, i64, i64)> {
        let mut found = Vec::new();
        for ring in self.rings.values() {
            let forgotten = std::iter::once(ring.forgotten).chain(std::iter::repeat(0));
            for (slot, forgotten) in ring.chunks.iter().zip(forgotten) {
                let Some(chunk) = self.chunks.get(*slot as usize) else { continue };
                // Not in their order everywhere: what a start finds in the log may be older than what files know.
                if chunk.lowest >= offsets.end || chunk.highest < offsets.start {
                    continue;
                }
                let entries = chunk.entries.iter().skip(forgotten).filter(|entry| offsets.contains(&{ entry.offset }));
                let id = |entry: &Entry| (EventKey::from_parts(chunk.project, entry.id), entry.offset, chunk.newest);
                found.extend(entries.map(id));
            }
        }
        found
    }

    /// How long an id is known.
    pub fn length(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.length_ms).unwrap_or_default())
    }

    /// How many ids it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn ids(&self) -> usize {
        self.index.len()
    }

    /// The time span before `now` that it covers for every project.
    pub fn reach(&self, now: i64) -> Duration {
        let oldest = self.rings.values().filter_map(|ring| self.chunks.get(*ring.chunks.front()? as usize));
        let since = oldest.map(|chunk| chunk.oldest).min().unwrap_or(now).max(self.cut);
        Duration::from_millis(u64::try_from(now.saturating_sub(since)).unwrap_or_default())
    }

    /// The time from which on every inserted id is known: within its length, unless there were too many.
    pub fn knows_since(&self, now: i64) -> i64 {
        now.saturating_sub(self.length_ms).max(self.cut)
    }

    /// Ids older than this time were left out.
    pub fn cut_at(&mut self, time: i64) {
        self.cut = self.cut.max(time);
    }

    /// About how many ids the largest project has; comparable between windows.
    fn largest(&self) -> u32 {
        self.by_size.last().map_or(0, |(size, _)| *size)
    }

    fn push(&mut self, key: EventKey, offset: i64, now: i64) -> u32 {
        let (project, id) = key.parts();
        let ring = self.rings.entry(project).or_default();
        let last = ring
            .chunks
            .back()
            .filter(|slot| self.chunks.get(**slot as usize).is_some_and(|chunk| chunk.entries.len() < CHUNK));
        let slot = match last {
            Some(slot) => *slot,
            None => {
                let (lowest, highest) = (offset, offset);
                let chunk = Chunk { project, entries: Vec::new(), oldest: now, newest: now, lowest, highest };
                let slot = self.free.pop().unwrap_or(self.chunks.len() as u32);
                match self.chunks.get_mut(slot as usize) {
                    Some(free) => *free = chunk,
                    None => self.chunks.push(chunk),
                }
                ring.chunks.push_back(slot);
                slot
            }
        };
        let before = size_class(ring.ids);
        ring.ids += 1;
        resize(&mut self.by_size, project, before, size_class(ring.ids));
        let Some(chunk) = self.chunks.get_mut(slot as usize) else { return 0 };
        chunk.entries.push(Entry { id, offset });
        chunk.oldest = chunk.oldest.min(now);
        chunk.newest = chunk.newest.max(now);
        chunk.lowest = chunk.lowest.min(offset);
        chunk.highest = chunk.highest.max(offset);
        slot * CHUNK as u32 + (chunk.entries.len() - 1) as u32
    }

    /// Chunks that are older than the window.
    fn forget_old(&mut self) {
        let horizon = self.latest.saturating_sub(self.length_ms);
        let is_old =
            |slot: u32, chunks: &[Chunk]| chunks.get(slot as usize).is_some_and(|chunk| chunk.newest < horizon);
        let projects: Vec<u32> = self.rings.keys().copied().collect();
        for project in projects {
            while let Some(slot) = self.rings.get(&project).and_then(|ring| ring.chunks.front().copied())
                && is_old(slot, &self.chunks)
            {
                let left = self.chunks.get(slot as usize).map_or(0, |chunk| chunk.entries.len());
                let forgotten = self.rings.get(&project).map_or(0, |ring| ring.forgotten);
                (forgotten..left.max(forgotten + 1)).for_each(|_| self.forget_one(project));
            }
        }
    }

    fn forget_of_the_largest(&mut self) {
        let Some((_, project)) = self.by_size.last().copied() else { return };
        let oldest = self.rings.get(&project).and_then(|ring| self.chunks.get(*ring.chunks.front()? as usize));
        self.cut = oldest.map_or(self.cut, |chunk| self.cut.max(chunk.newest.min(self.latest)));
        self.forget_one(project);
    }

    /// Forgets the oldest entry of a project.
    fn forget_one(&mut self, project: u32) {
        let Some(ring) = self.rings.get_mut(&project) else { return };
        let Some(slot) = ring.chunks.front().copied() else { return };
        let (number, before) = (slot * CHUNK as u32 + ring.forgotten as u32, size_class(ring.ids));
        ring.forgotten += 1;
        ring.ids = ring.ids.saturating_sub(1);
        if let Ok(found) = self.index.find_entry(entry_hash(&self.chunks, number), |other| *other == number) {
            found.remove();
        }
        let Some(chunk) = self.chunks.get_mut(slot as usize) else { return };
        if ring.forgotten >= chunk.entries.len() {
            // Also one that is being filled: its memory goes.
            chunk.entries = Vec::new();
            ring.chunks.pop_front();
            ring.forgotten = 0;
            self.free.push(slot);
        }
        resize(&mut self.by_size, project, before, size_class(ring.ids));
        if ring.chunks.is_empty() {
            self.rings.remove(&project);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::event_key::KeyHasher;

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
    fn ids_of_a_range_are_all_that_are_known_of_it() {
        let hasher = KeyHasher::random();
        let (mut window, key) = (day(1_000_000), |n: i64| hasher.key(&format!("p{}", n % 3), &n.to_string()));
        window.insert(hasher.key("p0", "from ClickHouse"), -1, 0);
        // A start learns newer ones from files before it finds older ones in the log.
        (6_000..10_000).chain(0..6_000).for_each(|n| window.insert(key(n), n, n));
        window.insert(hasher.key("p2", "from a journal"), -1, 0);
        window.remove(key(5_000));
        window.remove(key(9_999));
        // Lost, and its offset is used again.
        window.insert(hasher.key("p1", "again"), 9_999, 10_000);
        let mut found = window.within(&(4_990..10_000));
        found.sort_unstable_by_key(|(_, offset, _)| *offset);
        let offsets: Vec<i64> = found.iter().map(|(_, offset, _)| *offset).collect();
        assert_eq!(offsets, (4_990..10_000).filter(|n| *n != 5_000).collect::<Vec<_>>());
        assert_eq!(found.last().map(|(key, ..)| *key), Some(hasher.key("p1", "again")));
        assert!(found.iter().take(5_000).all(|(key_of, n, at)| *key_of == key(*n) && *at >= *n));
        (0..6_000).for_each(|_| window.forget_of_the_largest());
        assert_eq!(window.within(&(-1..10_000)).len(), window.ids());
        assert!(window.within(&(6_000..6_010)).is_empty());
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
        window.forget_some(8_990);
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

    #[test]
    fn size_classes_grow_with_the_size() {
        let classes: Vec<u32> = (0..100_000).map(size_class).collect();
        assert!(classes.is_sorted() && classes[..8] == [0, 1, 2, 3, 4, 5, 6, 7], "{:?}", &classes[..20]);
        assert!(classes.windows(2).all(|pair| pair[1] - pair[0] <= 1));
        assert!((100..99_999).all(|n| classes[n] < classes[(n + n / 7).min(99_999)] || n + n / 7 > 99_999));
    }

    #[test]
    fn a_loud_project_takes_nothing_from_a_quiet_one() {
        let hasher = KeyHasher::random();
        let mut window = day(10_000);
        for n in 0..1_000 {
            window.insert(hasher.key("quiet", &n.to_string()), n, n);
        }
        for n in 0..50_000 {
            window.insert(hasher.key("loud", &n.to_string()), n, 1_000 + n);
        }
        assert!((0..1_000).all(|n| window.find(hasher.key("quiet", &n.to_string())) == Some(n)));
        assert_eq!((window.ids(), window.find(hasher.key("loud", "41000"))), (10_000, Some(41_000)));
        assert!(window.reach(51_000) < Duration::from_secs(11), "what it is for the loud one");
        assert!(window.knows_since(51_000) > 39_000);
    }

    #[test]
    fn old_ids_of_projects_that_went_quiet_leave() {
        let hasher = KeyHasher::random();
        let mut window = day(1_000_000);
        for n in 0..5_000_i64 {
            window.insert(hasher.key(&format!("p{}", n % 100), &n.to_string()), n, 0);
        }
        window.insert(hasher.key("q", "1"), 1, 25 * HOUR);
        assert_eq!((window.ids(), window.rings.len(), window.by_size.len()), (1, 1, 1));
        assert_eq!(window.knows_since(25 * HOUR), HOUR);
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
            let capacity = 20;
            for (offset, (id, size)) in (0_i64..).zip(steps) {
                if size == 7 {
                    window.forget_some(id as usize % 20);
                    list.drain(..(id as usize % 20).min(list.len()));
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
