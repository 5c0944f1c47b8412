//! Telemetry: every metric of the write path, and the types of its labels. Measured modules use it, never the reverse.

mod clickhouse;
mod journal;
mod kafka;
mod log;
mod refusals;
mod schemas;

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, exponential_buckets};
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::Class;

pub use self::clickhouse::ClickHouseMetrics;
pub use self::journal::JournalMetrics;

pub use self::kafka::{ConsumedCounts, KafkaMetrics, Produced};
pub use self::log::LogMetrics;
pub use self::refusals::RefusalMetrics;
pub use self::schemas::SchemaMetrics;

/// The metrics. Labels come from enums and constants, so their cardinality is bounded.
pub struct Metrics {
    pub kafka: KafkaMetrics,
    /// Events that ClickHouse refuses.
    pub refusals: RefusalMetrics,
    /// Files of versions without a log, and files of ids.
    pub journal: JournalMetrics,
    /// The local log.
    pub log: LogMetrics,
    /// Violations of schemas.
    pub schemas: SchemaMetrics,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    events: IntCounterVec,
    rejected: IntCounterVec,
    dropped: IntCounterVec,
    warnings: IntCounterVec,
    insert_seconds: Histogram,
    freshness: Histogram,
    insert_rows: Histogram,
    inserted_rows: IntCounter,
    inserted_bytes: IntCounter,
    insert_failures: IntCounterVec,
    open_bytes: IntGauge,
    /// Partitions, of Kafka or of the local log, whose worker stands still until a person or another version helps.
    pub blocked_partitions: IntGauge,
    dimension_overflow: IntCounterVec,
    /// Events that were counted under the type `__other__`.
    pub event_type_overflow: IntCounter,
    dimension_values: IntGauge,
    window_ids: IntGauge,
    window_seconds: IntGauge,
    /// Dead letters that could not be kept.
    pub dead_letters_dropped: IntCounter,
    /// Changed days that were not published: too many were pending, or Redis was away at the end. Everything is invalidated instead.
    pub changed_days_dropped: IntCounter,
    /// Failed attempts to publish to Redis.
    pub changed_days_failures: IntCounter,
    /// Times that everything was invalidated: after an unclean shutdown, or after days were dropped.
    pub changed_days_everything: IntCounter,
}

/// Which metrics tell something of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// It has a local log: events wait there for ClickHouse, or for Kafka.
    pub log: bool,
    /// It inserts.
    pub inserts: bool,
    /// It inserts what it took itself, without Kafka.
    pub direct: bool,
    /// It writes to Kafka.
    pub gateway: bool,
    /// It reads Kafka.
    pub consumer: bool,
}

impl Shown {
    /// Of every process together.
    pub const ALL: Self = Self { log: true, inserts: true, direct: true, gateway: true, consumer: true };
}

/// Counted at the moment when it becomes true, so `stored` is what ClickHouse has. What waits in the local log has met none of them
/// yet: see `log`.
const EVENTS: &str = "Events by their fate: stored in ClickHouse, logged in Kafka, duplicate, rejected, dropped, dead_lettered, suppressed, handed_back";

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Self::register_those(registry, Shown::ALL)
    }

    /// Registers those that tell something of this process. The others are counted and shown nowhere: an alert cannot tell a lag of 0 from a lag
    /// that nobody has.
    pub fn register_those(registry: &Registry, shown: Shown) -> prometheus::Result<Self> {
        let hidden = Registry::new();
        let when = |is_shown| if is_shown { registry } else { &hidden };
        let (log, stores, direct) = (when(shown.log), when(shown.inserts), when(shown.direct));
        let kafka = when(shown.gateway || shown.consumer);
        Ok(Self {
            kafka: KafkaMetrics::register(kafka, when(shown.gateway), when(shown.consumer))?,
            refusals: RefusalMetrics::register(stores)?,
            journal: JournalMetrics::register(log)?,
            log: LogMetrics::register(log)?,
            schemas: SchemaMetrics::register(registry)?,
            requests: registry.counters(
                "tallyhouse_ingest_requests_total",
                "Requests by the code of their answer",
                &["code"],
            )?,
            request_seconds: registry.histograms(
                "tallyhouse_ingest_request_seconds",
                "Time until a request was answered",
                seconds()?,
                &["code"],
            )?,
            events: registry.counters("tallyhouse_ingest_events_total", EVENTS, &["fate"])?,
            rejected: registry.counters("tallyhouse_ingest_rejected_total", "Rejected events by code", &["code"])?,
            dropped: registry.counters(
                "tallyhouse_ingest_dropped_total",
                "Events that were dropped before anything of them was kept, by code",
                &["code"],
            )?,
            warnings: registry.counters(
                "tallyhouse_ingest_warnings_total",
                "Warnings in answers about accepted events, by code",
                &["code"],
            )?,
            insert_seconds: stores.histogram(
                "tallyhouse_ingest_insert_seconds",
                "Time of a successful insert",
                seconds()?,
            )?,
            freshness: stores.histogram(
                "tallyhouse_ingest_freshness_seconds",
                "From when the first event of a batch was received until all of the batch is in events and rollups",
                vec![0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0],
            )?,
            insert_rows: stores.histogram(
                "tallyhouse_ingest_insert_rows",
                "Rows of an insert",
                exponential_buckets(1.0, 4.0, 10)?,
            )?,
            inserted_rows: stores.counter("tallyhouse_ingest_inserted_rows_total", "Rows stored")?,
            inserted_bytes: stores
                .counter("tallyhouse_ingest_inserted_bytes_total", "Bytes sent in successful inserts")?,
            insert_failures: stores.counters(
                "tallyhouse_ingest_insert_failures_total",
                "Failed attempts by class",
                &["class"],
            )?,
            open_bytes: registry.gauge("tallyhouse_ingest_open_bytes", "Bytes reserved for bodies being worked on")?,
            blocked_partitions: stores.gauge(
                "tallyhouse_ingest_blocked_partitions",
                "Partitions, of Kafka or of the local log, whose worker stands still until an operator acts",
            )?,
            dimension_overflow: registry.counters(
                "tallyhouse_ingest_dimension_overflow_total",
                "Values that the cardinality limiter counted as __other__",
                &["dimension"],
            )?,
            event_type_overflow: registry.counter(
                "tallyhouse_ingest_event_type_overflow_total",
                "Events that the cardinality limiter counted under the type __other__",
            )?,
            dimension_values: registry.gauge(
                "tallyhouse_ingest_dimension_values",
                "Dimension values that the cardinality limiter remembers",
            )?,
            window_ids: direct.gauge("tallyhouse_ingest_dedup_window_ids", "Event ids in the deduplication window")?,
            window_seconds: direct
                .gauge("tallyhouse_ingest_dedup_window_seconds", "Time span of the deduplication window")?,
            dead_letters_dropped: registry
                .counter("tallyhouse_ingest_dead_letters_dropped_total", "Dead letters that could not be kept")?,
            changed_days_dropped: stores.counter(
                "tallyhouse_ingest_invalidations_dropped_total",
                "Changed days that were not published to Redis; all cached answers are invalidated instead",
            )?,
            changed_days_failures: stores.counter(
                "tallyhouse_ingest_invalidation_failures_total",
                "Failed attempts to publish changed days to Redis",
            )?,
            changed_days_everything: stores.counter(
                "tallyhouse_ingest_invalidated_everything_total",
                "Times that all cached answers were invalidated because the changed days were not known",
            )?,
        })
    }

    /// A request was answered with this code (`accepted`, or an error's).
    pub fn answered(&self, code: &str, took: Duration) {
        self.requests.with_label_values(&[code]).inc();
        self.request_seconds.with_label_values(&[code]).observe(took.as_secs_f64());
    }

    /// Events met one of the fates in [`EVENTS`], just now.
    fn fates(&self, fate: &'static str, events: usize) {
        if events > 0 {
            self.events.with_label_values(&[fate]).inc_by(events as u64);
        }
    }

    /// Events that were counted before.
    pub fn duplicates(&self, events: usize) {
        self.fates("duplicate", events);
    }

    /// Events that have to be sent again.
    pub fn handed_back(&self, events: usize) {
        self.fates("handed_back", events);
    }

    /// An event was rejected.
    pub fn rejected(&self, code: &'static str) {
        self.events.with_label_values(&["rejected"]).inc();
        self.rejected.with_label_values(&[code]).inc();
    }

    /// Events of which nothing is kept, as their people wish.
    pub fn dropped(&self, code: &'static str, events: usize) {
        self.fates("dropped", events);
        if events > 0 {
            self.dropped.with_label_values(&[code]).inc_by(events as u64);
        }
    }

    /// Events that were refused to their senders so far.
    pub(crate) fn events_rejected(&self) -> u64 {
        self.events.with_label_values(&["rejected"]).get()
    }

    /// Events that were taken and cannot be stored, so far.
    pub(crate) fn events_dead_lettered(&self) -> u64 {
        self.events.with_label_values(&["dead_lettered"]).get()
    }

    /// A sender was warned.
    pub fn warned(&self, code: &'static str) {
        self.warnings.with_label_values(&[code]).inc();
    }

    /// An event is a dead letter because ClickHouse refuses it, with its number; 0 when an earlier process saw that.
    fn dead_lettered(&self, code: u32) {
        self.fates("dead_lettered", 1);
        self.refusals.dead_lettered(code);
    }

    /// An insert was answered.
    pub fn inserted(&self, rows: usize, bytes: usize, took: Duration) {
        self.insert_seconds.observe(took.as_secs_f64());
        self.insert_rows.observe(rows as f64);
        self.inserted_rows.inc_by(rows as u64);
        self.inserted_bytes.inc_by(bytes as u64);
    }

    /// A batch is stored, so many milliseconds after its first event was received; a clock that was set may say less than none.
    pub fn stored_since(&self, age_ms: Option<i64>) {
        if let Some(age_ms) = age_ms {
            self.freshness.observe(age_ms.max(0) as f64 / 1_000.0);
        }
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

    /// The delivery of a record to Kafka ended.
    pub fn produced(&self, produced: Produced) {
        if produced == Produced::Acknowledged {
            self.fates("logged", 1);
        }
        self.kafka.produced(produced);
    }

    /// Records whose fate is decided and committed.
    pub fn consumed(&self, counts: ConsumedCounts, refused: &[u32]) {
        self.kafka.consumed(counts);
        self.stored(counts.kept, refused);
        self.duplicates(counts.duplicates);
        self.fates("dead_lettered", counts.poison);
        self.fates("suppressed", counts.suppressed);
    }

    /// Events of a batch are stored, but for those that ClickHouse refused, with its numbers.
    pub fn stored(&self, events: usize, refused: &[u32]) {
        self.fates("stored", events.saturating_sub(refused.len()));
        refused.iter().for_each(|code| self.dead_lettered(*code));
    }

    /// Whether every partition can go on.
    pub fn has_no_blocked_partition(&self) -> bool {
        self.blocked_partitions.get() == 0
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

    /// Ids that are remembered, and how far back.
    pub fn window(&self, ids: usize, reach: Duration) {
        self.window_ids.set(ids as i64);
        self.window_seconds.set(reach.as_secs() as i64);
    }
}

/// 1 ms to 16 s, so that the service levels (50, 100, 200 ms) fall between neighbours.
fn seconds() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(0.001, 2.0, 15)
}
