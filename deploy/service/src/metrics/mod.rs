//! Prometheus metrics: how they are made ([`Registry`]), and those that both services have under the same names and labels.
//!
//! | metrics | of |
//! |---|---|
//! | `tallyhouse_http_*` | requests of a listener, whatever they ask for ([`http`]) |
//! | `tallyhouse_pool_*` | whatever is handed out in a bounded number ([`pools`]) |
//! | `tallyhouse_component_status`, `tallyhouse_ready` | health, as the admin port tells it |
//! | `tallyhouse_data_disk_*` | the disk with the data folder ([`disk`]) |
//! | `tallyhouse_build_info`, `process_*` | the process |
//!
//! Labels have few values that are known beforehand: a route is a pattern and never a path, a method is one that the route has. What is not
//! there has no series: nobody alerts on the lag of a Kafka that does not exist.

mod build;
mod components;
pub mod disk;
pub mod http;
pub mod pools;
mod process;
pub mod registry;

pub use self::registry::{Description, Registry};
use crate::health::Health;

/// What both services tell.
pub struct Common<'a> {
    /// `ingest` or `query`.
    pub service: &'static str,
    pub version: &'static str,
    pub health: &'a Health,
}

impl Common<'_> {
    /// Registers it.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        process::register(registry)?;
        build::register(registry, self.service, self.version)?;
        components::register(registry, self.health.clone())
    }
}
