//! Makes metrics, shows them, and remembers what was made: the list in `deploy/prometheus/metrics.md` is written from it.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is known of a metric before it has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub kind: Kind,
    pub help: String,
    pub labels: Vec<String>,
}

impl Description {
    pub fn new(name: &str, kind: Kind, help: &str, labels: &[&str]) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self { name: name.to_owned(), kind, help: help.to_owned(), labels }
    }
}

/// The metrics of a service. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: prometheus::Registry,
    described: Arc<Mutex<Vec<Description>>>,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Every metric that has a value.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.inner.gather()
    }

    /// Every metric that was made, by name.
    pub fn descriptions(&self) -> Vec<Description> {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        described.sort_by(|a, b| a.name.cmp(&b.name));
        described
    }

    pub fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?, Description::new(name, Kind::Counter, help, &[]))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let description = Description::new(name, Kind::Counter, help, labels);
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?, description)
    }

    pub fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?, Description::new(name, Kind::Gauge, help, &[]))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let description = Description::new(name, Kind::Gauge, help, labels);
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?, description)
    }

    pub fn float_gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::new(name, help)?, Description::new(name, Kind::Gauge, help, &[]))
    }

    pub fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let description = Description::new(name, Kind::Gauge, help, labels);
        self.add(GaugeVec::new(Opts::new(name, help), labels)?, description)
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<Histogram> {
        let description = Description::new(name, Kind::Histogram, help, &[]);
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?, description)
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let description = Description::new(name, Kind::Histogram, help, labels);
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?, description)
    }

    /// Adds metrics that are read when somebody looks.
    pub fn collect_from<C: Collector + 'static>(
        &self,
        collector: C,
        descriptions: impl IntoIterator<Item = Description>,
    ) -> prometheus::Result<()> {
        self.inner.register(Box::new(collector))?;
        self.described.lock().unwrap_or_else(PoisonError::into_inner).extend(descriptions);
        Ok(())
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: M, description: Description) -> prometheus::Result<M> {
        self.collect_from(metric.clone(), [description])?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_described_also_without_a_value() {
        let registry = Registry::new();
        let counters = registry.counters("b_total", "B", &["one", "two"]).unwrap();
        registry.gauge("a", "A").unwrap();
        let kinds: Vec<_> = registry.descriptions().into_iter().map(|made| (made.name, made.kind)).collect();
        assert_eq!(kinds, [("a".to_owned(), Kind::Gauge), ("b_total".to_owned(), Kind::Counter)]);
        assert_eq!(registry.gather().len(), 1, "a counter without labels yet has no series");
        counters.with_label_values(&["x", "y"]).inc();
        assert_eq!(registry.gather().len(), 2);
        assert!(registry.clone().gauge("a", "again").is_err());
        assert_eq!(registry.descriptions().len(), 2, "what was refused is not described");
    }
}
