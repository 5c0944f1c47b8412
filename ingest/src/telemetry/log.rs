//! The local log.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use tallyhouse_service::metrics::Registry;

use super::seconds;

/// Figures of the local log.
pub struct LogMetrics {
    /// Groups that were written, each with one sync.
    pub groups: IntCounter,
    records: IntCounter,
    write_seconds: Histogram,
    lost: IntCounter,
    torn_bytes: IntCounter,
    bytes: IntGauge,
    oldest_seconds: IntGauge,
    /// Calls of the disk that failed.
    pub errors: IntCounter,
    /// Ids of the window that could not be read: repeats of their events are counted.
    pub damaged_ids: IntCounter,
    /// Events that were refused because as much waited as may.
    pub refused: IntCounter,
    /// Records that Kafka refuses for good, kept in files.
    pub parked: IntCounter,
}

impl LogMetrics {
    /// Bytes of events that wait in it, as of the last look.
    pub fn waiting_bytes(&self) -> u64 {
        u64::try_from(self.bytes.get()).unwrap_or(0)
    }

    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            groups: registry
                .counter("tallyhouse_ingest_log_groups_total", "Groups written to the local log, each with one sync")?,
            records: registry.counter("tallyhouse_ingest_log_records_total", "Events written to the local log")?,
            write_seconds: registry.histogram(
                "tallyhouse_ingest_log_write_seconds",
                "Time to write and sync a group of the local log",
                seconds()?,
            )?,
            lost: registry.counter(
                "tallyhouse_ingest_log_lost_records_total",
                "Events of the local log that could not be read: their files are damaged",
            )?,
            torn_bytes: registry.counter(
                "tallyhouse_ingest_log_torn_bytes_total",
                "Bytes cut from the end of the local log at a start: a group that was not acknowledged",
            )?,
            bytes: registry
                .gauge("tallyhouse_ingest_log_bytes", "Bytes of events in the local log that are not stored yet")?,
            oldest_seconds: registry.gauge(
                "tallyhouse_ingest_log_oldest_seconds",
                "Age of the oldest event in the local log that is not stored yet",
            )?,
            errors: registry
                .counter("tallyhouse_ingest_log_errors_total", "Calls of the disk for the local log that failed")?,
            damaged_ids: registry.counter(
                "tallyhouse_ingest_log_damaged_ids_total",
                "Ids of the duplicate window that could not be read from the disk: repeats of their events are counted",
            )?,
            refused: registry.counter(
                "tallyhouse_ingest_log_refused_total",
                "Events refused because as much waited in the local log as may, or the disk was nearly full",
            )?,
            parked: registry.counter(
                "tallyhouse_ingest_log_parked_total",
                "Records of a gateway's log that Kafka refuses for good, kept in files",
            )?,
        })
    }

    /// A group is written.
    pub fn written(&self, records: u32, took: Duration) {
        self.groups.inc();
        self.records.inc_by(records.into());
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// Files were damaged: records that are lost, and bytes that were cut from the end.
    pub fn damaged(&self, records: u64, torn_bytes: u64) {
        self.lost.inc_by(records);
        self.torn_bytes.inc_by(torn_bytes);
    }

    /// Bytes that are not committed, and the age of the oldest record of them.
    pub fn waiting(&self, bytes: u64, oldest: Duration) {
        self.bytes.set(bytes as i64);
        self.oldest_seconds.set(oldest.as_secs() as i64);
    }
}
