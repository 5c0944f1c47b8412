//! Kafka: records, partitions, offsets.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets};
use rdkafka::error::RDKafkaErrorCode;

use tallyhouse_service::metrics::Registry;

use super::seconds;

/// How the delivery of a record to Kafka ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Produced {
    /// Every replica in sync has it.
    Acknowledged,
    /// It is larger than its topic takes.
    TooLarge,
    /// Kafka takes nothing for its topic.
    Denied,
    /// Kafka refuses this record.
    Unfit,
    /// It was not acknowledged.
    Failed,
}

impl Produced {
    const fn label(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::TooLarge => "too_large",
            Self::Denied => "denied",
            Self::Unfit => "unfit",
            Self::Failed => "failed",
        }
    }
}

/// The records of a batch, by what they turned out to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumedCounts {
    /// New events.
    pub kept: usize,
    /// Events that were counted before, under another offset.
    pub duplicates: usize,
    /// Records that are stored already: read again after an offset went back.
    pub replayed: usize,
    /// Records that cannot be read.
    pub poison: usize,
    /// Events of people whose data was erased after they were received.
    pub suppressed: usize,
}

impl std::ops::AddAssign for ConsumedCounts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.duplicates += other.duplicates;
        self.replayed += other.replayed;
        self.poison += other.poison;
        self.suppressed += other.suppressed;
    }
}

/// Metrics of ingestion through Kafka.
pub struct KafkaMetrics {
    produced: IntCounterVec,
    produce_failures: IntCounterVec,
    consumed: IntCounterVec,
    consumer_failures: IntCounterVec,
    consumer_lag: IntGaugeVec,
    lag_seconds: IntGaugeVec,
    commit_seconds: Histogram,
    commit_failures: IntCounterVec,
    intents: IntCounterVec,
    intent_seconds: Histogram,
    /// Records that Kafka removed before they were read.
    pub lost_records: IntCounter,
    /// Times that a partition's log ended before what was read.
    pub log_ends_lost: IntCounter,
    rebalances: IntCounterVec,
    assigned: IntGauge,
    window_ids: IntGaugeVec,
    window_seconds: IntGaugeVec,
    unused_partitions: IntGaugeVec,
    paused_partitions: IntGauge,
}

impl KafkaMetrics {
    /// `registry`: of both; the others are of a gateway and of a consumer.
    pub(super) fn register(registry: &Registry, gateway: &Registry, consumer: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            produced: gateway.counters(
                "tallyhouse_ingest_kafka_produced_total",
                "Records by their delivery result",
                &["result"],
            )?,
            produce_failures: gateway.counters(
                "tallyhouse_ingest_kafka_produce_failures_total",
                "Records that Kafka did not acknowledge, by its error",
                &["error"],
            )?,
            consumed: consumer.counters(
                "tallyhouse_ingest_kafka_consumed_total",
                "Records by what they are",
                &["kind"],
            )?,
            consumer_failures: consumer.counters(
                "tallyhouse_ingest_kafka_consumer_failures_total",
                "Polls that failed, by Kafka's error",
                &["error"],
            )?,
            consumer_lag: consumer.gauges(
                "tallyhouse_ingest_kafka_consumer_lag",
                "Records of an assigned partition that are not stored yet",
                &["topic", "partition"],
            )?,
            lag_seconds: consumer.gauges(
                "tallyhouse_ingest_kafka_consumer_lag_seconds",
                "Age of the oldest record of an assigned partition that is not stored yet; 0 when all are",
                &["topic", "partition"],
            )?,
            commit_seconds: consumer.histogram(
                "tallyhouse_ingest_kafka_commit_seconds",
                "Time of a commit",
                seconds()?,
            )?,
            commit_failures: consumer.counters(
                "tallyhouse_ingest_kafka_commit_failures_total",
                "Commits that failed, by Kafka's error",
                &["error"],
            )?,
            intents: consumer.counters(
                "tallyhouse_ingest_kafka_intents_total",
                "Begun batches that were found when a partition was taken over",
                &["found"],
            )?,
            intent_seconds: consumer.histogram(
                "tallyhouse_ingest_kafka_intent_age_seconds",
                "Age of begun batches that were found",
                exponential_buckets(0.1, 4.0, 10)?,
            )?,
            lost_records: consumer.counter(
                "tallyhouse_ingest_kafka_lost_records_total",
                "Records that Kafka removed before they were read",
            )?,
            log_ends_lost: consumer.counter(
                "tallyhouse_ingest_kafka_log_ends_lost_total",
                "Times that a partition went on before what was read: a broker lost the end of its log",
            )?,
            rebalances: consumer.counters(
                "tallyhouse_ingest_kafka_rebalances_total",
                "Rebalances by kind",
                &["kind"],
            )?,
            assigned: consumer.gauge(
                "tallyhouse_ingest_kafka_assigned_partitions",
                "Partitions assigned to this process, each with a partition worker",
            )?,
            window_ids: consumer.gauges(
                "tallyhouse_ingest_kafka_dedup_window_ids",
                "Event ids in the deduplication window of a partition",
                &["topic", "partition"],
            )?,
            window_seconds: consumer.gauges(
                "tallyhouse_ingest_kafka_dedup_window_seconds",
                "Time span of the deduplication window of a partition",
                &["topic", "partition"],
            )?,
            unused_partitions: registry.gauges(
                "tallyhouse_ingest_kafka_unused_partitions",
                "Partitions that were added to a topic and are not used yet",
                &["topic"],
            )?,
            paused_partitions: consumer.gauge(
                "tallyhouse_ingest_kafka_paused_partitions",
                "Partitions that are paused because ClickHouse is behind",
            )?,
        })
    }

    /// Kafka did not take a record.
    pub fn produce_failed(&self, code: RDKafkaErrorCode) {
        self.produce_failures.with_label_values(&[&error_name(Some(code))]).inc();
    }

    /// A poll failed.
    pub fn consumer_failed(&self, code: Option<RDKafkaErrorCode>) {
        self.consumer_failures.with_label_values(&[&error_name(code)]).inc();
    }

    /// What of an assigned partition is not stored yet: how many records, and how old the first of them is.
    pub fn lag(&self, topic: &str, partition: i32, records: i64, oldest: Duration) {
        let labels = [topic, &partition.to_string()];
        self.consumer_lag.with_label_values(&labels).set(records);
        self.lag_seconds.with_label_values(&labels).set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
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

    /// How many partitions are assigned.
    pub fn assigned(&self, partitions: usize) {
        self.assigned.set(partitions as i64);
    }

    /// What a partition's window holds.
    pub fn window(&self, topic: &str, partition: i32, ids: usize, reach: Duration) {
        let labels = [topic, &partition.to_string()];
        self.window_ids.with_label_values(&labels).set(ids as i64);
        self.window_seconds.with_label_values(&labels).set(reach.as_secs() as i64);
    }

    /// Partitions of a topic that are not used.
    pub fn unused_partitions(&self, topic: &str, partitions: i32) {
        self.unused_partitions.with_label_values(&[topic]).set(partitions.into());
    }

    /// A partition was revoked: its gauges go.
    pub fn partition_gone(&self, topic: &str, partition: i32) {
        let labels = [topic, &partition.to_string()];
        // Each is absent until there was something to tell.
        for gauges in [&self.window_ids, &self.window_seconds, &self.consumer_lag, &self.lag_seconds] {
            drop(gauges.remove_label_values(&labels));
        }
    }

    /// Partitions that wait for ClickHouse.
    pub fn paused_partitions(&self, partitions: usize) {
        self.paused_partitions.set(partitions as i64);
    }

    /// See [`super::Metrics::produced`].
    pub(super) fn produced(&self, produced: Produced) {
        self.produced.with_label_values(&[produced.label()]).inc();
    }

    /// See [`super::Metrics::consumed`].
    pub(super) fn consumed(&self, counts: ConsumedCounts) {
        let kinds = [
            ("kept", counts.kept),
            ("duplicate", counts.duplicates),
            ("replayed", counts.replayed),
            ("poison", counts.poison),
            ("suppressed", counts.suppressed),
        ];
        for (kind, count) in kinds {
            self.consumed.with_label_values(&[kind]).inc_by(count as u64);
        }
    }
}

/// Error codes are an enum of the client library, so their number is bounded.
fn error_name(code: Option<RDKafkaErrorCode>) -> String {
    code.map_or_else(|| "other".to_owned(), |code| format!("{code:?}"))
}
