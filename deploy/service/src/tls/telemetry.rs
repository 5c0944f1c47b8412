//! Metrics of the certificate.

use crate::metrics::Registry;
use prometheus::{Gauge, IntCounterVec};

/// Of the certificate that the listeners of a service show.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    remaining: Gauge,
    replaced: IntCounterVec,
}

impl TlsMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let replaced = registry.counters(
            "tallyhouse_tls_replacements_total",
            "Changed certificate files, by what became of them: taken, or refused (the certificate before stays)",
            &["outcome"],
        )?;
        // The first one must be an increase.
        for outcome in ["taken", "refused"] {
            replaced.with_label_values(&[outcome]);
        }
        Ok(Self {
            remaining: registry.float_gauge(
                "tallyhouse_tls_certificate_remaining_seconds",
                "Until the certificate in force ends; negative afterwards",
            )?,
            replaced,
        })
    }

    pub(super) fn days_left(&self, days: f64) {
        self.remaining.set(days * 86_400.0);
    }

    pub(super) fn replacement(&self, outcome: &'static str) {
        self.replaced.with_label_values(&[outcome]).inc();
    }

    #[cfg(test)]
    pub(super) fn replacements(&self, outcome: &'static str) -> u64 {
        self.replaced.with_label_values(&[outcome]).get()
    }
}
