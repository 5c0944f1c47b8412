//! The parts of simulated series: random numbers, and the week of a site.

use std::f64::consts::TAU;
use std::ops::Range;

/// `SplitMix64`: the same numbers every time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (TAU * self.uniform()).cos()
    }

    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    pub(super) fn place(&mut self, range: Range<usize>) -> usize {
        range.start + (self.uniform() * (range.end - range.start) as f64) as usize
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.place(0..all.len())]
    }

    pub(super) fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).max(0.0).round();
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.uniform(), 0.0);
        while product > limit {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}

/// The level of each weekday, from Monday.
pub(super) const WEEKDAYS: [f64; 7] = [1.0, 1.05, 1.02, 1.0, 0.95, 0.6, 0.55];

/// The level of a time of day, by its part of the day.
pub(super) fn of_day(part: f64) -> f64 {
    (1.0 + 0.7 * (TAU * (part - 0.35)).sin() + 0.25 * (2.0 * TAU * part).cos()).max(0.03)
}
