//! The local log as a partition of its worker, and the feeder of the worker.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tokio::sync::mpsc;

use super::append::Appender;
use super::ids::{self, Id, Source};
use crate::intent::Intent;
use crate::log::local::disk::{Disk, Folder as LogFolder};
use crate::log::local::{Committed, LocalLog};
use crate::telemetry::Metrics;
use crate::worker::backpressure::Backpressure;
use crate::worker::batch::Read;
use crate::worker::filling::Chunk;
use crate::worker::partition::{CommitError, Partition, ReadError, RefusedRecord, Start};

/// Bytes that may wait for the worker.
const QUEUED_BYTES: usize = 3 << 20;

/// Bytes of one chunk, about: more when its last group has more.
const CHUNK_BYTES: usize = 1 << 20;

/// Between looks whether the worker has room, and between attempts to read.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Between syncs that only the worker wants (`LOG_SYNC` other than `always`).
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// What a partition is made of.
pub struct LocalPartitionParts {
    /// What its batches' tokens begin with.
    pub topic: String,
    pub log: Arc<LocalLog>,
    /// Where ids are kept.
    pub disk: LogFolder,
    /// Learns what is stored.
    pub appender: Arc<Appender>,
    /// Counts calls of the disk that failed.
    pub metrics: Arc<Metrics>,
    /// What was committed when it was opened.
    pub found: Committed,
    /// See [`Partition::stored_before`].
    pub stored_before: i64,
}

/// All of the log: its only partition.
pub struct LocalPartition {
    parts: LocalPartitionParts,
    committed: AtomicI64,
}

impl LocalPartition {
    /// The partition of a log.
    pub fn new(parts: LocalPartitionParts) -> Self {
        let committed = AtomicI64::new(parts.found.next);
        Self { parts, committed }
    }

    /// Where it begins.
    pub fn first(&self) -> i64 {
        self.parts.found.next
    }

    /// Records before it are stored, and that is on the disk.
    pub fn committed_next(&self) -> i64 {
        self.committed.load(Ordering::Acquire)
    }
}

impl Partition for LocalPartition {
    fn topic(&self) -> &str {
        &self.parts.topic
    }

    fn number(&self) -> Option<i32> {
        None
    }

    fn commit(&self, next: i64, metadata: &str) -> Result<(), CommitError> {
        self.parts.log.commit(next, metadata).inspect_err(|_| self.parts.metrics.log.errors.inc())?;
        self.committed.fetch_max(next, Ordering::AcqRel);
        Ok(())
    }

    fn committed(&self) -> Result<Start, ReadError> {
        let Committed { next, metadata } = &self.parts.found;
        Ok(Start { next: Some(*next), intent: Intent::read(*next, metadata)? })
    }

    fn range(&self) -> Result<Range<i64>, ReadError> {
        Ok(self.parts.log.range())
    }

    fn partitions(&self) -> Result<Option<i32>, ReadError> {
        Ok(None)
    }

    fn stored(&self, next: i64, refused: &[RefusedRecord]) {
        let at = now_ms();
        let id = |record: &RefusedRecord| Id { key: self.parts.appender.key(record), offset: record.offset, at };
        let ids: Vec<Id> = refused.iter().map(id).collect();
        // Before they may be sent again, and before the commit: a start that reads these records must not know them. Rare, so the
        // thread may wait for it.
        if let Err(error) = ids::save(&self.parts.disk, Source::Refused(next), &ids) {
            self.parts.metrics.log.errors.inc();
            tracing::error!(%error, "ids of refused events could not be kept: from the next start on they are known for a day");
        }
        self.parts.appender.stored(next, refused);
    }

    fn stored_before(&self) -> i64 {
        self.parts.stored_before
    }

    fn wanted(&self) -> i64 {
        self.parts.appender.wanted()
    }

    async fn hurried(&self) {
        self.parts.appender.hurried().await;
    }
}

/// Gives a worker the records of the log, from an offset on, as they become durable. Never ends by itself.
pub async fn feed(
    log: Arc<LocalLog>,
    from: i64,
    chunks: mpsc::UnboundedSender<Chunk>,
    backpressure: Arc<Backpressure>,
    metrics: Arc<Metrics>,
) {
    let (mut next, mut synced) = (from, log.synced());
    loop {
        if *synced.borrow_and_update() <= next {
            log.request_sync();
            // Times out where nothing syncs by itself.
            drop(tokio::time::timeout(SYNC_EVERY, synced.changed()).await);
            continue;
        }
        if backpressure.queued() >= QUEUED_BYTES {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            continue;
        }
        let reading = Arc::clone(&log);
        let read = tokio::task::spawn_blocking(move || read(&reading, next)).await;
        match read {
            Ok(Ok((chunk, after))) if after > next => {
                next = after;
                backpressure.sent(chunk.bytes.len());
                if chunks.send(chunk).is_err() {
                    return;
                }
            }
            other => {
                metrics.log.errors.inc();
                tracing::error!(?other, next, "the local log cannot be read; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Records from an offset on, whole groups of them: they come to tens of megabytes under load, and reading one in parts takes a time that
/// grows with the square of it.
pub(crate) fn read<D: Disk>(log: &LocalLog<D>, from: i64) -> std::io::Result<(Chunk, i64)> {
    let mut chunk = Chunk::default();
    let progress = log.read(from, |record| {
        chunk.push(Read { offset: record.offset, at: record.at, payload: record.payload });
        chunk.bytes.len() < CHUNK_BYTES || !record.is_last
    })?;
    chunk.until = progress.next;
    Ok((chunk, progress.next))
}
