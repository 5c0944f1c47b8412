//! The lag of a consumer group per partition, from the brokers.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::Instant;

const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Where one partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// What the group has committed: everything before it is stored.
    pub committed: i64,
    /// The offset that the next record will have.
    pub end: i64,
}

/// Asks for the positions of a group in a topic. Does not join the group. `None` when the brokers do not answer.
pub async fn positions(bootstrap: &str, topic: &str, group: &str) -> Option<BTreeMap<i32, Position>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("log_level", "0");
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || ask(&config, &topic)).await.ok()?.ok()
}

fn ask(config: &ClientConfig, topic: &str) -> KafkaResult<BTreeMap<i32, Position>> {
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), ASK_WITHIN)?;
    let mut wanted = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        wanted.add_partition(topic, partition.id());
    }
    let mut positions = BTreeMap::new();
    for element in consumer.committed_offsets(wanted, ASK_WITHIN)?.elements() {
        let (low, end) = consumer.fetch_watermarks(topic, element.partition(), ASK_WITHIN)?;
        let committed = if let Offset::Offset(offset) = element.offset() { offset } else { low };
        positions.insert(element.partition(), Position { committed, end });
    }
    Ok(positions)
}

/// Watches how long partitions stand still although there is something to consume.
#[derive(Debug, Default)]
pub struct Silence {
    since: BTreeMap<i32, (i64, Instant)>,
    longest: BTreeMap<i32, Duration>,
    last: BTreeMap<i32, Position>,
}

impl Silence {
    /// Notes positions as of `now`.
    pub fn note(&mut self, positions: BTreeMap<i32, Position>, now: Instant) {
        for (&partition, position) in &positions {
            let (committed, since) = self.since.entry(partition).or_insert((position.committed, now));
            if self.last.get(&partition).is_some_and(|before| before.committed < before.end) {
                let longest = self.longest.entry(partition).or_default();
                *longest = (*longest).max(now.saturating_duration_since(*since));
            }
            if position.committed != *committed || position.committed >= position.end {
                (*committed, *since) = (position.committed, now);
            }
        }
        self.last = positions;
    }

    /// The longest silence of each partition.
    pub fn longest(&self) -> &BTreeMap<i32, Duration> {
        &self.longest
    }

    /// Partitions with something left to consume at the last look.
    pub fn behind(&self) -> Vec<i32> {
        self.last.iter().filter(|(_, at)| at.committed < at.end).map(|(&partition, _)| partition).collect()
    }

    /// Whether everything was consumed at the last look, and there was one.
    pub fn is_drained(&self) -> bool {
        !self.last.is_empty() && self.behind().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_partition_with_something_to_do_is_silent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let positions = |busy, end| {
            BTreeMap::from([(0, Position { committed: 5, end: 5 }), (1, Position { committed: busy, end })])
        };
        let mut silence = Silence::default();
        silence.note(positions(1, 9), at(0));
        silence.note(positions(1, 9), at(4));
        assert_eq!((silence.behind(), silence.is_drained()), (vec![1], false));
        silence.note(positions(9, 9), at(5));
        silence.note(positions(9, 9), at(60));
        assert!(silence.is_drained());
        assert_eq!(silence.longest(), &BTreeMap::from([(1, Duration::from_secs(5))]));
    }
}
