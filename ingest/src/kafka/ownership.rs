//! The right to commit for a partition: held by its worker until the rebalance takes it away, and never afterwards.
//!
//! The broker fences members that left the group, but not a member that lost one partition and kept others. A worker that was
//! given up in the middle of an insert could otherwise come back and commit an old offset over the new owner's.
//!
//! A commit has no deadline in librdkafka: when the broker ends before it answers, the call returns only when there is a coordinator again. So
//! nothing waits for it without a bound. Giving a partition up waits a moment for the commit that is on its way, and leaves it then: what was
//! sent carries the generation of before, which the broker refuses once somebody else has the partition, and the same commit is not begun anew.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::pins::Pins;
use crate::intent::Intent;
use crate::worker::partition::{CommitError, Partition, ReadError, Start};

pub struct Ownership<C: ConsumerContext> {
    consumer: Arc<BaseConsumer<C>>,
    pins: Arc<Pins>,
    /// Of a client that reads what the group has committed.
    observer: ClientConfig,
    topic: String,
    partition: i32,
    right: Mutex<Right>,
    /// A commit has ended.
    ended: Condvar,
}

/// The right to commit.
#[derive(Debug, Clone, Copy)]
struct Right {
    is_held: bool,
    is_committing: bool,
}

const ASK_WITHIN: Duration = Duration::from_secs(5);

impl<C: ConsumerContext + 'static> Ownership<C> {
    /// The right to a partition that was just assigned.
    pub fn new(
        consumer: Arc<BaseConsumer<C>>,
        pins: Arc<Pins>,
        observer: ClientConfig,
        topic: &str,
        partition: i32,
    ) -> Self {
        Self {
            consumer,
            pins,
            observer,
            topic: topic.to_owned(),
            partition,
            right: Mutex::new(Right { is_held: true, is_committing: false }),
            ended: Condvar::new(),
        }
    }

    /// Where the log was cut off, if the committed offset has an epoch by which Kafka knows. A client of its own begins at that offset:
    /// the consumer itself may have begun with the first record before it was asked.
    fn cut(&self) -> Result<Option<i64>, ReadError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition, Offset::End)?;
        let probe: BaseConsumer = self.observer.clone().set("auto.offset.reset", "earliest").create()?;
        probe.assign(&list)?;
        let committed = probe.committed_offsets(list, ASK_WITHIN)?;
        let deadline = Instant::now() + ASK_WITHIN;
        while probe
            .seek_partitions(committed.clone(), ASK_WITHIN)?
            .elements()
            .iter()
            .any(|element| element.error().is_err())
        {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let first = probe.poll(ASK_WITHIN).transpose()?.map(|message| message.offset());
        let range = self.range()?;
        // Without an epoch it begins with the first record, too.
        Ok(Some(first.unwrap_or(range.end)).filter(|first| *first > range.start))
    }

    /// Gives the right up, for good. Waits for a commit that is on its way, at most so long; false when it is still on its way.
    pub fn lose(&self, within: Duration) -> bool {
        let mut right = self.right();
        right.is_held = false;
        let waited = self.ended.wait_timeout_while(right, within, |right| right.is_committing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn right(&self) -> MutexGuard<'_, Right> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
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
        // With the leader's epoch in it, by which Kafka tells whether the log still has what came before this offset.
        let list = self.consumer.position()?;
        for mut element in list.elements() {
            let is_ours = element.topic() == self.topic && element.partition() == self.partition;
            element.set_offset(if is_ours { Offset::Offset(next) } else { Offset::Invalid })?;
            if is_ours {
                element.set_metadata(metadata);
            }
        }
        if list.find_partition(&self.topic, self.partition).is_none() {
            return Err(CommitError::Lost);
        }
        {
            let mut right = self.right();
            if !right.is_held {
                return Err(CommitError::Lost);
            }
            right.is_committing = true;
        }
        let committed = self.consumer.commit(&list, CommitMode::Sync);
        let mut right = self.right();
        right.is_committing = false;
        self.ended.notify_all();
        match committed {
            Ok(()) => Ok(()),
            // Not to be tried again.
            Err(_) if !right.is_held => Err(CommitError::Lost),
            Err(error) => Err(error.into()),
        }
    }

    fn committed(&self) -> Result<Start, ReadError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition);
        let list = self.consumer.committed_offsets(list, ASK_WITHIN)?;
        let Some(element) = list.find_partition(&self.topic, self.partition) else { return Ok(Start::default()) };
        element.error()?;
        let Some(next) = element.offset().to_raw().filter(|offset| *offset >= 0) else { return Ok(Start::default()) };
        // Kafka compares the epoch only when it is asked to begin at an offset. When the log was cut off it begins at the cut.
        let sought = self.consumer.seek_partitions(list.clone(), ASK_WITHIN)?;
        sought.find_partition(&self.topic, self.partition).map_or(Ok(()), |element| element.error())?;
        let intent = Intent::read(next, element.metadata())?;
        if intent.is_none() && !element.metadata().is_empty() {
            let (topic, partition) = (&self.topic, self.partition);
            tracing::info!(
                topic,
                partition,
                next,
                "the committed offset was translated from another cluster: what is stored is known by its ids"
            );
        }
        Ok(Start { next: Some(next), intent })
    }

    fn range(&self) -> Result<Range<i64>, ReadError> {
        let watermarks = self.consumer.fetch_watermarks(&self.topic, self.partition, ASK_WITHIN);
        Ok(watermarks.map(|(oldest, next)| oldest..next)?)
    }

    fn go_back(&self, since: i64) -> Result<i64, ReadError> {
        if let Some(cut) = self.cut()? {
            self.consumer.seek(&self.topic, self.partition, Offset::Offset(cut), ASK_WITHIN)?;
            return Ok(cut);
        }
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(&self.topic, self.partition, Offset::Offset(since))?;
        let found = self.consumer.offsets_for_times(times, ASK_WITHIN)?;
        let found = found.find_partition(&self.topic, self.partition).map(|element| element.offset());
        let offset = match found {
            Some(Offset::Offset(offset)) => offset,
            // All are older.
            _ => self.range()?.end,
        };
        self.consumer.seek(&self.topic, self.partition, Offset::Offset(offset), ASK_WITHIN)?;
        Ok(offset)
    }

    fn partitions(&self) -> Result<Option<i32>, ReadError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ASK_WITHIN)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.map_or(0, |topic| topic.partitions().len()) {
            0 => Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition).into()),
            there => Ok(Some(self.pins.of(&self.topic, i32::try_from(there).unwrap_or(i32::MAX))?)),
        }
    }
}
