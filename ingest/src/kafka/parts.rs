//! The parts shared by the consumer and its partition workers.

use std::sync::Arc;
use std::time::Duration;

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
}
