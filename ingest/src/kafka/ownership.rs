//! The right to commit for a partition: held by its lane until the rebalance takes it away, and never afterwards.
//!
//! The broker fences members that left the group, but not a member that lost one partition and kept others. A lane that was
//! given up in the middle of an insert could otherwise come back and commit an old offset over the new owner's.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use crate::worker::intent::Intent;
use crate::worker::partition::{CommitError, Partition, ReadError, Start};

/// See the module.
pub struct Ownership<C: ConsumerContext> {
    consumer: Arc<BaseConsumer<C>>,
    topic: String,
    partition: i32,
    is_held: Mutex<bool>,
}

const ASK_WITHIN: Duration = Duration::from_secs(5);

impl<C: ConsumerContext + 'static> Ownership<C> {
    /// The right to a partition that was just assigned.
    pub fn new(consumer: Arc<BaseConsumer<C>>, topic: &str, partition: i32) -> Self {
        Self { consumer, topic: topic.to_owned(), partition, is_held: Mutex::new(true) }
    }

    /// Gives the right up, for good. Waits for a commit that is on its way.
    pub fn lose(&self) {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl<C: ConsumerContext + 'static> Partition for Ownership<C> {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn number(&self) -> Option<i32> {
        Some(self.partition)
    }

    fn commit(&self, next: i64, metadata: &str) -> Result<(), CommitError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition, Offset::Offset(next))?;
        if let Some(mut element) = list.find_partition(&self.topic, self.partition) {
            element.set_metadata(metadata);
        }
        // Held while committing: giving the partition up waits for a commit that is on its way.
        let is_held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_held {
            return Err(CommitError::Lost);
        }
        Ok(self.consumer.commit(&list, CommitMode::Sync)?)
    }

    fn committed(&self) -> Result<Start, ReadError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition);
        let list = self.consumer.committed_offsets(list, ASK_WITHIN)?;
        let Some(element) = list.find_partition(&self.topic, self.partition) else { return Ok(Start::default()) };
        element.error()?;
        let Some(next) = element.offset().to_raw().filter(|offset| *offset >= 0) else { return Ok(Start::default()) };
        Ok(Start { next: Some(next), intent: Intent::read(next, element.metadata())? })
    }

    fn range(&self) -> Result<Range<i64>, ReadError> {
        let watermarks = self.consumer.fetch_watermarks(&self.topic, self.partition, ASK_WITHIN);
        Ok(watermarks.map(|(oldest, next)| oldest..next)?)
    }

    fn partitions(&self) -> Result<Option<i32>, ReadError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ASK_WITHIN)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.map_or(0, |topic| topic.partitions().len()) {
            0 => Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition).into()),
            partitions => Ok(Some(i32::try_from(partitions).unwrap_or(i32::MAX))),
        }
    }
}
