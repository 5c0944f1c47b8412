//! Health as metrics, read when somebody looks: what `/health` says and what alerts go by cannot differ.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::registry::{Description, Kind, Registry};
use crate::health::{Health, Status};

const STATUS: (&str, &str) = (
    "tallyhouse_component_status",
    "Components as `/health` lists them: 0 up, 1 degraded (the service goes on without it), 2 down (it is not ready)",
);
const READY: (&str, &str) = ("tallyhouse_ready", "1 while requests should be sent here");

struct Components {
    health: Health,
    status: IntGaugeVec,
    ready: IntGauge,
}

pub(super) fn register(registry: &Registry, health: Health) -> prometheus::Result<()> {
    let status = IntGaugeVec::new(Opts::new(STATUS.0, STATUS.1), &["component"])?;
    let ready = IntGauge::new(READY.0, READY.1)?;
    let descriptions = [
        Description::new(STATUS.0, Kind::Gauge, STATUS.1, &["component"]),
        Description::new(READY.0, Kind::Gauge, READY.1, &[]),
    ];
    registry.collect_from(Components { health, status, ready }, descriptions)
}

impl Collector for Components {
    fn desc(&self) -> Vec<&Desc> {
        self.status.desc().into_iter().chain(self.ready.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let report = self.health.report();
        for (name, component) in &report.components {
            let value = match component.status {
                Status::Up => 0,
                Status::Degraded => 1,
                Status::Down => 2,
            };
            self.status.with_label_values(&[name]).set(value);
        }
        self.ready.set(i64::from(report.ready));
        self.status.collect().into_iter().chain(self.ready.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_a_series_with_its_status_and_readiness_follows() {
        let (registry, health) = (Registry::new(), Health::default());
        register(&registry, health.clone()).unwrap();
        let values = || -> Vec<f64> {
            let families = registry.gather();
            families
                .iter()
                .flat_map(|family| family.get_metric())
                .map(|metric| metric.get_gauge().get_value())
                .collect()
        };
        assert_eq!(values(), [1.0], "ready, and no component yet");
        health.set("a", Status::Up, "");
        health.set("b", Status::Degraded, "no");
        assert_eq!(values(), [0.0, 1.0, 1.0]);
        health.set("b", Status::Down, "no");
        assert_eq!(values(), [0.0, 2.0, 0.0]);
    }
}
