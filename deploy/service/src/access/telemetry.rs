//! Metrics of who is let in.

use crate::metrics::Registry;
use prometheus::IntCounterVec;

use super::denied::Denied;

/// How a fetch of a provider's keys ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFetch {
    Taken,
    Failed,
}

/// Of all listeners of a registry.
#[derive(Debug, Clone)]
pub struct AccessMetrics {
    denied: IntCounterVec,
    fetches: IntCounterVec,
}

impl AccessMetrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            denied: registry.counters(
                "tallyhouse_http_denied_total",
                "Requests that were not let in, by the code of their answer",
                &["listener", "code"],
            )?,
            fetches: registry.counters(
                "tallyhouse_jwks_fetches_total",
                "Fetches of the identity provider's keys: taken or failed",
                &["outcome"],
            )?,
        })
    }

    /// Counts, and shows nobody.
    pub fn unregistered() -> prometheus::Result<Self> {
        Self::register(&Registry::new())
    }

    /// A request to a listener was denied.
    pub fn denied(&self, listener: &'static str, denied: &Denied) {
        self.denied.with_label_values(&[listener, denied.code()]).inc();
    }

    pub(super) fn fetched(&self, fetch: KeyFetch) {
        let outcome = match fetch {
            KeyFetch::Taken => "taken",
            KeyFetch::Failed => "failed",
        };
        self.fetches.with_label_values(&[outcome]).inc();
    }

    /// Fetches so far, for tests.
    pub fn fetches(&self) -> u64 {
        ["taken", "failed"].iter().map(|outcome| self.fetches.with_label_values(&[outcome]).get()).sum()
    }
}
