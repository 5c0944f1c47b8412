//! What a backup notes of Kafka, and how consumers are brought back to it after a restore.
//!
//! ```text
//! backup    committed: the first offset of each partition that may not be stored -> ClickHouse's tables
//! restore   the tables -> go_back: the group is committed there, without an intent
//! start     a worker reads from there on; what the tables have already is known by id and offset, and skipped
//! ```
//!
//! A batch that was being inserted is before no committed offset, so whatever of it the tables have or lack comes again.
//!
//! Failure cases:
//! * consumers run: they would write over the offsets, and are named;
//! * Kafka has removed records since: the group goes to the first that is there, and the caller says how many are missing;
//! * partitions that were added since: they are read from their beginning;
//! * a topic that ends before what was noted: it was made anew, is that of another Kafka, or a broker lost its end. It is read from shortly before the
//!   backup on, by the time of its records, and the caller says so: one that was made anew has no older ones, and of others the tables have them;
//! * a topic that is gone: the caller says so;
//! * a backup that was made without Kafka: refused, else everything that Kafka has would be read again, and what is older than the deduplication
//!   window be counted twice.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::settings::Brokers;
use super::topics::TopicRules;

const ASK_WITHIN: Duration = Duration::from_secs(10);

/// The session of a consumer ([`Brokers::consumer`]), and a moment.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// How much older than the backup records may be that it has not: as long as a producer tries, and clocks differ. Less than the shortest
/// deduplication window, which knows the ids of those that it has.
const OLDER_BY_MS: i64 = 1_800_000;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A partition, and the first offset of it that may not be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    pub topic: String,
    pub partition: i32,
    pub next: i64,
}

/// Where a partition was brought back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    pub position: PartitionPosition,
    /// Records that Kafka no longer has.
    pub missing: i64,
    /// Records that come again.
    pub replayed: i64,
    /// It ends before what was noted, so its offsets are others: it is read by time.
    pub is_anew: bool,
}

/// Why the group is where it was.
#[derive(Debug, thiserror::Error)]
pub enum GoBackError {
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// They would commit over it.
    #[error("the group {group} has {members} members: stop all consumers first")]
    InUse {
        group: String,
        /// How many are in it.
        members: usize,
    },
    #[error("there is no topic {0}")]
    NoTopic(String),
    /// Where to go back to is not known.
    #[error(
        "the backup was made without KAFKA_BROKERS and does not say where to read on: restore it without KAFKA_BROKERS"
    )]
    NoPositions,
}

/// Where the group stands, in all topics that hold events. Blocking.
pub fn committed(brokers: &Brokers, group: &str, rules: &TopicRules) -> Result<Vec<PartitionPosition>, KafkaError> {
    let reader: BaseConsumer = brokers.observer(group).create()?;
    let mut positions = Vec::new();
    for (topic, partitions) in topics(&reader, rules)? {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&topic, 0, partitions - 1);
        for element in reader.committed_offsets(list, ASK_WITHIN)?.elements() {
            element.error()?;
            let partition = element.partition();
            let next = match element.offset().to_raw().filter(|offset| *offset >= 0) {
                Some(next) => next,
                // Nobody has read it.
                None => reader.fetch_watermarks(&topic, partition, ASK_WITHIN)?.0,
            };
            positions.push(PartitionPosition { topic: topic.clone(), partition, next });
        }
    }
    Ok(positions)
}

/// Topics of events, each with its number of partitions.
fn topics(reader: &BaseConsumer, rules: &TopicRules) -> Result<Vec<(String, i32)>, KafkaError> {
    let metadata = reader.fetch_metadata(None, ASK_WITHIN)?;
    let is_ours = |name: &str| name == rules.shared || (!rules.own.is_empty() && rules.project_of(name).is_some());
    let count = |partitions: usize| i32::try_from(partitions).unwrap_or(i32::MAX);
    let found = metadata.topics().iter().filter(|topic| is_ours(topic.name()) && !topic.partitions().is_empty());
    Ok(found.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect())
}

/// Fails when the group could not be brought back to these positions: before anything else is restored. Blocking.
pub fn check(brokers: &Brokers, group: &str, rules: &TopicRules, to: &[PartitionPosition]) -> Result<(), GoBackError> {
    refuse_members(brokers, group)?;
    let reader: BaseConsumer = brokers.observer(group).create()?;
    require_known(&topics(&reader, rules)?, to)
}

fn require_known(topics: &[(String, i32)], to: &[PartitionPosition]) -> Result<(), GoBackError> {
    if to.is_empty() && !topics.is_empty() {
        return Err(GoBackError::NoPositions);
    }
    match to.iter().find(|position| topics.iter().all(|(topic, _)| *topic != position.topic)) {
        Some(gone) => Err(GoBackError::NoTopic(gone.topic.clone())),
        None => Ok(()),
    }
}

/// Where a partition is read on that has these records, and what was noted of it. `by_time`: its first offset since shortly before the backup.
fn returned(
    topic: &str,
    partition: i32,
    noted: Option<i64>,
    (first, end): (i64, i64),
    by_time: impl FnOnce() -> Result<i64, KafkaError>,
) -> Result<Returned, KafkaError> {
    let is_anew = noted.is_some_and(|noted| noted > end);
    let wanted = match noted {
        Some(_) if is_anew => by_time()?.clamp(first, end),
        Some(noted) => noted,
        None => first,
    };
    let next = wanted.max(first);
    let position = PartitionPosition { topic: topic.to_owned(), partition, next };
    Ok(Returned { position, missing: next - wanted, replayed: end - next, is_anew })
}

/// The first offset whose record is not older than a time, in milliseconds since 1970; `end` when all are.
fn first_since(reader: &BaseConsumer, topic: &str, partition: i32, since: i64, end: i64) -> Result<i64, KafkaError> {
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, partition, Offset::Offset(since))?;
    let found = reader.offsets_for_times(times, ASK_WITHIN)?;
    let Some(element) = found.find_partition(topic, partition) else { return Ok(end) };
    element.error()?;
    Ok(element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(end))
}

/// Fails when somebody still reads as the group after the time in which Kafka notices that a consumer was killed. Blocking.
fn refuse_members(brokers: &Brokers, group: &str) -> Result<(), GoBackError> {
    let reader: BaseConsumer = brokers.observer(group).create()?;
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let groups = reader.fetch_group_list(Some(group), ASK_WITHIN)?;
        match groups.groups().iter().map(|group| group.members().len()).sum() {
            0 => return Ok(()),
            members if Instant::now() >= deadline => {
                return Err(GoBackError::InUse { group: group.to_owned(), members });
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Commits the group to these positions, so that its consumers read from there on. `as_of_ms`: the time of the backup. Blocking.
pub fn go_back(
    brokers: &Brokers,
    group: &str,
    rules: &TopicRules,
    to: &[PartitionPosition],
    as_of_ms: i64,
) -> Result<Vec<Returned>, GoBackError> {
    refuse_members(brokers, group)?;
    let reader: BaseConsumer = brokers.observer(group).create()?;
    let topics = topics(&reader, rules)?;
    require_known(&topics, to)?;
    let (mut list, mut returned) = (TopicPartitionList::new(), Vec::new());
    for (topic, partitions) in topics {
        for partition in 0..partitions {
            let noted = to.iter().find(|noted| noted.topic == topic && noted.partition == partition);
            let watermarks = reader.fetch_watermarks(&topic, partition, ASK_WITHIN)?;
            let by_time = || first_since(&reader, &topic, partition, as_of_ms - OLDER_BY_MS, watermarks.1);
            let back = self::returned(&topic, partition, noted.map(|noted| noted.next), watermarks, by_time)?;
            list.add_partition_offset(&topic, partition, Offset::Offset(back.position.next))?;
            returned.push(back);
        }
    }
    if list.count() > 0 {
        reader.commit(&list, CommitMode::Sync)?;
    }
    Ok(returned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_goes_back_to_what_was_noted_or_to_its_beginning() {
        let back_by_time = |noted, watermarks, since| {
            let Returned { position, missing, replayed, is_anew } =
                returned("t", 0, noted, watermarks, || Ok(since)).unwrap();
            (position.next, missing, replayed, is_anew)
        };
        let back = |noted, watermarks| back_by_time(noted, watermarks, 0);
        assert_eq!(back(Some(7), (5, 9)), (7, 0, 2, false));
        assert_eq!(back(Some(9), (5, 9)), (9, 0, 0, false));
        assert_eq!(back(Some(3), (5, 9)), (5, 2, 4, false), "Kafka has removed two");
        assert_eq!(back(None, (5, 9)), (5, 0, 4, false), "added since");
        assert_eq!(back(Some(10), (0, 4)), (0, 0, 4, true), "made anew");
        assert_eq!(
            back_by_time(Some(10), (0, 4), 3),
            (3, 0, 1, true),
            "another Kafka, with records of before the backup"
        );
        assert_eq!(back_by_time(Some(10), (2, 4), 4), (4, 0, 0, true), "all are of before");
    }

    #[test]
    fn positions_have_to_be_known_of_topics_that_are_there() {
        let topics = [("t".to_owned(), 1)];
        let at = |topic: &str| [PartitionPosition { topic: topic.to_owned(), partition: 0, next: 1 }];
        assert!(require_known(&topics, &at("t")).is_ok() && require_known(&[], &[]).is_ok());
        assert!(matches!(require_known(&topics, &[]), Err(GoBackError::NoPositions)));
        assert!(matches!(require_known(&topics, &at("u")), Err(GoBackError::NoTopic(topic)) if topic == "u"));
    }
}
