//! Quantiles of latencies.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Collects latencies in microseconds.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet; three digits are kept, whatever the magnitude.
    pub fn new() -> Self {
        #[expect(clippy::expect_used, reason = "the only possible error is a number of digits out of 0..=5")]
        Self(Histogram::new(3).expect("3 digits"))
    }

    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        // Not `saturating_record`, which clips to the size that the histogram has instead of growing it. Growing cannot fail
        // before a latency is longer than memory allows to count.
        self.0.record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)).ok();
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// The quantiles that are reported.
    pub fn quantiles(&self) -> Quantiles {
        let millis = |micros: u64| micros as f64 / 1_000.0;
        Quantiles {
            count: self.0.len(),
            p50_ms: millis(self.0.value_at_quantile(0.50)),
            p95_ms: millis(self.0.value_at_quantile(0.95)),
            p99_ms: millis(self.0.value_at_quantile(0.99)),
            max_ms: millis(self.0.max()),
        }
    }
}

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many latencies there are.
    pub count: u64,
    /// Half are below.
    pub p50_ms: f64,
    /// 95 % are below.
    pub p95_ms: f64,
    /// 99 % are below.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50_ms, p95_ms, p99_ms, max_ms } = self;
        write!(f, "p50 {p50_ms:.2} ms, p95 {p95_ms:.2} ms, p99 {p99_ms:.2} ms, max {max_ms:.1} ms (n = {count})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_latencies_of_any_magnitude() {
        let mut latencies = Latencies::new();
        let mut others = Latencies::new();
        (1..=99).for_each(|millis| latencies.add(Duration::from_millis(millis)));
        others.add(Duration::from_secs(100));
        latencies.merge(&others);
        let Quantiles { count, p50_ms, p95_ms, p99_ms, max_ms } = latencies.quantiles();
        assert_eq!(count, 100);
        for (found, exact) in [(p50_ms, 50.0), (p95_ms, 95.0), (p99_ms, 99.0), (max_ms, 100_000.0)] {
            assert!((found - exact).abs() <= exact / 1_000.0, "{found} instead of {exact}");
        }
    }
}
