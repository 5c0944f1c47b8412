//! Starts a worker: its offset, the batch to repeat, and its recent ids.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tallyhouse_service::clock::{now_ms, steady_ms};
use tallyhouse_service::health::Status;
use tokio::time::timeout;

use super::filling::Filling;
use super::partition::{Partition, ReadError, Start};
use super::position::{Jump, Position};
use super::{BlockedPartition, Worker};
use crate::dedup_warm_up::{self, IdFilter, RecentId};
use crate::intent::Intent;
use crate::limits::DedupLimits;
use crate::window::{Window, locked};

/// Ids that a window may be too large by, while it is filled.
const TRIM_EACH: usize = 16_384;

/// What somebody else has written with the committed offset may say what is being inserted.
const NOT_AN_INTENT: &str = "a partition does not begin: the metadata of its committed offset is not understood; start the version that wrote it, \
    or, in Kafka, commit the same offset without metadata and run `tallyhouse rollups verify`";

/// The health component that reports lost records.
const COMPONENT: &str = "kafka_log";

/// Even shares of the bound on ids that a partition may begin with.
const SHARES: usize = 4;

/// How long ClickHouse may take to say who was erased.
const CURRENT_WITHIN: Duration = Duration::from_secs(10);

const AGAIN_AFTER: Duration = Duration::from_millis(500);

impl<P: Partition> Worker<P> {
    pub(super) async fn begin(&self) -> Filling {
        let start = self.asked("where to begin", P::committed).await;
        self.suppressions_known(start.intent.as_ref().map_or(self.committer.place, |intent| intent.shard)).await;
        let is_kafka = self.committer.partition.number().is_some();
        let (next, range) = (start.next.filter(|_| is_kafka), self.asked("what the log has", P::range).await);
        let replay = self.replayable(start, &range).await;
        let window = self.warm().await;
        let (topic, number) = (self.committer.partition.topic(), self.committer.partition.number());
        let (ids, replays) = (window.as_deref().map(|window| locked(window).ids()), replay.is_some());
        tracing::info!(topic, number, ids, replays, "partition begun");
        let position = if is_kafka { Position::at(next) } else { Position::default() };
        let mut filling = Filling::new(window, replay, position);
        match next {
            Some(from) if from < range.start => self.jumped(&mut filling, Jump { from, to: range.start }).await,
            // What it is followed by shows where it ended.
            Some(from) if from > range.end => {
                tracing::error!(topic, number, from, ?range, "the log ends before what is stored");
            }
            _ => {}
        }
        filling
    }

    /// Waits until it is known who was erased while this process did not run. ClickHouse knows, and what is stored goes there in any case; only where
    /// another shard than the first is stored to, the copy on the disk has to do after a while.
    async fn suppressions_known(&self, shard: u32) {
        let suppressions = &self.common.suppressions;
        suppressions.known().await;
        if timeout(CURRENT_WITHIN, suppressions.are_current()).await.is_ok() {
            return;
        }
        let (topic, number) = (self.committer.partition.topic(), self.committer.partition.number());
        tracing::warn!(topic, number, shard, "ClickHouse has not said yet who was erased since this process last ran");
        if shard == 1 {
            suppressions.are_current().await;
        }
    }

    /// The log did not go on where it should.
    pub(super) async fn jumped(&self, filling: &mut Filling, Jump { from, to }: Jump) {
        let (topic, number) = (self.committer.partition.topic(), self.committer.partition.number());
        let (health, metrics) = (&self.committer.store.health, &self.committer.metrics.kafka);
        let range = self.asked("what the log has", P::range).await;
        if to > from {
            let lost = to.saturating_sub(from);
            metrics.lost_records.inc_by(lost.unsigned_abs());
            let why = if to <= range.start {
                "Kafka removed records before they were read: they are lost"
            } else {
                "Kafka has records that it does not give, maybe because they are damaged: they are lost"
            };
            tracing::error!(topic, number, from, to, lost, "{why}");
            health.set(COMPONENT, Status::Degraded, "Kafka has lost records before they were read: see the log");
            filling.position.go_on_at(to);
            return;
        }
        metrics.log_ends_lost.inc();
        health.set(COMPONENT, Status::Degraded, "a broker lost the end of its log: see the log; run `rollups verify`");
        filling.position.go_on_at(to);
        let mut again_from = to;
        if to <= range.start
            && let Some(window) = &filling.window
        {
            // The consumer began with the first record, since its offset was out of range. Older ones than the window knows are stored.
            let steady = steady_ms();
            let since = now_ms() - (steady - locked(window).knows_since(steady));
            again_from = self.asked("where to begin again", move |partition| partition.go_back(since)).await;
            filling.position.sought(again_from);
        }
        tracing::error!(
            topic,
            number,
            from,
            to,
            again_from,
            "a broker lost the end of its log, or the offset went back; records that are stored are known by their ids. Run `rollups verify`"
        );
    }

    /// Asks on a thread that may wait, until there is an answer.
    async fn asked<T: Send + 'static>(
        &self,
        what: &str,
        ask: impl Fn(&P) -> Result<T, ReadError> + Copy + Send + 'static,
    ) -> T {
        let mut blocked = None;
        loop {
            let partition = self.partition();
            // A panic in there is a fault of ours, and is tried again as well.
            let asked = tokio::task::spawn_blocking(move || ask(&partition)).await.unwrap_or(Err(ReadError::CutOff));
            match asked {
                Ok(answer) => return answer,
                Err(error) => {
                    if matches!(error, ReadError::NotAnIntent(_)) {
                        blocked.get_or_insert_with(|| BlockedPartition::new(&self.committer.store, NOT_AN_INTENT));
                    }
                    let partition = self.partition();
                    tracing::warn!(topic = partition.topic(), number = partition.number(), %error, what, "not known yet");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// The intent, if the log still has all of it. Otherwise what is stored of it is known by id and offset, and is skipped.
    async fn replayable(&self, start: Start, range: &Range<i64>) -> Option<Intent> {
        let intent = start.intent?;
        let age = Duration::from_millis(u64::try_from(now_ms() - intent.at).unwrap_or_default());
        // What is left of a range of the local log has the range's token.
        let is_local = self.committer.partition.number().is_none();
        let is_whole = is_local || (range.start <= intent.first && intent.last < range.end);
        self.committer.metrics.kafka.intent_found(age, is_whole);
        let (topic, number) = (self.committer.partition.topic(), self.committer.partition.number());
        if is_whole {
            tracing::info!(topic, number, intent.first, intent.last, ?age, "replaying a batch that was begun");
            return Some(intent);
        }
        tracing::error!(
            topic,
            number,
            ?intent,
            ?range,
            "the log no longer has a batch that was begun; run `tallyhouse rollups verify`"
        );
        None
    }

    /// Ids that a partition may begin with: more than an even share, since others may be idle, and not those of the whole process.
    fn share(&self) -> DedupLimits {
        let (limits, workers) = (self.common.windows.limits(), self.common.workers.load(Ordering::Relaxed).max(1));
        DedupLimits { ids: (limits.ids / workers).saturating_mul(SHARES).min(limits.ids), ..limits }
    }

    /// The ids that belong to this partition, from ClickHouse. Tries until it answers.
    async fn warm(&self) -> Option<Arc<Mutex<Window>>> {
        let partitions = self.asked("how many partitions there are", P::partitions).await?;
        let partition = self.committer.partition.number()?;
        let filter = IdFilter::Placed { partition, partitions, project: self.project.clone() };
        loop {
            let (window, mut ids) = (self.common.windows.add(), 0_usize);
            let remember = |id: RecentId, at| {
                let key = self.common.hasher.key(&id.project_id, &id.event_id);
                locked(&window).insert(key, id.source_offset, at);
                ids += 1;
                if ids.is_multiple_of(TRIM_EACH) {
                    self.common.windows.trim();
                }
            };
            let (place, share) = (self.committer.place, self.share());
            let read = async {
                let client = self.committer.shards.ids_of(place, share.window).await?;
                dedup_warm_up::load(&client, &filter, share, remember).await
            };
            match read.await {
                Ok(warm_up) => {
                    if let Some(cut) = warm_up.cut {
                        locked(&window).cut_at(cut);
                    }
                    return Some(window);
                }
                Err(error) => {
                    let topic = self.committer.partition.topic();
                    tracing::warn!(topic, partition, %error, "recent ids could not be read for the deduplication window; trying again");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }
}
