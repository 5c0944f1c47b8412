//! Metrics of the comparison of rollups with raw events.

use prometheus::{IntCounterVec, IntGauge};
use tallyhouse_service::metrics::Registry;

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftOutcome {
    Clean,
    Drifted,
    /// Nobody has events in that hour.
    Nothing,
    /// Queries of people go first, or ClickHouse is left alone.
    NotAdmitted,
    /// ClickHouse failed, or took too long.
    Failed,
}

#[derive(Debug, Clone)]
pub struct DriftMetrics {
    cells: IntGauge,
    checks: IntCounterVec,
}

impl DriftMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let checks = registry.counters(
            "tallyhouse_rollup_checks_total",
            "Comparisons of an hour of a project in the rollups with raw events, by outcome: clean, drifted, nothing (to compare), not_admitted, failed",
            &["outcome"],
        )?;
        for outcome in ["clean", "drifted", "nothing", "not_admitted", "failed"] {
            checks.with_label_values(&[outcome]);
        }
        Ok(Self {
            cells: registry.gauge(
                "tallyhouse_rollup_drifted_cells",
                "Cells of rollups (project, dimension set, hour) that were found to differ from raw events and are not mended yet",
            )?,
            checks,
        })
    }

    pub fn ended(&self, outcome: DriftOutcome) {
        let outcome = match outcome {
            DriftOutcome::Clean => "clean",
            DriftOutcome::Drifted => "drifted",
            DriftOutcome::Nothing => "nothing",
            DriftOutcome::NotAdmitted => "not_admitted",
            DriftOutcome::Failed => "failed",
        };
        self.checks.with_label_values(&[outcome]).inc();
    }

    pub fn drifted(&self, cells: usize) {
        self.cells.set(i64::try_from(cells).unwrap_or(i64::MAX));
    }
}
