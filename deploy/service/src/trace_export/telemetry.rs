//! Metrics of traces.

use prometheus::IntCounter;

use crate::metrics::Registry;
use crate::trace::Dropped;

/// What becomes of spans that are recorded.
#[derive(Debug, Clone)]
pub struct TraceMetrics {
    pub(super) exported: IntCounter,
    pub(super) dropped: Dropped,
}

impl TraceMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let dropped = registry.counters(
            "tallyhouse_trace_spans_dropped_total",
            "Spans that no collector has, by reason: the queue was full, a request or batch had too many, the collector did not take them (in time), or the process ended",
            &["reason"],
        )?;
        Ok(Self {
            exported: registry
                .counter("tallyhouse_trace_spans_exported_total", "Spans that the collector of traces took")?,
            dropped: Dropped {
                queue_full: dropped.with_label_values(&["queue_full"]),
                too_many: dropped.with_label_values(&["too_many"]),
                not_taken: dropped.with_label_values(&["not_taken"]),
                shutdown: dropped.with_label_values(&["shutdown"]),
            },
        })
    }
}
