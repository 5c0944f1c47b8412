//! Events that violate the schema of their type.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::IntCounterVec;
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_schema::json_schema::Mode;

use tallyhouse_service::metrics::Registry;

/// Types that are told apart. Each is declared by somebody, but by any number of projects.
const MOST_TYPES: usize = 1_000;

/// Figures of violations.
pub struct SchemaMetrics {
    violations: IntCounterVec,
    types: Mutex<HashSet<String>>,
}

impl SchemaMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let violations = registry.counters(
            "tallyhouse_ingest_schema_violations_total",
            "Events that violate the schema of their type; in the mode `report` they are taken",
            &["mode", "event_type"],
        )?;
        Ok(Self { violations, types: Mutex::default() })
    }

    /// An event violates its schema, in whatever number of places.
    pub fn violated(&self, mode: Mode, event_type: &str) {
        let mode = match mode {
            Mode::Enforce => "enforce",
            Mode::Report => "report",
            Mode::Off => "off",
        };
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = types.contains(event_type) || (types.len() < MOST_TYPES && types.insert(event_type.to_owned()));
        drop(types);
        self.violations.with_label_values(&[mode, if is_told { event_type } else { OTHER }]).inc();
    }
}
