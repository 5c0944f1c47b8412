//! The status of components as metrics, made when they are asked for: a component that a process does not have has no series.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::{Report, Status};

/// The families of a report.
pub fn families(report: &Report) -> Vec<MetricFamily> {
    gauge(report).map(|gauge| gauge.collect()).unwrap_or_default()
}

fn gauge(report: &Report) -> prometheus::Result<IntGaugeVec> {
    let gauge = IntGaugeVec::new(
        Opts::new(
            "tallyhouse_component_status",
            "Components as /health lists them: 0 up, 1 degraded (the service goes on without it), 2 down (it is not ready)",
        ),
        &["component"],
    )?;
    for (name, component) in &report.components {
        let value = match component.status {
            Status::Up => 0,
            Status::Degraded => 1,
            Status::Down => 2,
        };
        gauge.get_metric_with_label_values(&[name])?.set(value);
    }
    Ok(gauge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    #[test]
    fn each_component_has_a_series_with_its_status() {
        let health = Health::default();
        health.set("clickhouse", Status::Down, "does not answer");
        health.set("redis", Status::Degraded, "");
        health.set("tables", Status::Up, "");
        let families = families(&health.report());
        let found: Vec<(&str, f64)> = families
            .iter()
            .flat_map(MetricFamily::get_metric)
            .map(|metric| (metric.get_label()[0].value(), metric.get_gauge().get_value()))
            .collect();
        assert_eq!(found, [("clickhouse", 2.0), ("redis", 1.0), ("tables", 0.0)]);
    }
}
