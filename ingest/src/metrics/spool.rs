//! Files: the spool, and the journal of batches.

use prometheus::{IntCounter, IntGauge};

use super::Registrar;
use crate::spool::shelf::SpoolGauges;

/// Figures of what is on the disk.
pub struct SpoolMetrics {
    files: IntGauge,
    bytes: IntGauge,
    oldest_seconds: IntGauge,
    /// Events that were made durable in the spool.
    pub sealed: IntCounter,
    /// Events that were refused because the spool was full.
    pub refused: IntCounter,
    /// Batches of an earlier process that were sent again.
    pub journal_replayed: IntCounter,
    /// Half-written files that were removed at start.
    pub journal_unfinished: IntCounter,
    /// Files that could not be understood and were set aside.
    pub journal_damaged: IntCounter,
    /// Files that could not be written, synced, read or removed, and batches whose ids could not be read.
    pub journal_errors: IntCounter,
}

impl SpoolMetrics {
    pub(super) fn register(registrar: Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            files: registrar.gauge("tallyhouse_ingest_spool_files", "Files that wait in the spool")?,
            bytes: registrar.gauge("tallyhouse_ingest_spool_bytes", "Bytes that wait in the spool")?,
            oldest_seconds: registrar
                .gauge("tallyhouse_ingest_spool_oldest_seconds", "Age of the oldest file in the spool")?,
            sealed: registrar.counter("tallyhouse_ingest_spool_sealed_total", "Events made durable in the spool")?,
            refused: registrar
                .counter("tallyhouse_ingest_spool_refused_total", "Events refused because the spool was full")?,
            journal_replayed: registrar
                .counter("tallyhouse_ingest_journal_replayed_total", "Batches of an earlier process sent again")?,
            journal_unfinished: registrar
                .counter("tallyhouse_ingest_journal_unfinished_total", "Half-written files removed at start")?,
            journal_damaged: registrar
                .counter("tallyhouse_ingest_journal_damaged_total", "Files set aside because they are damaged")?,
            journal_errors: registrar.counter(
                "tallyhouse_ingest_journal_errors_total",
                "Files that could not be written, synced, read or removed, and batches whose ids could not be read",
            )?,
        })
    }

    /// What waits in the spool.
    pub fn waiting(&self, gauges: SpoolGauges) {
        self.files.set(gauges.files as i64);
        self.bytes.set(gauges.bytes as i64);
        self.oldest_seconds.set(gauges.oldest.as_secs() as i64);
    }
}
