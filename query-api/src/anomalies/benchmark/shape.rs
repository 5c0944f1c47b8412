//! A labelled series: the expected value of each bucket, the injected anomalies, and noise.

use std::ops::Range;

use crate::anomalies::simulated::{Random, of_day};
use crate::anomalies::synthetic::FROM;

pub(super) const HOUR: i64 = 3_600;
pub(super) const DAY: i64 = 24 * HOUR;

/// A labelled series.
pub(super) struct Labelled {
    /// Start of its first bucket.
    pub(super) from: i64,
    /// Seconds of a bucket.
    pub(super) width: i64,
    /// IANA name.
    pub(super) zone: &'static str,
    /// Whether it counts events; else it is an average.
    pub(super) is_count: bool,
    /// One value for each bucket; none where an average has nothing.
    pub(super) values: Vec<Option<f64>>,
    /// What is to be found, by the places of its buckets.
    pub(super) events: Vec<Range<usize>>,
    /// Buckets of which nobody can say whether they should be flagged.
    pub(super) unclear: Vec<Range<usize>>,
}

/// What is expected of each bucket, before noise.
pub(super) struct Shape {
    pub(super) from: i64,
    width: i64,
    pub(super) zone: &'static str,
    pub(super) means: Vec<f64>,
    /// Relative noise of each bucket.
    pub(super) noise: Vec<f64>,
    pub(super) events: Vec<Range<usize>>,
    pub(super) unclear: Vec<Range<usize>>,
}

impl Shape {
    pub(super) fn flat(width: i64, buckets: usize, level: f64) -> Self {
        let (means, noise) = (vec![level; buckets], vec![0.06; buckets]);
        Self { from: FROM, width, zone: "UTC", means, noise, events: Vec::new(), unclear: Vec::new() }
    }

    /// Four weeks of hours.
    pub(super) fn hours(level: f64) -> Self {
        Self::flat(HOUR, 672, level)
    }

    pub(super) fn len(&self) -> usize {
        self.means.len()
    }

    pub(super) fn each(mut self, change: impl Fn(usize, f64) -> f64) -> Self {
        self.means.iter_mut().enumerate().for_each(|(place, mean)| *mean = change(place, *mean));
        self
    }

    pub(super) fn daily(self) -> Self {
        let per_day = (DAY / self.width) as usize;
        self.each(|place, mean| mean * of_day((place % per_day) as f64 / per_day as f64))
    }

    pub(super) fn weekly(self, weekdays: [f64; 7]) -> Self {
        let per_day = (DAY / self.width).max(1) as usize;
        self.each(|place, mean| mean * weekdays[place / per_day % 7])
    }

    pub(super) fn noisy(mut self, noise: f64) -> Self {
        self.noise.fill(noise);
        self
    }

    pub(super) fn times(&mut self, range: Range<usize>, factor: f64) {
        self.means[range].iter_mut().for_each(|mean| *mean *= factor);
    }

    /// An anomaly that ends.
    pub(super) fn inject(&mut self, range: Range<usize>, factor: f64) {
        self.times(range.clone(), factor);
        self.events.push(range);
    }

    /// A place for `length` buckets away from other anomalies, where there is something to lose.
    pub(super) fn free(&self, random: &mut Random, length: usize) -> usize {
        let mut sorted = self.means.clone();
        sorted.sort_by(f64::total_cmp);
        let level = sorted[self.len() / 2];
        loop {
            let at = random.place(6..self.len() - length - 6);
            let near = at.saturating_sub(6)..at + length + 6;
            let is_taken = self.events.iter().any(|event| event.start < near.end && near.start < event.end);
            let mean = self.means[at..at + length].iter().sum::<f64>() / length as f64;
            if !is_taken && mean >= 0.6 * level {
                return at;
            }
        }
    }

    pub(super) fn scatter(mut self, random: &mut Random, injected: &[(f64, usize)]) -> Self {
        for (factor, length) in injected {
            let at = self.free(random, *length);
            self.inject(at..at + length, *factor);
        }
        self
    }

    pub(super) fn counts(self, random: &mut Random) -> Labelled {
        let value = |(mean, noise): (&f64, &f64)| {
            let mean = mean * (noise * random.normal()).exp();
            Some(random.poisson(mean))
        };
        let values = self.means.iter().zip(&self.noise).map(value).collect();
        let Self { from, width, zone, events, unclear, .. } = self;
        Labelled { from, width, zone, is_count: true, values, events, unclear }
    }

    /// Averages, which have a noise that does not depend on their level.
    pub(super) fn averages(self, random: &mut Random) -> Labelled {
        let level = self.means.iter().sum::<f64>() / self.len() as f64;
        let value = |(mean, noise): (&f64, &f64)| Some(mean + level * noise * random.normal());
        let values = self.means.iter().zip(&self.noise).map(value).collect();
        let Self { from, width, zone, events, unclear, .. } = self;
        Labelled { from, width, zone, is_count: false, values, events, unclear }
    }
}
