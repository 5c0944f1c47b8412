//! Files of versions without a log, and files of ids.

use prometheus::IntCounter;

use tallyhouse_service::metrics::Registry;

/// Figures of what is on the disk.
pub struct JournalMetrics {
    /// Files of a version without a log that were sent, or appended to the log.
    pub journal_replayed: IntCounter,
    /// Half-written files that were removed at start.
    pub journal_unfinished: IntCounter,
    /// Files that could not be understood and were set aside.
    pub journal_damaged: IntCounter,
    /// Files that could not be written, synced, read or removed, and batches whose ids could not be read.
    pub journal_errors: IntCounter,
}

impl JournalMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            journal_replayed: registry.counter(
                "tallyhouse_ingest_journal_replayed_total",
                "Files of a version without a log that were sent, or appended to the log",
            )?,
            journal_unfinished: registry
                .counter("tallyhouse_ingest_journal_unfinished_total", "Half-written files removed at start")?,
            journal_damaged: registry
                .counter("tallyhouse_ingest_journal_damaged_total", "Files set aside because they are damaged")?,
            journal_errors: registry.counter(
                "tallyhouse_ingest_journal_errors_total",
                "Files that could not be written, synced, read or removed, and batches whose ids could not be read",
            )?,
        })
    }
}
