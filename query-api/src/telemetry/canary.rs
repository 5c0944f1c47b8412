//! Metrics of the canary.

use std::time::Duration;

use prometheus::{Histogram, IntCounterVec, IntGauge};
use tallyhouse_service::metrics::Registry;

/// Seconds; the service level is 60.
const SECONDS: [f64; 11] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0];

/// How a canary ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryOutcome {
    /// It is counted.
    Seen,
    /// It was acknowledged, and is not counted in time.
    NotSeen,
    /// It was not acknowledged.
    NotSent,
    /// ClickHouse did not say which is the newest.
    NotAsked,
    /// Another instance has just sent one.
    LeftToAnother,
}

#[derive(Debug, Clone)]
pub struct CanaryMetrics {
    freshness: Histogram,
    turns: IntCounterVec,
    newest: IntGauge,
}

impl CanaryMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let turns = registry.counters(
            "tallyhouse_canary_turns_total",
            "Turns of the canary by outcome: seen, not_seen (in two minutes), not_sent, not_asked (ClickHouse does not answer), or left_to_another instance",
            &["outcome"],
        )?;
        for outcome in ["seen", "not_seen", "not_sent", "not_asked", "left_to_another"] {
            // The first one must be an increase.
            turns.with_label_values(&[outcome]);
        }
        Ok(Self {
            freshness: registry.histogram(
                "tallyhouse_canary_freshness_seconds",
                "From when a canary event is sent to an ingester until the rollups have it",
                SECONDS.to_vec(),
            )?,
            turns,
            newest: registry.gauge(
                "tallyhouse_canary_newest_timestamp_seconds",
                "When the newest canary event that the rollups have was sent, in seconds since 1970; before the first, 15 minutes before the process looked for one, and 0 until it has looked",
            )?,
        })
    }

    /// A turn ended.
    pub fn ended(&self, outcome: CanaryOutcome) {
        let outcome = match outcome {
            CanaryOutcome::Seen => "seen",
            CanaryOutcome::NotSeen => "not_seen",
            CanaryOutcome::NotSent => "not_sent",
            CanaryOutcome::NotAsked => "not_asked",
            CanaryOutcome::LeftToAnother => "left_to_another",
        };
        self.turns.with_label_values(&[outcome]).inc();
    }

    pub fn fresh_after(&self, took: Duration) {
        self.freshness.observe(took.as_secs_f64());
    }

    /// There is none that was sent since, in milliseconds since 1970. The newest may be known already.
    pub fn none_sent_since(&self, since_ms: i64) {
        if self.newest.get() == 0 {
            self.newest_sent_at(since_ms);
        }
    }

    /// In milliseconds since 1970.
    pub fn newest_sent_at(&self, sent_ms: i64) {
        self.newest.set(sent_ms.div_euclid(1_000));
    }
}
