//! How ClickHouse is. Nothing of it is shown while it cannot be read, but that it is not up.
//!
//! Series are made when somebody looks, of what each server told last: a look never meets a half of it, or nothing between two readings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGaugeVec, Opts};
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::metrics::registry::{Description, Kind};
use tallyhouse_sql::vitals::Vital;

/// Gauges by what they are told from. Clones share them.
#[derive(Clone)]
pub struct ClickHouseMetrics {
    /// What each server told last, `None`: it did not. Gauges are touched by who holds this.
    told: Arc<Mutex<BTreeMap<String, Option<Vec<Vital>>>>>,
    up: IntGaugeVec,
    of_server: Vec<(&'static str, GaugeVec)>,
    of_table: Vec<(&'static str, GaugeVec)>,
    of_disk: Vec<(&'static str, GaugeVec)>,
}

const UP: (&str, &str) = ("tallyhouse_clickhouse_up", "1 while ClickHouse says how it is, 0 while it does not");

/// The name of a [`Vital`], the metric, its help.
const OF_SERVER: [(&str, &str, &str); 10] = [
    ("metric:MemoryTracking", "tallyhouse_clickhouse_memory_bytes", "Memory that ClickHouse has allocated"),
    ("memory_limit", "tallyhouse_clickhouse_memory_limit_bytes", "Memory that ClickHouse may allocate"),
    ("uptime", "tallyhouse_clickhouse_uptime_seconds", "Since ClickHouse was started"),
    ("metric:Query", "tallyhouse_clickhouse_queries", "Statements that ClickHouse is carrying out"),
    (
        "metric:DelayedInserts",
        "tallyhouse_clickhouse_delayed_inserts",
        "Inserts that are slowed because there are many parts",
    ),
    (
        "metric:ReadonlyReplica",
        "tallyhouse_clickhouse_readonly_replicas",
        "Tables that take no inserts: their replica lost Keeper",
    ),
    ("merges", "tallyhouse_clickhouse_merges", "Merges and mutations that are running"),
    ("merge_oldest", "tallyhouse_clickhouse_merge_oldest_seconds", "How long the oldest of them has been running"),
    (
        "metric:BackgroundMergesAndMutationsPoolTask",
        "tallyhouse_clickhouse_merge_pool_in_use",
        "Threads for merges and mutations that are busy",
    ),
    (
        "metric:BackgroundMergesAndMutationsPoolSize",
        "tallyhouse_clickhouse_merge_pool_size",
        "Threads for merges and mutations",
    ),
];

const OF_TABLE: [(&str, &str, &str); 7] = [
    ("parts", "tallyhouse_clickhouse_parts", "Active parts of a table"),
    (
        "parts_in_partition",
        "tallyhouse_clickhouse_partition_parts",
        "Active parts in the partition of a table that has most; inserts are slowed at 1,000 and refused at 3,000",
    ),
    ("rows", "tallyhouse_clickhouse_table_rows", "Rows of a table"),
    ("bytes", "tallyhouse_clickhouse_table_bytes", "Bytes of a table on its disks"),
    ("mutations", "tallyhouse_clickhouse_mutations", "Mutations of a table that are not done"),
    (
        "mutations_failing",
        "tallyhouse_clickhouse_failing_mutations",
        "Mutations of a table that failed and are tried again",
    ),
    (
        "mutation_oldest",
        "tallyhouse_clickhouse_mutation_oldest_seconds",
        "Age of the oldest mutation of a table that is not done",
    ),
];

const OF_DISK: [(&str, &str, &str); 2] = [
    (
        "disk_free",
        "tallyhouse_clickhouse_disk_free_bytes",
        "Free space of a disk of ClickHouse, without what merges reserved",
    ),
    ("disk_size", "tallyhouse_clickhouse_disk_size_bytes", "Size of a disk of ClickHouse"),
];

impl ClickHouseMetrics {
    /// Of servers, each with its host and port in the configuration.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let mut descriptions = vec![Description::new(UP.0, Kind::Gauge, UP.1, &["server"])];
        let mut all = |metrics: &[(&'static str, &str, &str)], labels: &[&str]| {
            descriptions
                .extend(metrics.iter().map(|(_, name, help)| Description::new(name, Kind::Gauge, help, labels)));
            let of =
                metrics.iter().map(|(told, name, help)| Ok((*told, GaugeVec::new(Opts::new(*name, *help), labels)?)));
            of.collect::<prometheus::Result<Vec<_>>>()
        };
        let metrics = Self {
            told: Arc::default(),
            up: IntGaugeVec::new(Opts::new(UP.0, UP.1), &["server"])?,
            of_server: all(&OF_SERVER, &["server"])?,
            of_table: all(&OF_TABLE, &["server", "table"])?,
            of_disk: all(&OF_DISK, &["server", "volume", "disk"])?,
        };
        registry.collect_from(metrics.clone(), descriptions)?;
        Ok(metrics)
    }

    /// A server said how it is, or did not. What was told before and is not now has no series any more.
    pub fn read(&self, server: &str, vitals: Option<Vec<Vital>>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(server.to_owned(), vitals);
    }

    fn gauges(&self) -> impl Iterator<Item = &GaugeVec> {
        [&self.of_server, &self.of_table, &self.of_disk].into_iter().flatten().map(|(_, gauge)| gauge)
    }

    fn set(&self, server: &str, Vital { name, of, disk, value }: &Vital) {
        let find = |gauges: &'_ [(&'static str, GaugeVec)]| {
            gauges.iter().find(|(told, _)| told == name).map(|(_, gauge)| gauge.clone())
        };
        if let Some(gauge) = find(&self.of_server) {
            // A limit of 0 is none.
            if name != "memory_limit" || *value > 0.0 {
                gauge.with_label_values(&[server]).set(*value);
            }
        } else if let Some(gauge) = find(&self.of_table) {
            gauge.with_label_values(&[server, of]).set(*value);
        } else if let Some(gauge) = find(&self.of_disk) {
            gauge.with_label_values(&[server, of, disk]).set(*value);
        }
    }
}

impl Collector for ClickHouseMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.up.desc().into_iter().chain(self.gauges().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges().for_each(GaugeVec::reset);
        for (server, vitals) in told.iter() {
            self.up.with_label_values(&[server]).set(i64::from(vitals.is_some()));
            vitals.iter().flatten().for_each(|vital| self.set(server, vital));
        }
        self.up.collect().into_iter().chain(self.gauges().flat_map(Collector::collect)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital(name: &str, of: &str, disk: &str, value: f64) -> Vital {
        Vital { name: name.to_owned(), of: of.to_owned(), disk: disk.to_owned(), value }
    }

    fn names(registry: &Registry) -> Vec<String> {
        registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    fn series(registry: &Registry, name: &str) -> Vec<(String, f64)> {
        let families = registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let server = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().find(|label| label.name() == "server").unwrap().value().to_owned()
        };
        metrics.map(|metric| (server(metric), metric.get_gauge().get_value())).collect()
    }

    #[test]
    fn what_cannot_be_read_has_no_series_and_servers_are_told_apart() {
        let registry = Registry::new();
        let metrics = ClickHouseMetrics::register(&registry).unwrap();
        assert!(names(&registry).is_empty(), "nothing was asked yet");
        let vitals =
            [("parts", "events", "", 7.0), ("disk_free", "hot", "default", 9.0), ("memory_limit", "", "", 0.0)];
        metrics.read("a:1", Some(vitals.map(|(name, of, disk, value)| vital(name, of, disk, value)).to_vec()));
        let expected =
            ["tallyhouse_clickhouse_disk_free_bytes", "tallyhouse_clickhouse_parts", "tallyhouse_clickhouse_up"];
        assert_eq!(names(&registry), expected);
        metrics.read("b:1", Some(vec![vital("parts", "events", "", 2.0)]));
        let both = |a, b| [("a:1".to_owned(), a), ("b:1".to_owned(), b)];
        assert_eq!(series(&registry, "tallyhouse_clickhouse_parts"), both(7.0, 2.0));
        metrics.read("a:1", None);
        assert_eq!(series(&registry, "tallyhouse_clickhouse_parts"), both(7.0, 2.0)[1..]);
        assert_eq!(series(&registry, "tallyhouse_clickhouse_up"), both(0.0, 1.0));
        metrics.read("b:1", Some(vec![vital("parts", "rollup_1m", "", 2.0)]));
        assert_eq!(series(&registry, "tallyhouse_clickhouse_parts").len(), 1, "a table that went has no series");
    }

    #[test]
    fn a_look_between_two_readings_sees_one_of_them() {
        let registry = Registry::new();
        let metrics = ClickHouseMetrics::register(&registry).unwrap();
        let told = |rows| Some((0..100).map(|n| vital("rows", &format!("t{n}"), "", rows)).collect::<Vec<_>>());
        metrics.read("a:1", told(1.0));
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| (2..300).for_each(|rows| metrics.read("a:1", told(f64::from(rows)))));
            while !reading.is_finished() {
                let seen = series(&registry, "tallyhouse_clickhouse_table_rows");
                assert!(seen.len() == 100 && seen.iter().all(|row| row.1 == seen[0].1), "{seen:?}");
            }
        });
    }
}
