//! The parts shared by the consumer and its partition workers.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::LEAVE_WITHIN;
use super::pins::Pins;
use super::settings::Brokers;
use super::topics::TopicRules;
use crate::store::Store;
use crate::worker::Common;

/// What a consumer is made of.
#[derive(Clone)]
pub struct ConsumerParts {
    /// Where Kafka is.
    pub brokers: Brokers,
    pub group: String,
    /// Over how many partitions events are spread.
    pub pins: Arc<Pins>,
    /// What it reads.
    pub rules: TopicRules,
    pub store: Store,
    pub common: Arc<Common>,
    /// How long a rebalance, or the end, waits for batches on their way.
    pub drain: Duration,
    /// How long all of a stop may take.
    pub stop_within: Duration,
}

impl ConsumerParts {
    /// How long a stop waits for batches on their way: the group has to be left, too.
    pub(super) fn drain_at_stop(&self) -> Duration {
        self.drain.min(self.stop_within.saturating_sub(LEAVE_WITHIN))
    }
}
