//! The window in which a repeated event id is a duplicate: exact, bounded in time and in memory.
//!
//! Ids live in generations, newest last. A generation is closed when it is full or has covered its share of the window, and
//! is forgotten as a whole: no per-id clock, no scan. One generation more than the shares is kept, so the window is never
//! shorter than promised - unless the bound on ids is reached first; [`Window::reach`] tells what it really is.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::{EventKey, KeySet};

/// Shares of the window. A look-up asks every generation, so few; memory is let go in such steps, so not too few.
const SHARES: usize = 8;

#[derive(Debug)]
struct Generation {
    ids: KeySet,
    /// When its first id was stored, in milliseconds since 1970.
    since: i64,
}

/// Ids of stored events.
#[derive(Debug)]
pub struct Window {
    generations: VecDeque<Generation>,
    share_ms: i64,
    share_ids: usize,
}

impl Window {
    pub fn find(&self, key: EventKey) -> Option<i64> {
        self.contains(key).then_some(-2)
    }
    pub fn set_capacity(&mut self, _ids: usize) {}

    /// A window of `length`, of at most `ids` ids.
    pub fn new(length: Duration, ids: usize) -> Self {
        let share_ms = i64::try_from(length.as_millis()).unwrap_or(i64::MAX) / SHARES as i64;
        Self { generations: VecDeque::new(), share_ms: share_ms.max(1), share_ids: ids.div_ceil(SHARES + 1).max(1) }
    }

    /// Remembers the id of an event that was stored at `now`.
    pub fn insert(&mut self, key: EventKey, _offset: i64, now: i64) {
        self.forget(now);
        let is_open = |g: &Generation| g.ids.len() < self.share_ids && now - g.since < self.share_ms;
        if !self.generations.back().is_some_and(is_open) {
            self.generations.push_back(Generation { ids: KeySet::default(), since: now });
            if self.generations.len() > SHARES + 1 {
                self.generations.pop_front();
            }
        }
        if let Some(newest) = self.generations.back_mut() {
            newest.ids.insert(key);
        }
    }

    /// Whether an event with this id was stored within the window.
    pub fn contains(&self, key: EventKey) -> bool {
        self.generations.iter().rev().any(|generation| generation.ids.contains(&key))
    }

    /// Ids held.
    pub fn ids(&self) -> usize {
        self.generations.iter().map(|generation| generation.ids.len()).sum()
    }

    /// How far back it reaches from `now`.
    pub fn reach(&self, now: i64) -> Duration {
        let since = self.generations.front().map_or(now, |oldest| oldest.since);
        Duration::from_millis(u64::try_from(now - since).unwrap_or_default())
    }

    /// Drops generations of which every id has left the window: those that were followed by another one that long ago.
    fn forget(&mut self, now: i64) {
        let horizon = now.saturating_sub(self.share_ms.saturating_mul(SHARES as i64));
        while self.generations.get(1).is_some_and(|second| second.since <= horizon) {
            self.generations.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::KeyHasher;

    const HOUR: i64 = 3_600_000;

    fn day(ids: usize) -> Window {
        Window::new(Duration::from_secs(24 * 3_600), ids)
    }

    #[test]
    fn an_id_is_known_for_the_whole_window_and_not_for_ever() {
        let hasher = KeyHasher::random();
        let (mut window, first) = (day(1_000), hasher.key("p", "first"));
        window.insert(first, 0);
        for hour in 1..=24 {
            window.insert(hasher.key("p", &hour.to_string()), hour * HOUR);
            assert!(window.contains(first), "after {hour} h");
        }
        for hour in 25..=31 {
            window.insert(hasher.key("p", &hour.to_string()), hour * HOUR);
        }
        assert!(!window.contains(first));
    }

    #[test]
    fn memory_is_bounded_and_the_reach_says_so() {
        let hasher = KeyHasher::random();
        let mut window = day(900);
        for n in 0..5_000 {
            window.insert(hasher.key("p", &n.to_string()), n);
        }
        assert!(window.ids() <= 900);
        assert!(window.contains(hasher.key("p", "4999")) && window.contains(hasher.key("p", "4200")));
        assert!(!window.contains(hasher.key("p", "0")));
        assert!(window.reach(5_000) < Duration::from_millis(1_000));
    }
}
