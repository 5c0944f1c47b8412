//! Metrics of listeners.

use crate::metrics::Registry;
use prometheus::{IntCounterVec, IntGaugeVec};

/// Of all listeners of a registry.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    open: IntGaugeVec,
    refused: IntCounterVec,
    closed: IntCounterVec,
}

impl ServerMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            open: registry.gauges("tallyhouse_http_connections", "Open connections", &["listener"])?,
            refused: registry.counters(
                "tallyhouse_http_connections_refused_total",
                "Connections answered 503, by the bound that was reached",
                &["listener", "bound"],
            )?,
            closed: registry.counters(
                "tallyhouse_http_connections_closed_total",
                "Connections closed by the service: head_timeout, idle_timeout, slow_body, handshake (of TLS, failed), plaintext (where TLS is spoken), or \
                 replaced by another",
                &["listener", "reason"],
            )?,
        })
    }

    /// Those of a listener.
    pub fn of(&self, listener: &'static str) -> ListenerMetrics {
        ListenerMetrics { metrics: Some(self.clone()), listener }
    }
}

/// Of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    metrics: Option<ServerMetrics>,
    listener: &'static str,
}

impl ListenerMetrics {
    /// Of an admin port, whose connections are not counted.
    pub const NONE: Self = Self { metrics: None, listener: "" };

    pub(super) fn opened(&self) {
        self.count(|metrics| metrics.open.with_label_values(&[self.listener]).inc());
    }

    pub(super) fn gone(&self) {
        self.count(|metrics| metrics.open.with_label_values(&[self.listener]).dec());
    }

    pub(super) fn refused(&self, bound: &'static str) {
        self.count(|metrics| metrics.refused.with_label_values(&[self.listener, bound]).inc());
    }

    pub(super) fn closed(&self, reason: &'static str) {
        self.count(|metrics| metrics.closed.with_label_values(&[self.listener, reason]).inc());
    }

    fn count(&self, count: impl FnOnce(&ServerMetrics)) {
        if let Some(metrics) = &self.metrics {
            count(metrics);
        }
    }
}
