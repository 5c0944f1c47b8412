//! Pins the number of partitions that a topic's events are spread over: as many as it had when first seen, whatever is added later.
//!
//! An event's partition follows from its id and this number, so that its repeats come to the consumer that knows it. Were the number to
//! change while events wait, a repeat would reach another consumer before ClickHouse knows of the first one, and both would count. So
//! the number is written down in Kafka, and everybody goes by it. Added partitions are used after [`widen`], which refuses while
//! anything waits or anybody reads.
//!
//! Where: a group's committed offset of partition 0, and once more its metadata: `MirrorMaker` translates the offset, as if it were one, and leaves
//! the metadata as it is. It goes with its topic, needs no room, and expires seven days after it was last
//! committed, when Kafka has no record that was placed by it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::settings::Brokers;
use crate::telemetry::Metrics;

/// The group, the same for all who use a topic.
const GROUP: &str = "tallyhouse.partitions";

const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks at whether a number is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// So long before it would expire.
const COMMIT_EVERY: Duration = Duration::from_secs(3_600);

/// Reads and writes the numbers. Blocking.
pub struct Pins {
    group: BaseConsumer,
    metrics: Arc<Metrics>,
    /// When a number was last committed from here, and how many partitions were there.
    committed: Mutex<HashMap<String, (Instant, i32)>>,
}

impl Pins {
    /// Speaks to nobody yet.
    pub fn new(brokers: &Brokers, metrics: Arc<Metrics>) -> Result<Self, KafkaError> {
        Ok(Self { group: brokers.observer(GROUP).create()?, metrics, committed: Mutex::default() })
    }

    /// Over how many partitions of a topic, which has this many, events are spread.
    pub fn of(&self, topic: &str, there: i32) -> Result<i32, KafkaError> {
        let found = pinned(&self.group, topic)?;
        // One that was made anew with fewer partitions has none of the old records.
        let pinned = found.filter(|pinned| *pinned <= there).unwrap_or(there);
        let before = self.lock().get(topic).copied();
        if found != Some(pinned) || before.is_none_or(|(at, _)| at.elapsed() >= COMMIT_EVERY) {
            pin(&self.group, topic, pinned)?;
            // Requests wait for a number that is not known, not for one that is only written once more.
            if found != Some(pinned) {
                until_pinned(&self.group, topic, pinned)?;
            }
            self.lock().insert(topic.to_owned(), (Instant::now(), there));
        }
        if before.is_none_or(|(_, seen)| seen != there) {
            self.metrics.kafka.unused_partitions(topic, there - pinned);
            if pinned < there {
                tracing::warn!(
                    topic,
                    pinned,
                    there,
                    "partitions were added and are not used, so that repeats of events that wait are recognised: see `tallyhouse topics widen`"
                );
            }
            self.lock().entry(topic.to_owned()).and_modify(|(_, seen)| *seen = there);
        }
        Ok(pinned)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, i32)>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pinned(group: &BaseConsumer, topic: &str) -> Result<Option<i32>, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, 0);
    let list = group.committed_offsets(list, ASK_WITHIN)?;
    let Some(element) = list.find_partition(topic, 0) else { return Ok(None) };
    element.error()?;
    Ok(number(element.offset().to_raw(), element.metadata()))
}

/// What a commit says; those of earlier versions have no metadata.
fn number(offset: Option<i64>, metadata: &str) -> Option<i32> {
    let offset = offset.filter(|offset| *offset > 0)?;
    metadata.parse().ok().filter(|number| *number > 0).or_else(|| i32::try_from(offset).ok())
}

/// Begins to write a number. A commit that waits for its answer may wait for ever: when the broker ends meanwhile.
fn pin(group: &BaseConsumer, topic: &str, partitions: i32) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(partitions.into()))?;
    if let Some(mut element) = list.find_partition(topic, 0) {
        element.set_metadata(partitions.to_string());
    }
    group.commit(&list, CommitMode::Async)
}

/// Waits until the number is there, at most [`ASK_WITHIN`] and one answer more.
fn until_pinned(group: &BaseConsumer, topic: &str, partitions: i32) -> Result<(), KafkaError> {
    let deadline = Instant::now() + ASK_WITHIN;
    while pinned(group, topic)? != Some(partitions) {
        if Instant::now() >= deadline {
            return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Why added partitions cannot be used yet.
#[derive(Debug, thiserror::Error)]
pub enum WidenError {
    /// Kafka refused or did not answer.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// No such topic.
    #[error("there is no topic {0}")]
    NoTopic(String),
    /// Consumers know only ids of the partitions as they are.
    #[error("the group {group} has {members} members: stop gateways, wait until nothing waits, then stop consumers")]
    InUse {
        group: String,
        /// How many are in it.
        members: usize,
    },
    /// Repeats of what waits could not be recognised.
    #[error(
        "partition {partition} has {records} records that are not stored: start consumers without gateways, and wait"
    )]
    Behind { partition: i32, records: i64 },
}

/// Spreads a topic's events over all partitions that it has. Returns how many were used before, and how many are now. Blocking.
pub fn widen(brokers: &Brokers, group: &str, topic: &str) -> Result<(i32, i32), WidenError> {
    let reader: BaseConsumer = brokers.observer(group).create()?;
    let metadata = reader.fetch_metadata(Some(topic), ASK_WITHIN)?;
    let there =
        metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
    let there = i32::try_from(there).unwrap_or(i32::MAX);
    if there == 0 {
        return Err(WidenError::NoTopic(topic.to_owned()));
    }
    let groups = reader.fetch_group_list(Some(group), ASK_WITHIN)?;
    let members = groups.groups().iter().map(|group| group.members().len()).sum();
    if members > 0 {
        return Err(WidenError::InUse { group: group.to_owned(), members });
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, there - 1);
    for element in reader.committed_offsets(list, ASK_WITHIN)?.elements() {
        element.error()?;
        let (first, end) = reader.fetch_watermarks(topic, element.partition(), ASK_WITHIN)?;
        let records = end - element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(first);
        if records != 0 {
            return Err(WidenError::Behind { partition: element.partition(), records });
        }
    }
    let pins: BaseConsumer = brokers.observer(GROUP).create()?;
    let before = pinned(&pins, topic)?.unwrap_or(there);
    pin(&pins, topic, there)?;
    until_pinned(&pins, topic, there)?;
    Ok((before, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_metadata_of_its_commit_wherever_that_was_mirrored_to() {
        assert_eq!([number(Some(12), "12"), number(Some(1), "12"), number(Some(12), "")], [Some(12); 3]);
        assert_eq!([number(None, "12"), number(Some(0), ""), number(Some(-1), "12")], [None; 3]);
    }
}
