//! Tracks what the consumers have stored, for requests that wait for it (`?wait=stored`).
//!
//! The group's committed offsets say it: an offset below them is in `events` and in every rollup. They are read while
//! a request waits, once for all waiters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::settings::Brokers;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const LOOK_WITHIN: Duration = Duration::from_secs(2);

type TopicPartition = (Arc<str>, i32);
type Committed = HashMap<TopicPartition, i64>;

pub struct Progress {
    observer: Arc<BaseConsumer>,
    wanted: Mutex<HashMap<TopicPartition, usize>>,
    wake: Notify,
    committed: watch::Sender<Committed>,
}

impl Progress {
    /// Watches a group. [`Progress::run`] does the work.
    pub fn new(brokers: &Brokers, group: &str) -> Result<Self, KafkaError> {
        let observer = Arc::new(brokers.observer(group).create()?);
        Ok(Self {
            observer,
            wanted: Mutex::default(),
            wake: Notify::new(),
            committed: watch::Sender::new(HashMap::new()),
        })
    }

    /// Whether everything up to and including `watermarks` is stored before the deadline.
    pub async fn reach(&self, topic: &Arc<str>, watermarks: &BTreeMap<i32, i64>, deadline: Instant) -> bool {
        let partitions: Vec<TopicPartition> =
            watermarks.keys().map(|partition| (Arc::clone(topic), *partition)).collect();
        let _wish = Wish::new(self, partitions);
        let mut committed = self.committed.subscribe();
        let is_stored = |committed: &Committed| {
            watermarks.iter().all(|(partition, offset)| {
                committed.get(&(Arc::clone(topic), *partition)).is_some_and(|next| next > offset)
            })
        };
        // Only an older look may be in there: it can be too early, never wrong.
        tokio::time::timeout_at(deadline, committed.wait_for(is_stored)).await.is_ok_and(|found| found.is_ok())
    }

    /// Looks while somebody waits. Never ends.
    pub async fn run(&self) {
        loop {
            let wake = self.wake.notified();
            let partitions: Vec<TopicPartition> = self.lock().keys().cloned().collect();
            if partitions.is_empty() {
                wake.await;
                continue;
            }
            match self.look(partitions).await {
                Ok(seen) => self.committed.send_modify(|committed| committed.extend(seen)),
                Err(error) => tracing::warn!(%error, "committed offsets could not be read"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, partitions: Vec<TopicPartition>) -> Result<Committed, KafkaError> {
        let observer = Arc::clone(&self.observer);
        let looked = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in &partitions {
                list.add_partition(topic, *partition);
            }
            let committed = observer.committed_offsets(list, LOOK_WITHIN)?;
            Ok(committed
                .elements()
                .iter()
                .filter_map(|e| Some(((Arc::from(e.topic()), e.partition()), e.offset().to_raw().filter(|o| *o >= 0)?)))
                .collect())
        });
        looked.await.unwrap_or_else(|_| Ok(HashMap::new()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TopicPartition, usize>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps partitions being looked at while it lives.
struct Wish<'a> {
    progress: &'a Progress,
    partitions: Vec<TopicPartition>,
}

impl<'a> Wish<'a> {
    fn new(progress: &'a Progress, partitions: Vec<TopicPartition>) -> Self {
        let mut wanted = progress.lock();
        for place in &partitions {
            *wanted.entry(place.clone()).or_default() += 1;
        }
        drop(wanted);
        progress.wake.notify_one();
        Self { progress, partitions }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        let mut wanted = self.progress.lock();
        for place in &self.partitions {
            if let Some(count) = wanted.get_mut(place) {
                *count -= 1;
                if *count == 0 {
                    wanted.remove(place);
                }
            }
        }
    }
}
