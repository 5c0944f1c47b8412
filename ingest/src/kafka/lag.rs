//! How far behind a partition is: what of it is not stored yet, and how old the first of that is.
//!
//! The group's committed offset says what is stored. The times of records come with them, so ages are known from where the consumer read on;
//! while ClickHouse is away, what was read waits, and its age grows.

use std::collections::VecDeque;
use std::time::Duration;

/// Chunks that are told apart. More become one with the newest: their age is then that of a record before.
const MOST_CHUNKS: usize = 4_096;

/// What was read of a partition and is not stored.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    /// The last offset of a chunk, and when its first record was appended, in milliseconds since 1970.
    chunks: VecDeque<(i64, i64)>,
}

impl Unstored {
    /// A chunk was read.
    pub(super) fn read(&mut self, last: i64, first_at: i64) {
        let is_full = self.chunks.len() >= MOST_CHUNKS;
        match self.chunks.back_mut().filter(|_| is_full) {
            Some(newest) => newest.0 = last,
            None => self.chunks.push_back((last, first_at)),
        }
    }

    /// How old the first record is that is not stored, with everything before `committed` stored.
    pub(super) fn oldest(&mut self, committed: i64, now_ms: i64) -> Duration {
        while self.chunks.front().is_some_and(|(last, _)| *last < committed) {
            self.chunks.pop_front();
        }
        let age = self.chunks.front().map_or(0, |(_, first_at)| now_ms.saturating_sub(*first_at));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }
}

/// What Kafka's client tells of a partition; offsets below 0 are not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    pub(super) committed: i64,
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Offsets {
    /// Before it everything is stored. A group that committed nothing begins with the oldest record.
    pub(super) fn stored(self) -> Option<i64> {
        [self.committed, self.low].into_iter().find(|offset| *offset >= 0)
    }

    /// Records that are not stored; `None` while that is not known.
    pub(super) fn waiting(self) -> Option<i64> {
        let high = Some(self.high).filter(|high| *high >= 0)?;
        Some((high - self.stored()?).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_forgotten_and_the_rest_ages() {
        let mut unstored = Unstored::default();
        assert_eq!(unstored.oldest(0, 9_000), Duration::ZERO);
        unstored.read(9, 1_000);
        unstored.read(19, 4_000);
        assert_eq!(unstored.oldest(0, 9_000), Duration::from_secs(8));
        assert_eq!(unstored.oldest(9, 9_000), Duration::from_secs(8), "the last record of the first chunk is missing");
        assert_eq!(unstored.oldest(10, 9_000), Duration::from_secs(5));
        assert_eq!(unstored.oldest(20, 9_000), Duration::ZERO);
        unstored.read(29, 10_000);
        assert_eq!(unstored.oldest(20, 9_000), Duration::ZERO, "a clock may be behind");
    }

    #[test]
    fn chunks_are_bounded() {
        let mut unstored = Unstored::default();
        for chunk in 0..2 * MOST_CHUNKS as i64 {
            unstored.read(chunk, chunk);
        }
        assert_eq!(unstored.chunks.len(), MOST_CHUNKS);
        let last = 2 * MOST_CHUNKS as i64 - 1;
        assert!(unstored.oldest(last, 1_000_000) > Duration::ZERO, "the newest is not stored");
        assert_eq!(unstored.oldest(last + 1, 1_000_000), Duration::ZERO);
    }

    #[test]
    fn lag_needs_both_ends() {
        let of = |committed, low, high| Offsets { committed, low, high }.waiting();
        assert_eq!(of(10, 0, 25), Some(15));
        assert_eq!(of(-1_001, 5, 25), Some(20), "nothing was committed");
        assert_eq!(of(-1_001, -1_001, 25), None);
        assert_eq!(of(10, 0, -1_001), None);
        assert_eq!(of(30, 0, 25), Some(0), "a broker lost the end of its log");
    }
}
