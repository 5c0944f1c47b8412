//! Every metric of the write path: the only file with their names.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};
use rdkafka::error::RDKafkaErrorCode;
use tallyhouse_sql::Class;

use crate::intake::Gauges;
use crate::kafka::batch::Counts;
use crate::kafka::gateway::Landing;
use crate::spool::shelf::SpoolGauges;

/// The metrics. Labels come from enums and constants, so their cardinality is bounded.
pub struct Metrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    events: IntCounterVec,
    rejected: IntCounterVec,
    warnings: IntCounterVec,
    insert_seconds: Histogram,
    insert_rows: Histogram,
    inserted_rows: IntCounter,
    inserted_bytes: IntCounter,
    insert_failures: IntCounterVec,
    produced: IntCounterVec,
    produce_failures: IntCounterVec,
    consumed: IntCounterVec,
    consumer_failures: IntCounterVec,
    consumer_lag: IntGauge,
    commit_seconds: Histogram,
    commit_failures: IntCounterVec,
    intents: IntCounterVec,
    intent_seconds: Histogram,
    rebalances: IntCounterVec,
    lanes: IntGauge,
    lane_window_ids: IntGaugeVec,
    lane_window_seconds: IntGaugeVec,
    paused_partitions: IntGauge,
    /// Partitions that stand still until a person or another version helps.
    pub lanes_blocked: IntGauge,
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
    poison: IntCounterVec,
    /// Parts of refused batches that were rehearsed.
    pub refused_trials: IntCounter,
    search_seconds: Histogram,
    /// 1 while ClickHouse refuses every event.
    pub store_refuses: IntGauge,
    /// Refused events that may have stayed in raw: ClickHouse did not delete them.
    pub refused_leftovers: IntCounter,
    /// Times that rollups were compared with raw after events were refused.
    pub repairs: IntCounter,
    /// Days that Redis was not told of: too many waited, or it was away at the end. It is told of everything instead.
    pub touched_dropped: IntCounter,
    /// Attempts to tell Redis that failed.
    pub touched_failures: IntCounter,
    /// Times that Redis was told that everything may have changed: after a kill, or after days were dropped.
    pub touched_everything: IntCounter,
    spool_files: IntGauge,
    spool_bytes: IntGauge,
    spool_oldest_seconds: IntGauge,
    /// Events that were made durable in the spool.
    pub spool_sealed: IntCounter,
    /// Events that were refused because the spool was full.
    pub spool_refused: IntCounter,
    /// Batches of an earlier process that were sent again.
    pub journal_replayed: IntCounter,
    /// Half-written files that were removed at start.
    pub journal_unfinished: IntCounter,
    /// Files that could not be understood and were set aside.
    pub journal_damaged: IntCounter,
    /// Files that could not be written, synced, read or removed, and batches whose ids could not be read.
    pub journal_errors: IntCounter,
}

/// Counted at the moment when it becomes true, so `stored` is what ClickHouse has. What waits on the disk has met none of them yet:
/// see `spool_sealed`.
const EVENTS: &str =
    "Events by their fate: stored in ClickHouse, logged in Kafka, duplicate, rejected, dead_lettered, handed_back";

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
        let gauges = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
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
            events: counters("tallyhouse_ingest_events_total", EVENTS, &["fate"])?,
            rejected: counters("tallyhouse_ingest_rejected_total", "Rejected events by code", &["code"])?,
            warnings: counters(
                "tallyhouse_ingest_warnings_total",
                "Warnings in answers about accepted events, by code",
                &["code"],
            )?,
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
            produced: counters("tallyhouse_ingest_kafka_produced_total", "Records by how they landed", &["landing"])?,
            produce_failures: counters(
                "tallyhouse_ingest_kafka_produce_failures_total",
                "Records that Kafka did not acknowledge, by its error",
                &["error"],
            )?,
            consumed: counters("tallyhouse_ingest_kafka_consumed_total", "Records by what they are", &["kind"])?,
            consumer_failures: counters(
                "tallyhouse_ingest_kafka_consumer_failures_total",
                "Polls that failed, by Kafka's error",
                &["error"],
            )?,
            consumer_lag: gauge("tallyhouse_ingest_kafka_consumer_lag", "Records that are not read yet")?,
            commit_seconds: histogram("tallyhouse_ingest_kafka_commit_seconds", "Time of a commit", seconds()?)?,
            commit_failures: counters(
                "tallyhouse_ingest_kafka_commit_failures_total",
                "Commits that failed, by Kafka's error",
                &["error"],
            )?,
            intents: counters(
                "tallyhouse_ingest_kafka_intents_total",
                "Begun batches that were found when a partition was taken over",
                &["found"],
            )?,
            intent_seconds: histogram(
                "tallyhouse_ingest_kafka_intent_age_seconds",
                "Age of begun batches that were found",
                exponential_buckets(0.1, 4.0, 10)?,
            )?,
            rebalances: counters("tallyhouse_ingest_kafka_rebalances_total", "Rebalances by kind", &["kind"])?,
            lanes: gauge("tallyhouse_ingest_kafka_lanes", "Partitions that are ours")?,
            lane_window_ids: gauges(
                "tallyhouse_ingest_kafka_dedup_window_ids",
                "Event ids that are remembered for a partition",
                &["topic", "partition"],
            )?,
            lane_window_seconds: gauges(
                "tallyhouse_ingest_kafka_dedup_window_seconds",
                "How far back remembered event ids of a partition reach",
                &["topic", "partition"],
            )?,
            paused_partitions: gauge(
                "tallyhouse_ingest_kafka_paused_partitions",
                "Partitions that wait for ClickHouse",
            )?,
            lanes_blocked: gauge(
                "tallyhouse_ingest_kafka_blocked_partitions",
                "Partitions that stand still until somebody helps",
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
            poison: counters(
                "tallyhouse_ingest_poison_total",
                "Events that ClickHouse refused for good, by its error number; they are dead letters",
                &["code"],
            )?,
            refused_trials: counter(
                "tallyhouse_ingest_refused_trials_total",
                "Parts of refused batches that were rehearsed to find the events that are refused",
            )?,
            search_seconds: histogram(
                "tallyhouse_ingest_refused_search_seconds",
                "Time of a search for refused events",
                exponential_buckets(0.1, 4.0, 7)?,
            )?,
            store_refuses: gauge(
                "tallyhouse_ingest_store_refuses_everything",
                "1 while ClickHouse refuses every event, so that no event is to blame and all wait",
            )?,
            refused_leftovers: counter(
                "tallyhouse_ingest_refused_leftovers_total",
                "Events that ClickHouse refused for good, but may have kept in raw, because it did not delete them",
            )?,
            repairs: counter(
                "tallyhouse_ingest_repairs_total",
                "Times that rollups were compared with raw because events had been refused",
            )?,
            dead_letters_dropped: counter(
                "tallyhouse_ingest_dead_letters_dropped_total",
                "Dead letters that could not be kept",
            )?,
            touched_dropped: counter(
                "tallyhouse_ingest_touched_days_dropped_total",
                "Touched days that Redis was not told of",
            )?,
            touched_failures: counter(
                "tallyhouse_ingest_touched_days_failures_total",
                "Attempts to tell Redis of touched days that failed",
            )?,
            touched_everything: counter(
                "tallyhouse_ingest_touched_everything_total",
                "Times that all cached answers were forgotten because it was not known which days were touched",
            )?,
            spool_files: gauge("tallyhouse_ingest_spool_files", "Files that wait in the spool")?,
            spool_bytes: gauge("tallyhouse_ingest_spool_bytes", "Bytes that wait in the spool")?,
            spool_oldest_seconds: gauge(
                "tallyhouse_ingest_spool_oldest_seconds",
                "Age of the oldest file in the spool",
            )?,
            spool_sealed: counter("tallyhouse_ingest_spool_sealed_total", "Events made durable in the spool")?,
            spool_refused: counter(
                "tallyhouse_ingest_spool_refused_total",
                "Events refused because the spool was full",
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
                "Files that could not be written, synced, read or removed, and batches whose ids could not be read",
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

    /// A sender was warned.
    pub fn warned(&self, code: &'static str) {
        self.warnings.with_label_values(&[code]).inc();
    }

    /// An event is a dead letter because ClickHouse refuses it, with its number; 0 when an earlier process saw that.
    pub fn dead_lettered(&self, code: u32) {
        self.fates("dead_lettered", 1);
        self.poison.with_label_values(&[&code.to_string()]).inc();
    }

    /// A search for refused events ended.
    pub fn searched(&self, took: Duration) {
        self.search_seconds.observe(took.as_secs_f64());
    }

    /// A batch was stored, of whichever way.
    pub fn inserted(&self, rows: usize, bytes: usize, took: Duration) {
        self.insert_seconds.observe(took.as_secs_f64());
        self.insert_rows.observe(rows as f64);
        self.fates("stored", rows);
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

    /// A record landed.
    pub fn produced(&self, landing: Landing) {
        let landing = match landing {
            Landing::Acknowledged { .. } => {
                self.fates("logged", 1);
                "acknowledged"
            }
            Landing::TooLarge => "too_large",
            Landing::Failed | Landing::Pending | Landing::Spooled => "failed",
        };
        self.produced.with_label_values(&[landing]).inc();
    }

    /// Kafka did not take a record.
    pub fn produce_failed(&self, code: RDKafkaErrorCode) {
        self.produce_failures.with_label_values(&[&error_name(Some(code))]).inc();
    }

    /// Records of a batch that is stored.
    pub fn consumed(&self, counts: Counts) {
        let kinds = [
            ("kept", counts.kept),
            ("duplicate", counts.duplicates),
            ("replayed", counts.replayed),
            ("poison", counts.poison),
        ];
        for (kind, count) in kinds {
            self.consumed.with_label_values(&[kind]).inc_by(count as u64);
        }
        self.duplicates(counts.duplicates);
        self.fates("dead_lettered", counts.poison);
    }

    /// A poll failed.
    pub fn consumer_failed(&self, code: Option<RDKafkaErrorCode>) {
        self.consumer_failures.with_label_values(&[&error_name(code)]).inc();
    }

    /// Records that are not read yet.
    pub fn consumer_lag(&self, records: i64) {
        self.consumer_lag.set(records);
    }

    /// An offset is committed.
    pub fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// An offset is not committed.
    pub fn commit_failed(&self, code: Option<RDKafkaErrorCode>) {
        self.commit_failures.with_label_values(&[&error_name(code)]).inc();
    }

    /// A partition came with a begun batch, whole or no longer whole in the log.
    pub fn intent_found(&self, age: Duration, is_whole: bool) {
        self.intents.with_label_values(&[if is_whole { "whole" } else { "lost" }]).inc();
        self.intent_seconds.observe(age.as_secs_f64());
    }

    /// Partitions were `assigned`, `revoked` or `lost`.
    pub fn rebalanced(&self, kind: &'static str) {
        self.rebalances.with_label_values(&[kind]).inc();
    }

    /// Partitions that are ours.
    pub fn lanes(&self, lanes: usize) {
        self.lanes.set(lanes as i64);
    }

    /// What a partition's window holds.
    pub fn lane_window(&self, topic: &str, partition: i32, ids: usize, reach: Duration) {
        let labels = [topic, &partition.to_string()];
        self.lane_window_ids.with_label_values(&labels).set(ids as i64);
        self.lane_window_seconds.with_label_values(&labels).set(reach.as_secs() as i64);
    }

    /// A partition is no longer ours.
    pub fn lane_ended(&self, topic: &str, partition: i32) {
        let labels = [topic, &partition.to_string()];
        // Absent when no batch was ever closed.
        drop(self.lane_window_ids.remove_label_values(&labels));
        drop(self.lane_window_seconds.remove_label_values(&labels));
    }

    /// Partitions that wait for ClickHouse.
    pub fn paused_partitions(&self, partitions: usize) {
        self.paused_partitions.set(partitions as i64);
    }

    /// What waits in the spool.
    pub fn spool(&self, gauges: SpoolGauges) {
        self.spool_files.set(gauges.files as i64);
        self.spool_bytes.set(gauges.bytes as i64);
        self.spool_oldest_seconds.set(gauges.oldest.as_secs() as i64);
    }

    /// Whether every lane can go on.
    pub fn has_no_blocked_lane(&self) -> bool {
        self.lanes_blocked.get() == 0
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

/// Error codes are an enum of the client library, so their number is bounded.
fn error_name(code: Option<RDKafkaErrorCode>) -> String {
    code.map_or_else(|| "other".to_owned(), |code| format!("{code:?}"))
}

/// 1 ms to 16 s, so that the service levels (50, 100, 200 ms) fall between neighbours.
fn seconds() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(0.001, 2.0, 15)
}
