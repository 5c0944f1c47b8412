//! The metrics of this crate: the only place with their names.

use prometheus::IntCounter;
use tallyhouse_service::metrics::Registry;

/// What is counted here; clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) engine_restarts: IntCounter,
    pub(crate) revoked_inserts: IntCounter,
}

impl Metrics {
    /// Makes them and shows them in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            engine_restarts: registry.counter(
                "tallyhouse_engine_restarts_total",
                "Times that the embedded ClickHouse ended unasked and was started again",
            )?,
            revoked_inserts: registry.counter(
                "tallyhouse_engine_revoked_inserts_total",
                "Entries of deduplication logs that a crash left without their rows and that were revoked",
            )?,
        })
    }
}
