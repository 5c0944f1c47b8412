//! Pools: whatever is handed out in a bounded number, such as connections to Redis or slots for queries. They are asked when somebody looks.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::registry::{Description, Kind, Registry};

/// How a pool is at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// How many may be handed out at once.
    pub size: usize,
    pub in_use: usize,
    /// Of connections: opened, and free.
    pub idle: Option<usize>,
    /// How many wait for one.
    pub waiting: usize,
}

type Read = Box<dyn Fn() -> PoolStatus + Send + Sync>;

/// The pools of a service. Clones share them.
#[derive(Clone)]
pub struct Pools {
    watched: Arc<Mutex<Vec<(&'static str, Read)>>>,
    gauges: [IntGaugeVec; 4],
}

const GAUGES: [(&str, &str); 4] = [
    ("tallyhouse_pool_size", "How many a pool may hand out at once"),
    ("tallyhouse_pool_in_use", "How many of a pool are handed out"),
    ("tallyhouse_pool_idle", "Open connections of a pool that nobody uses"),
    ("tallyhouse_pool_waiting", "How many wait for one of a pool"),
];

impl Pools {
    /// Registers their metrics.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let [size, in_use, idle, waiting] =
            GAUGES.map(|(name, help)| IntGaugeVec::new(Opts::new(name, help), &["pool"]));
        let pools = Self { watched: Arc::default(), gauges: [size?, in_use?, idle?, waiting?] };
        let descriptions = GAUGES.map(|(name, help)| Description::new(name, Kind::Gauge, help, &["pool"]));
        registry.collect_from(pools.clone(), descriptions)?;
        Ok(pools)
    }

    /// Shows a pool under a name.
    pub fn watch(&self, pool: &'static str, read: impl Fn() -> PoolStatus + Send + Sync + 'static) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push((pool, Box::new(read)));
    }
}

impl Collector for Pools {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (pool, read) in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let PoolStatus { size, in_use, idle, waiting } = read();
            for (gauge, value) in self.gauges.iter().zip([Some(size), Some(in_use), idle, Some(waiting)]) {
                if let Some(value) = value {
                    gauge.with_label_values(&[pool]).set(i64::try_from(value).unwrap_or(i64::MAX));
                }
            }
        }
        self.gauges.iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_pool_is_read_when_somebody_looks_and_has_no_idle_where_nothing_is_opened() {
        let registry = Registry::new();
        let pools = Pools::register(&registry).unwrap();
        let used = Arc::new(AtomicUsize::new(1));
        let read = Arc::clone(&used);
        pools.watch("slots", move || PoolStatus {
            size: 8,
            in_use: read.load(Ordering::Relaxed),
            idle: None,
            waiting: 2,
        });
        let shown = || -> Vec<(String, f64)> {
            let families = registry.gather();
            families.iter().map(|one| (one.name().to_owned(), one.get_metric()[0].get_gauge().get_value())).collect()
        };
        let named = |in_use| {
            [("tallyhouse_pool_in_use", in_use), ("tallyhouse_pool_size", 8.0), ("tallyhouse_pool_waiting", 2.0)]
                .map(|(name, value)| (name.to_owned(), value))
        };
        assert_eq!(shown(), named(1.0));
        used.store(5, Ordering::Relaxed);
        assert_eq!(shown(), named(5.0));
    }
}
