//! The metrics of this crate: the only place with their names.

use prometheus::{IntCounter, Registry};

/// What is counted here; clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) engine_restarts: IntCounter,
    pub(crate) revoked_inserts: IntCounter,
}

impl Metrics {
    /// Makes them and shows them in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let engine_restarts = IntCounter::new(
            "tallyhouse_engine_restarts_total",
            "Times that the embedded ClickHouse ended unasked and was started again",
        )?;
        registry.register(Box::new(engine_restarts.clone()))?;
        let revoked_inserts = IntCounter::new(
            "tallyhouse_engine_torn_inserts_total",
            "Entries of deduplication logs that a crash left without their rows and that were revoked",
        )?;
        registry.register(Box::new(revoked_inserts.clone()))?;
        Ok(Self { engine_restarts, revoked_inserts })
    }
}
