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

use super::intent::{Intent, NotAnIntent};

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The partition is somebody else's now.
    #[error("the partition was given up")]
    Lost,
    /// Kafka refused or did not answer.
    #[error("{0}")]
    Kafka(#[from] KafkaError),
}

impl CommitError {
    /// What the broker said, for metrics.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Lost => None,
            Self::Kafka(error) => error.rdkafka_error_code(),
        }
    }

    /// Whether the same commit may succeed later while the partition is ours. A member that the group has put out learns it
    /// from the rebalance that follows, so until then trying again is right - and fails. For a topic that is gone it would
    /// be wrong: another one of that name may come, and its first records would count as consumed.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Lost)
            && !matches!(self.code(), Some(Code::OffsetMetadataTooLarge | Code::UnknownTopicOrPartition))
    }
}

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

    /// Topic and partition.
    pub fn place(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }

    /// Commits. Blocking.
    pub fn commit(&self, next: i64, metadata: &str) -> Result<(), CommitError> {
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

    /// What is committed: the next offset, and an intent if one was written. Blocking.
    pub fn committed(&self) -> Result<Start, ReadError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition);
        let list = self.consumer.committed_offsets(list, ASK_WITHIN)?;
        let Some(element) = list.find_partition(&self.topic, self.partition) else { return Ok(Start::default()) };
        element.error()?;
        let Some(next) = element.offset().to_raw().filter(|offset| *offset >= 0) else { return Ok(Start::default()) };
        Ok(Start { next: Some(next), intent: Intent::read(next, element.metadata())? })
    }

    /// The offsets that the log has. Blocking.
    pub fn range(&self) -> Result<Range<i64>, KafkaError> {
        self.consumer.fetch_watermarks(&self.topic, self.partition, ASK_WITHIN).map(|(oldest, next)| oldest..next)
    }

    /// How many partitions the topic has: one at least. Blocking.
    pub fn partitions(&self) -> Result<i32, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ASK_WITHIN)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.map_or(0, |topic| topic.partitions().len()) {
            0 => Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition)),
            partitions => Ok(i32::try_from(partitions).unwrap_or(i32::MAX)),
        }
    }

    /// Gives the right up, for good. Waits for a commit that is on its way.
    pub fn lose(&self) {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Asks Kafka on a thread that may wait.
pub async fn blocking<C, T, E>(ownership: &Arc<Ownership<C>>, ask: fn(&Ownership<C>) -> Result<T, E>) -> Result<T, E>
where
    C: ConsumerContext + 'static,
    T: Send + 'static,
    E: From<KafkaError> + Send + 'static,
{
    let ownership = Arc::clone(ownership);
    let asked = tokio::task::spawn_blocking(move || ask(&ownership)).await;
    // A panic in there is a fault of ours; whoever asked tries again.
    asked.unwrap_or_else(|_| Err(KafkaError::Canceled.into()))
}

/// Where a lane begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The committed offset; `None`: nothing was ever committed.
    pub next: Option<i64>,
    /// What was being inserted there.
    pub intent: Option<Intent>,
}

/// Why it is not known where to begin.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka refused or did not answer.
    #[error("{0}")]
    Kafka(#[from] KafkaError),
    /// Written by somebody else. Guessing could count twice, so the lane waits for a person.
    #[error("{0}")]
    NotAnIntent(#[from] NotAnIntent),
}
