//! Metrics of the certificate.

use prometheus::{Gauge, IntCounterVec, Opts, Registry};

/// Of the certificate that the listeners of a service show.
#[derive(Debug, Clone)]
pub(super) struct TlsMetrics {
    days_left: Gauge,
    replaced: IntCounterVec,
}

impl TlsMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let days_left = Gauge::new(
            "tallyhouse_tls_certificate_days_left",
            "Until the certificate in force ends, in days; negative afterwards",
        )?;
        let replaced = IntCounterVec::new(
            Opts::new(
                "tallyhouse_tls_replacements_total",
                "Changed certificate files, by what became of them: taken, or refused (the certificate before stays)",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(days_left.clone()))?;
        registry.register(Box::new(replaced.clone()))?;
        Ok(Self { days_left, replaced })
    }

    pub(super) fn days_left(&self, days: f64) {
        self.days_left.set(days);
    }

    pub(super) fn replacement(&self, outcome: &'static str) {
        self.replaced.with_label_values(&[outcome]).inc();
    }
}
