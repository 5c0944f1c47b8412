//! Every metric of the write path: the only file with their names.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use tallyhouse_sql::Class;

use crate::intake::Gauges;

/// The metrics. Labels come from enums and constants, so their cardinality is bounded.
pub struct Metrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    events: IntCounterVec,
    rejected: IntCounterVec,
    insert_seconds: Histogram,
    insert_rows: Histogram,
    inserted_rows: IntCounter,
    inserted_bytes: IntCounter,
    insert_failures: IntCounterVec,
    open_bytes: IntGauge,
    dimension_overflow: IntCounterVec,
    dimension_values: IntGauge,
    pending_ids: IntGauge,
    waiting_batches: IntGauge,
    uncertain_batches: IntGauge,
    window_ids: IntGauge,
    window_seconds: IntGauge,
    /// Dead letters that could not be kept.
    pub dead_letters_dropped: IntCounter,
    /// Batches of an earlier process that were sent again.
    pub journal_replayed: IntCounter,
    /// Half-written files that were removed at start.
    pub journal_unfinished: IntCounter,
    /// Files that could not be understood and were set aside.
    pub journal_damaged: IntCounter,
    /// Files that could not be written or removed.
    pub journal_errors: IntCounter,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| -> prometheus::Result<Histogram> {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let request_seconds = HistogramVec::new(
            HistogramOpts::new("tallyhouse_ingest_request_seconds", "Time until a request was answered")
                .buckets(seconds()?),
            &["code"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        Ok(Self {
            request_seconds,
            requests: counters("tallyhouse_ingest_requests_total", "Requests by the code of their answer", &["code"])?,
            events: counters("tallyhouse_ingest_events_total", "Events by their fate", &["fate"])?,
            rejected: counters("tallyhouse_ingest_rejected_total", "Rejected events by code", &["code"])?,
            insert_seconds: histogram("tallyhouse_ingest_insert_seconds", "Time of a successful insert", seconds()?)?,
            insert_rows: histogram(
                "tallyhouse_ingest_insert_rows",
                "Rows of an insert",
                exponential_buckets(1.0, 4.0, 10)?,
            )?,
            inserted_rows: counter("tallyhouse_ingest_inserted_rows_total", "Rows stored")?,
            inserted_bytes: counter("tallyhouse_ingest_inserted_bytes_total", "Bytes sent in successful inserts")?,
            insert_failures: counters(
                "tallyhouse_ingest_insert_failures_total",
                "Failed attempts by class",
                &["class"],
            )?,
            dimension_overflow: counters(
                "tallyhouse_ingest_dimension_overflow_total",
                "Values counted as __other__ because the dimension had too many within the hour",
                &["dimension"],
            )?,
            dimension_values: gauge("tallyhouse_ingest_dimension_values", "Dimension values that are remembered")?,
            open_bytes: gauge("tallyhouse_ingest_open_bytes", "Bytes reserved for bodies being worked on")?,
            pending_ids: gauge("tallyhouse_ingest_pending_ids", "Event ids in batches that are not stored yet")?,
            waiting_batches: gauge("tallyhouse_ingest_waiting_batches", "Full batches that wait for an insert")?,
            uncertain_batches: gauge("tallyhouse_ingest_uncertain_batches", "Batches being inserted")?,
            window_ids: gauge("tallyhouse_ingest_dedup_window_ids", "Event ids that are remembered")?,
            window_seconds: gauge("tallyhouse_ingest_dedup_window_seconds", "How far back remembered event ids reach")?,
            dead_letters_dropped: counter(
                "tallyhouse_ingest_dead_letters_dropped_total",
                "Dead letters that could not be kept",
            )?,
            journal_replayed: counter(
                "tallyhouse_ingest_journal_replayed_total",
                "Batches of an earlier process sent again",
            )?,
            journal_unfinished: counter(
                "tallyhouse_ingest_journal_unfinished_total",
                "Half-written files removed at start",
            )?,
            journal_damaged: counter(
                "tallyhouse_ingest_journal_damaged_total",
                "Files set aside because they are damaged",
            )?,
            journal_errors: counter(
                "tallyhouse_ingest_journal_errors_total",
                "Files that could not be written or removed",
            )?,
        })
    }

    /// A request was answered with this code (`accepted`, or an error's).
    pub fn answered(&self, code: &str, took: Duration) {
        self.requests.with_label_values(&[code]).inc();
        self.request_seconds.with_label_values(&[code]).observe(took.as_secs_f64());
    }

    /// Events ended as `stored`, `duplicate` or `handed_back`.
    pub fn fates(&self, fate: &'static str, events: usize) {
        if events > 0 {
            self.events.with_label_values(&[fate]).inc_by(events as u64);
        }
    }

    /// An event was rejected.
    pub fn rejected(&self, code: &'static str) {
        self.events.with_label_values(&["rejected"]).inc();
        self.rejected.with_label_values(&[code]).inc();
    }

    /// A batch was stored.
    pub fn inserted(&self, rows: usize, bytes: usize, took: Duration) {
        self.insert_seconds.observe(took.as_secs_f64());
        self.insert_rows.observe(rows as f64);
        self.inserted_rows.inc_by(rows as u64);
        self.inserted_bytes.inc_by(bytes as u64);
    }

    /// An attempt failed.
    pub fn insert_failed(&self, class: Class) {
        let class = match class {
            Class::Transient => "transient",
            Class::Overloaded => "overloaded",
            Class::TooExpensive => "too_expensive",
            Class::Permanent => "permanent",
        };
        self.insert_failures.with_label_values(&[class]).inc();
    }

    /// A value of this set was counted as `__other__`. Sets come from the catalogue.
    pub fn dimension_overflowed(&self, set: &str) {
        self.dimension_overflow.with_label_values(&[set]).inc();
    }

    /// Dimension values that are remembered at the moment.
    pub fn dimension_values(&self, values: usize) {
        self.dimension_values.set(values as i64);
    }

    /// Bytes reserved at the moment.
    pub fn open_bytes(&self, bytes: usize) {
        self.open_bytes.set(bytes as i64);
    }

    /// What the intake holds at the moment.
    pub fn intake(&self, gauges: Gauges) {
        self.pending_ids.set(gauges.pending_ids as i64);
        self.waiting_batches.set(gauges.waiting_batches as i64);
        self.uncertain_batches.set(gauges.uncertain_batches as i64);
        self.window_ids.set(gauges.window_ids as i64);
        self.window_seconds.set(gauges.window_reach.as_secs() as i64);
    }
}

/// 1 ms to 16 s, so that the service levels (50, 100, 200 ms) fall between neighbours.
fn seconds() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(0.001, 2.0, 15)
}
