//! The interface of a worker to a partition of a log.

use std::io;
use std::ops::Range;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::intent::{Intent, NotAnIntent};
use crate::poison::RefusedEvent;

/// Where a worker begins, what it commits, and what it reports as stored. Its calls block, unless they are futures.
pub trait Partition: Send + Sync + 'static {
    /// The topic: with the number, what no other partition's batches have in their tokens.
    fn topic(&self) -> &str;

    /// The number of the partition; `None` in the local log, which has only one.
    fn number(&self) -> Option<i32>;

    /// Commits the offset to go on with, and maybe an intent.
    fn commit(&self, next: i64, metadata: &str) -> Result<(), CommitError>;

    /// What is committed.
    fn committed(&self) -> Result<Start, ReadError>;

    /// The offsets that the log has.
    fn range(&self) -> Result<Range<i64>, ReadError>;

    /// Over how many partitions the topic's events are spread. `None`: duplicates were found before they were appended, and the worker needs no window.
    fn partitions(&self) -> Result<Option<i32>, ReadError>;

    /// Reads again from where the log was cut off. When nobody knows that, from the first record that is not older than a time, in
    /// milliseconds since 1970. Returns the offset.
    fn go_back(&self, _since: i64) -> Result<i64, ReadError> {
        Ok(i64::MIN)
    }

    /// Records before `next` are stored, but for some that are dead letters. It is not committed yet.
    fn stored(&self, _next: i64, _refused: &[RefusedRecord]) {}

    /// Records before it may be stored under other tokens than those that they get now: the days of their batches are compared.
    fn stored_before(&self) -> i64 {
        i64::MIN
    }

    /// The largest offset whose insert somebody waits for; `i64::MAX` when all that is there is to be stored, because the process ends.
    fn wanted(&self) -> i64 {
        i64::MIN
    }

    /// Ends when somebody begins to wait for an insert.
    fn hurried(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// A record of which ClickHouse refuses the event: that one, and not another of the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    pub offset: i64,
    /// What it holds, and why it is refused.
    pub event: RefusedEvent,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The partition is somebody else's now.
    #[error("the partition was given up")]
    Lost,
    /// Kafka refused or did not answer.
    #[error("{0}")]
    Kafka(#[from] KafkaError),
    /// The disk did not take it.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl CommitError {
    /// What the broker said, for metrics.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Lost | Self::Disk(_) => None,
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

/// Where a worker begins.
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
    /// Written by somebody else. Guessing could count twice, so the worker waits for a person.
    #[error("{0}")]
    NotAnIntent(#[from] NotAnIntent),
    /// The call ended by itself.
    #[error("the call was cut off")]
    CutOff,
}
