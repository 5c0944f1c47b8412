//! Stores a closed batch, in the order that counts it exactly once.
//!
//! ```text
//! intent committed (fence) -> dead letters -> insert, until it is done; the intent again before each late attempt
//! ```
//!
//! What ClickHouse refuses for good of a batch becomes dead letters, and the rest is stored ([`crate::poison`]).
//!
//! Nothing here gives up by itself: the worker is drained or aborted from outside when the partition goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tokio::time::Instant;

use super::batch::{Closed, Poison};
use super::partition::{CommitError, Partition, RefusedRecord};
use crate::dead_letters::{self, DeadLetter, DeadLetterState, Kind};
use crate::intent::Intent;
use crate::poison::{Fence, Origin, RefusedEvent};
use crate::shard_writers::{ShardWriter, ShardWriters};
use crate::store::{Block, Store};
use crate::telemetry::{ConsumedCounts, Metrics};
use tallyhouse_service::retry;

/// The partition belongs to another consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// A batch was begun on a shard that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch was begun on shard {0}, which CLICKHOUSE_URL does not list: list it again, where it was")]
pub struct UnlistedShard(pub u32);

/// Stores the batches of a partition and commits its progress.
pub struct BatchCommitter<P> {
    pub partition: Arc<P>,
    /// For what is not about one shard.
    pub store: Store,
    /// How they get there, however often it takes.
    pub shards: ShardWriters,
    /// The shard of batches that are begun here.
    pub place: u32,
    /// Counts commits, and what the records of a stored batch were.
    pub metrics: Arc<Metrics>,
    /// What became of records that are not committed yet: another process may have to repeat them, and counts them then.
    uncounted: Mutex<Uncounted>,
}

#[derive(Default)]
struct Uncounted {
    counts: ConsumedCounts,
    refused: Vec<u32>,
}

/// How long a committed intent proves ownership of the partition: an attempt that begins later commits it again first. Shorter than the
/// group takes to notice that a member stopped (`session.timeout.ms`, 10 s).
const INTENT_HOLDS: Duration = Duration::from_secs(5);

/// The intent of a batch, as a fence: committed again when it is older than [`INTENT_HOLDS`].
struct FencingIntent<'a, P> {
    committer: &'a BatchCommitter<P>,
    first: i64,
    metadata: String,
    fenced: Mutex<Instant>,
}

impl<P: Partition> Fence for FencingIntent<'_, P> {
    type Lost = Lost;

    async fn hold(&self) -> Result<(), Lost> {
        let fenced = *self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        if fenced.elapsed() > INTENT_HOLDS {
            self.committer.commit(self.first, &self.metadata).await?;
            *self.fenced.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        Ok(())
    }
}

impl<P: Partition> BatchCommitter<P> {
    pub fn new(partition: Arc<P>, store: Store, shards: ShardWriters) -> Self {
        let metrics = Arc::clone(&store.metrics);
        let place = shards.place(partition.topic(), partition.number());
        Self { partition, store, shards, place, metrics, uncounted: Mutex::default() }
    }

    /// Where a batch goes; `begun`: the shard that it was begun on. `Err`: that is not listed.
    pub fn shard(&self, begun: Option<u32>) -> Result<&Arc<ShardWriter>, UnlistedShard> {
        let number = begun.unwrap_or(self.place);
        self.shards.get(number).ok_or(UnlistedShard(number))
    }

    fn uncounted(&self) -> MutexGuard<'_, Uncounted> {
        self.uncounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a batch, however often it takes. Returns the events that ClickHouse refused, which are dead letters.
    pub async fn store_batch(&self, closed: Closed) -> Result<Vec<RefusedRecord>, Lost> {
        if closed.rows == 0 && closed.poison.is_empty() {
            self.uncounted().counts += closed.counts;
            return Ok(Vec::new());
        }
        let Ok(shard) = self.shard(closed.shard) else { return Err(Lost) };
        // A batch that is begun again is as old as it was.
        let at = closed.begun.unwrap_or_else(now_ms);
        let metadata = Intent::metadata(closed.first..=closed.last, at, shard.number(), closed.skips.clone());
        self.commit(closed.first, &metadata).await?;
        let fence =
            FencingIntent { committer: self, first: closed.first, metadata, fenced: Mutex::new(Instant::now()) };
        shard.known(&fence).await?;
        if !closed.poison.is_empty() {
            let dead_letters = closed.poison.iter().map(|poison| self.dead_letter(poison)).collect();
            shard.writer.write_dead_letters(&format!("{}-letters", closed.token), dead_letters, &fence).await?;
        }
        let mut refused = Vec::new();
        if closed.rows > 0 {
            let block = Block { token: &closed.token, rows: closed.rows, chunks: &closed.chunks, days: &closed.days };
            let is_stored = closed.first < self.partition.stored_before();
            let origin = Origin {
                topic: self.partition.number().map_or("", |_| self.partition.topic()),
                begun: if is_stored { Some(0) } else { closed.begun },
                erased: &closed.erased,
            };
            let record = |event: RefusedEvent| {
                closed.offsets.get(event.row).map(|offset| RefusedRecord { offset: *offset, event })
            };
            refused = shard.writer.store(block, origin, &fence).await?.into_iter().filter_map(record).collect();
            self.metrics.stored_since(closed.oldest_ms.map(|oldest| now_ms().saturating_sub(oldest)));
        }
        let mut uncounted = self.uncounted();
        uncounted.counts += closed.counts;
        uncounted.refused.extend(refused.iter().map(|record| record.event.code));
        drop(uncounted);
        Ok(refused)
    }

    /// The whole record, so that a version that can read it may be given it again. Its id is that of its place: a batch that is
    /// repeated writes the same dead letter.
    fn dead_letter(&self, poison: &Poison) -> DeadLetter {
        let topic = self.partition.topic();
        // As in `events`: the local log has no partition.
        let partition = self.partition.number().unwrap_or(-1);
        let (now, offset, at) = (now_ms(), poison.offset, poison.at);
        DeadLetter {
            project: String::new(),
            id: format!("{topic}-{partition}-{offset}-{at}"),
            kind: Kind::Record,
            code: poison.code.to_owned(),
            reason: poison.reason.clone(),
            payload: poison.payload.clone(),
            event_id: String::new(),
            origin: dead_letters::Origin { topic: topic.to_owned(), partition, offset, key_id: String::new() },
            received_at: at,
            failed_at: now,
            state: DeadLetterState::Open,
            updated_at: now,
        }
    }

    /// Commits, however often it takes while the partition is ours.
    pub async fn commit(&self, next: i64, metadata: &str) -> Result<(), Lost> {
        let mut attempt = 1;
        loop {
            let partition = Arc::clone(&self.partition);
            let metadata = metadata.to_owned();
            let started = Instant::now();
            let committed = tokio::task::spawn_blocking(move || partition.commit(next, &metadata)).await;
            let error = match committed {
                Ok(Ok(())) => {
                    self.metrics.kafka.committed(started.elapsed());
                    let Uncounted { counts, refused } = std::mem::take(&mut *self.uncounted());
                    self.metrics.consumed(counts, &refused);
                    return Ok(());
                }
                Ok(Err(CommitError::Lost)) => return Err(Lost),
                Ok(Err(error)) => error,
                Err(error) => {
                    tracing::error!(%error, "a commit ended by itself");
                    return Err(Lost);
                }
            };
            self.metrics.kafka.commit_failed(error.code());
            tracing::warn!(%error, next, attempt, "a commit failed and will be repeated while the partition is ours");
            if !error.is_retryable() {
                return Err(Lost);
            }
            tokio::time::sleep(retry::WRITE.pause(attempt).min(Duration::from_secs(1))).await;
            attempt = attempt.saturating_add(1);
        }
    }
}
