//! At most so many of something in a second.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::clock::steady_ms;

/// Counts those of the current second.
#[derive(Debug)]
pub(crate) struct PerSecond {
    most: u32,
    second: AtomicI64,
    taken: AtomicU32,
}

impl PerSecond {
    pub(crate) const fn at_most(most: u32) -> Self {
        Self { most, second: AtomicI64::new(0), taken: AtomicU32::new(0) }
    }

    /// Whether there is room for one more now.
    pub(crate) fn takes(&self) -> bool {
        self.takes_in(steady_ms().div_euclid(1_000))
    }

    /// Two that see a new second at once may let one more through.
    pub(crate) fn takes_in(&self, second: i64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.taken.store(0, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed) < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_again_in_the_next_second() {
        let fifty = PerSecond::at_most(50);
        let count = |second| (0..200).filter(|_| fifty.takes_in(second)).count();
        assert_eq!((count(7), count(7), count(8)), (50, 0, 50));
    }
}
