//! A token bucket of this process. Pure: the time is passed in.
//!
//! `governor` would do for single requests. A batch has to be told how many of its events fit, events that were not taken are given
//! back, and a bucket that stands in for one in Redis begins with what that had left: it has none of these.

use std::time::{Duration, Instant};

use super::rule::Rule;

#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn with(tokens: u64, now: Instant) -> Self {
        Self { tokens: tokens as f64, at: now }
    }

    /// Takes as many as there are, at most `want`.
    pub(super) fn take(&mut self, rule: &Rule, want: u64, now: Instant) -> u64 {
        let taken = self.left(rule, now).min(want);
        self.tokens -= taken as f64;
        taken
    }

    /// What is there.
    pub(super) fn left(&mut self, rule: &Rule, now: Instant) -> u64 {
        // A monotonic clock that stands still or goes back adds nothing.
        let passed = now.saturating_duration_since(self.at).as_secs_f64() * 1_000.0;
        self.tokens = (self.tokens + passed * rule.per_ms()).min(rule.burst as f64);
        self.at = self.at.max(now);
        self.tokens as u64
    }

    pub(super) fn give_back(&mut self, rule: &Rule, tokens: u64) {
        self.tokens = (self.tokens + tokens as f64).min(rule.burst as f64);
    }

    /// Until there are so many, as of the last look.
    pub(super) fn wait_for(&self, rule: &Rule, tokens: u64) -> Duration {
        rule.time_of(tokens.min(rule.burst) as f64 - self.tokens)
    }

    /// Whether it is as a new one would be.
    pub(super) fn is_full(&mut self, rule: &Rule, now: Instant) -> bool {
        self.left(rule, now) >= rule.burst
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_fills_with_time_and_never_above_its_burst() {
        let (rule, start) = (Rule::per_minute(60).with_burst(10), Instant::now());
        let mut bucket = Bucket::with(10, start);
        assert_eq!(bucket.take(&rule, 7, start), 7);
        assert_eq!(bucket.take(&rule, 7, start), 3, "as many as there are");
        assert_eq!(bucket.wait_for(&rule, 2), Duration::from_secs(2));
        assert_eq!(bucket.take(&rule, 7, start + Duration::from_millis(1_500)), 1);
        assert_eq!(bucket.left(&rule, start + Duration::from_secs(2)), 1, "half a token was kept");
        assert_eq!(bucket.left(&rule, start + Duration::from_secs(3_600)), 10);
        bucket.give_back(&rule, 100);
        assert_eq!(bucket.left(&rule, start), 10, "time that goes back adds and takes nothing");
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_than_the_burst_and_what_came(
            amount in 1_u64..10_000, burst in 1_u64..1_000,
            steps in prop::collection::vec((0_u64..500, 0_u64..300), 1..200),
        ) {
            let (rule, start) = (Rule::per_minute(amount).with_burst(burst), Instant::now());
            let (mut bucket, mut passed, mut taken) = (Bucket::with(burst, start), 0_u64, 0_u64);
            for (ms, want) in steps {
                passed += ms;
                taken += bucket.take(&rule, want, start + Duration::from_millis(passed));
                let most = burst as f64 + passed as f64 * rule.per_ms();
                prop_assert!(taken as f64 <= most + 0.001, "{taken} of {most}");
            }
        }
    }
}
