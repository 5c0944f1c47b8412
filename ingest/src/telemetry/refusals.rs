//! What ClickHouse refuses: searches, dead letters, repairs.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, exponential_buckets};

use tallyhouse_service::metrics::Registry;

/// Figures of refused events.
pub struct RefusalMetrics {
    poison: IntCounterVec,
    /// Of all numbers. It is there before the first one, so that the first one is an increase.
    poison_events: IntCounter,
    /// Parts of refused batches that were rehearsed.
    pub trials: IntCounter,
    search_seconds: Histogram,
    /// 1 while ClickHouse refuses every event.
    pub store_refuses: IntGauge,
    /// Refused events that may have stayed in raw: ClickHouse did not delete them.
    pub leftovers: IntCounter,
    /// Times that rollups were compared with raw after events were refused.
    pub repairs: IntCounter,
    /// Days that could not be compared; each is tried again.
    pub repair_failures: IntCounter,
}

impl RefusalMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            poison: registry.counters(
                "tallyhouse_ingest_poison_total",
                "Events that ClickHouse refused for good, by its error number; they are dead letters",
                &["code"],
            )?,
            poison_events: registry.counter(
                "tallyhouse_ingest_poison_events_total",
                "Events that ClickHouse refused for good, whatever its error number",
            )?,
            trials: registry.counter(
                "tallyhouse_ingest_refused_trials_total",
                "Parts of refused batches that were rehearsed to find the events that are refused",
            )?,
            search_seconds: registry.histogram(
                "tallyhouse_ingest_refused_search_seconds",
                "Time of a search for refused events",
                exponential_buckets(0.1, 4.0, 7)?,
            )?,
            store_refuses: registry.gauge(
                "tallyhouse_ingest_store_refuses_everything",
                "1 while ClickHouse refuses every event, so that no event is to blame and all wait",
            )?,
            leftovers: registry.counter(
                "tallyhouse_ingest_refused_leftovers_total",
                "Events that ClickHouse refused for good, but may have kept in raw, because it did not delete them",
            )?,
            repairs: registry.counter(
                "tallyhouse_ingest_repairs_total",
                "Times that rollups were compared with raw because events had been refused",
            )?,
            repair_failures: registry.counter(
                "tallyhouse_ingest_repair_failures_total",
                "Days whose rollups could not be compared with raw after events had been refused; each is tried again",
            )?,
        })
    }

    /// A search for refused events ended.
    pub fn searched(&self, took: Duration) {
        self.search_seconds.observe(took.as_secs_f64());
    }

    /// See [`super::Metrics::dead_lettered`].
    pub(super) fn dead_lettered(&self, code: u32) {
        self.poison.with_label_values(&[&code.to_string()]).inc();
        self.poison_events.inc();
    }
}
