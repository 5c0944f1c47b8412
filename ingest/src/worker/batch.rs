//! Classifies the records of a partition and builds a batch of them, in order and without I/O.
//!
//! ```text
//! record -> decode -> is it in the replayed intent? is it erased? is its id known? -> kept | suppressed | duplicate | replayed | poison
//! ```

use bytes::Bytes;
use tallyhouse_control::privacy::suppressions::{Person, SuppressionSet};
use tallyhouse_schema::wire;
use tallyhouse_service::day_versions::DayChange;
use tokio::time::Instant;

use crate::batch::{Builder, Encoded, Source};
use crate::event_key::KeyHasher;
use crate::intent::{Intent, Skips};
use crate::limits::BatchLimits;
use crate::telemetry::ConsumedCounts;
use crate::window::Window;
use crate::worker::traced::Senders;

/// A record as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// Its place in the partition.
    pub offset: i64,
    /// When it was appended, in milliseconds since 1970.
    pub at: i64,
    /// `schema::wire`, if it is a record of ours.
    pub payload: &'a [u8],
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    pub offset: i64,
    /// When it was appended, in milliseconds since 1970.
    pub at: i64,
    /// Why it cannot be read: stable.
    pub code: &'static str,
    /// Why, for people. Holds nothing of the record.
    pub reason: String,
    /// The whole record.
    pub payload: Vec<u8>,
}

/// Kept records that cannot be decoded although the intent says that an earlier process could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} is in a batch that was begun, but cannot be decoded: was the batch begun by a newer version?")]
pub struct CannotReplay {
    /// Of the first record that cannot be decoded.
    pub offset: i64,
}

/// What a record is judged by.
pub struct RecordContext<'a> {
    /// The partition; `None`: the local log.
    pub partition: Option<i32>,
    pub hasher: &'a KeyHasher,
    /// Ids of earlier events; `None`: no record repeats another.
    pub window: Option<&'a mut Window>,
    /// The intent being replayed.
    pub replay: Option<&'a Intent>,
    /// Whose events are not stored any more.
    pub suppressions: &'a SuppressionSet,
    /// Now, by the steady clock.
    pub now: i64,
}

/// A batch being filled.
#[derive(Debug)]
pub struct Building {
    first: i64,
    last: i64,
    builder: Builder,
    skips: Skips,
    poison: Vec<Poison>,
    poison_bytes: usize,
    counts: ConsumedCounts,
    checksum: crc32fast::Hasher,
    /// Of each row.
    offsets: Vec<i64>,
    /// The version of suppressions that its first record was judged by.
    judged: u64,
    /// Rows of people who were erased.
    erased: Vec<usize>,
    opened: Instant,
}

/// Poison that a batch may hold, in bytes: it is inserted too.
const MAX_POISON_BYTES: usize = 4 << 20;

impl Building {
    pub fn new(first: i64, judged: u64) -> Self {
        Self {
            first,
            last: first,
            builder: Builder::default(),
            skips: Skips::default(),
            poison: Vec::new(),
            poison_bytes: 0,
            counts: ConsumedCounts::default(),
            checksum: crc32fast::Hasher::new(),
            offsets: Vec::new(),
            judged,
            erased: Vec::new(),
            opened: Instant::now(),
        }
    }

    /// Takes the next record. Its offset is larger than all before.
    pub fn take(&mut self, read: Read<'_>, context: &mut RecordContext<'_>) -> Result<(), CannotReplay> {
        self.last = read.offset;
        let must_keep = match context.replay {
            Some(intent) if !intent.keeps(read.offset) => {
                // Left out for a reason that was true then; if that was poison, the dead letter is written again, once.
                match wire::decode(read.payload) {
                    Ok(_) => self.skip(read.offset),
                    Err(error) => self.set_aside(read, error),
                }
                return Ok(());
            }
            Some(_) => true,
            None => false,
        };
        let record = match wire::decode(read.payload) {
            Ok(record) => record,
            Err(_) if must_keep => return Err(CannotReplay { offset: read.offset }),
            Err(error) => {
                self.set_aside(read, error);
                return Ok(());
            }
        };
        let event = &record.event;
        let person =
            Person { user_id: &event.user_id, anonymous_id: &event.anonymous_id, received_at: event.received_at };
        let is_erased = context.suppressions.covers(record.project, person);
        if is_erased && !must_keep {
            self.counts.suppressed += 1;
            self.skip(read.offset);
            return Ok(());
        }
        if let Some(window) = context.window.as_deref_mut() {
            let key = context.hasher.key(record.project, &record.event.event_id);
            if let Some(offset) = window.find(key).filter(|_| !must_keep) {
                let is_same = offset == read.offset;
                *if is_same { &mut self.counts.replayed } else { &mut self.counts.duplicates } += 1;
                self.skip(read.offset);
                return Ok(());
            }
            window.insert(key, read.offset, context.now);
        }
        if is_erased {
            // Rows keep their numbers, and the batch its token: whoever stores it leaves this one out.
            self.counts.suppressed += 1;
            self.erased.push(self.offsets.len());
        } else {
            self.counts.kept += 1;
        }
        self.checksum.update(read.payload);
        self.offsets.push(read.offset);
        match context.partition {
            Some(partition) => {
                let source = Source { partition, offset: read.offset };
                self.builder.push_from(source, record.project, &record.event);
            }
            None => self.builder.push(record.project, &record.event),
        }
        Ok(())
    }

    fn skip(&mut self, offset: i64) {
        self.skips.push(offset - self.first);
    }

    fn set_aside(&mut self, read: Read<'_>, error: wire::WireError) {
        self.counts.poison += 1;
        self.skip(read.offset);
        self.poison_bytes += read.payload.len();
        self.poison.push(Poison {
            offset: read.offset,
            at: read.at,
            code: error.code(),
            reason: error.to_string(),
            payload: read.payload.to_vec(),
        });
    }

    pub fn bytes(&self) -> usize {
        self.builder.bytes() + self.poison_bytes
    }

    /// Whether it must be closed before another record.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.builder.is_full(limits) || self.skips.is_full() || self.poison_bytes >= MAX_POISON_BYTES
    }

    /// The version of suppressions that its first record was judged by.
    pub fn judged(&self) -> u64 {
        self.judged
    }

    /// When it was begun.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Its last offset so far.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// What is inserted and committed. A repeated batch has the range of its intent, whatever is left of it.
    pub fn close(self, topic: &str, partition: Option<i32>, replay: Option<&Intent>) -> Closed {
        let Self { first, builder, skips, poison, counts, checksum, offsets, judged, erased, .. } = self;
        let last = replay.map_or(self.last, |intent| intent.last);
        let token = match partition {
            // Offsets alone would do, but for a topic that was deleted and made anew: its offsets start over, and its first
            // records must not be taken for those of the old one.
            Some(partition) => format!("{topic}-{partition}-{first}-{last}-{:08x}", checksum.finalize()),
            // Damage may take records of a range between two attempts. What an attempt has stored must not be stored again.
            None => format!("{topic}-{first}-{last}"),
        };
        let Encoded { rows, chunks, days, oldest_ms } = builder.finish();
        Closed {
            first,
            last,
            token,
            rows,
            chunks,
            days,
            oldest_ms,
            offsets,
            skips,
            poison,
            begun: replay.map(|intent| intent.at),
            shard: replay.map(|intent| intent.shard),
            judged,
            erased,
            counts,
            senders: Senders::default(),
        }
    }
}

/// A batch that no longer changes.
#[derive(Debug)]
pub struct Closed {
    pub first: i64,
    pub last: i64,
    /// `topic-partition-first-last-checksum`; of the local log without partition and checksum.
    pub token: String,
    /// Events in it.
    pub rows: usize,
    /// One Native block.
    pub chunks: Vec<Bytes>,
    /// The days that its events fall on.
    pub days: Vec<DayChange>,
    /// When the first of its events was received, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Of its rows.
    pub offsets: Vec<i64>,
    /// Offsets that are not in it.
    pub skips: Skips,
    /// Records that could not be read.
    pub poison: Vec<Poison>,
    /// When an earlier process began it, in milliseconds since 1970: it may have made dead letters of some of its events.
    pub begun: Option<i64>,
    /// The shard that it was begun on by an earlier process.
    pub shard: Option<u32>,
    /// The version of suppressions that it was judged by.
    pub judged: u64,
    /// Rows that are not to be stored: the batch was begun before these people were erased, and its token is that of all rows.
    pub erased: Vec<usize>,
    /// How many records were what.
    pub counts: ConsumedCounts,
    /// Traces of its records.
    pub senders: Senders,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallyhouse_schema::Event;

    use super::*;

    fn event(id: &str) -> Event<'_> {
        Event {
            event_id: id.into(),
            event_type: "a".into(),
            ts: 1,
            original_ts: 1,
            received_at: 1,
            retention_days: 30,
            ..Event::default()
        }
    }

    fn record(id: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode("p", &event(id), &mut bytes);
        bytes
    }

    struct TestPartition {
        hasher: KeyHasher,
        window: Window,
        suppressions: SuppressionSet,
    }

    impl TestPartition {
        fn new() -> Self {
            Self {
                hasher: KeyHasher::random(),
                window: Window::new(Duration::from_secs(3_600), 1_000),
                suppressions: SuppressionSet::default(),
            }
        }

        fn build(&mut self, first: i64, ids: &[&str], replay: Option<&Intent>) -> Result<Closed, CannotReplay> {
            let mut building = Building::new(first, 0);
            for (offset, id) in (first..).zip(ids) {
                let payload = if *id == "?" { b"poison".to_vec() } else { record(id) };
                let mut context = RecordContext {
                    partition: Some(3),
                    hasher: &self.hasher,
                    window: Some(&mut self.window),
                    replay,
                    suppressions: &self.suppressions,
                    now: 1,
                };
                building.take(Read { offset, at: 1, payload: &payload }, &mut context)?;
            }
            Ok(building.close("t", Some(3), replay))
        }
    }

    #[test]
    fn records_are_told_apart() {
        let mut partition = TestPartition::new();
        let first = partition.build(10, &["a", "b", "a", "?"], None).unwrap();
        assert_eq!(first.counts, ConsumedCounts { kept: 2, duplicates: 1, poison: 1, ..ConsumedCounts::default() });
        assert_eq!(
            (first.rows, first.last, first.poison[0].offset, first.poison[0].code),
            (2, 13, 13, "unknown_version")
        );
        // The offset went back, and then an old id comes under a new offset.
        let again = partition.build(10, &["a", "c", "a"], None).unwrap();
        assert_eq!(again.counts, ConsumedCounts { kept: 1, duplicates: 1, replayed: 1, ..ConsumedCounts::default() });
    }

    #[test]
    fn an_intent_makes_the_same_batch_whatever_is_known() {
        let ids = ["a", "b", "a", "?", "c"];
        let before = TestPartition::new().build(10, &ids, None).unwrap();
        let intent = Intent::read(10, &Intent::metadata(10..=before.last, 1, 1, before.skips)).unwrap().unwrap();
        // A window that knows nothing, and one that knows everything because the insert had been carried out.
        for warmed in [&[][..], &ids[..]] {
            let mut partition = TestPartition::new();
            for (offset, id) in (10..).zip(warmed) {
                partition.window.insert(partition.hasher.key("p", id), offset, 1);
            }
            let again = partition.build(10, &ids, Some(&intent)).unwrap();
            assert_eq!((&again.token, again.rows, &again.chunks), (&before.token, before.rows, &before.chunks));
            assert_eq!(again.poison.len(), 1);
            // Ids of the replayed range are known afterwards.
            assert_eq!(partition.build(15, &["c"], None).unwrap().counts.duplicates, 1);
        }
    }

    #[test]
    fn what_is_erased_is_not_in_a_batch_and_is_named_in_one_that_was_begun_before() {
        use tallyhouse_control::privacy::suppressions::{EVERYBODY, Suppression};
        use tallyhouse_schema::user_hash::UserHasher;
        let erased = |before| {
            let suppression = Suppression { project: "p".into(), hash: EVERYBODY, before };
            SuppressionSet::new(2, [suppression], |_| UserHasher::new([1; 16]))
        };
        // Received at 1.
        let mut partition = TestPartition { suppressions: erased(2), ..TestPartition::new() };
        let closed = partition.build(10, &["a", "b"], None).unwrap();
        assert_eq!((closed.rows, closed.erased), (0, Vec::new()));
        assert_eq!(closed.counts, ConsumedCounts { suppressed: 2, ..ConsumedCounts::default() });
        let mut partition = TestPartition { suppressions: erased(1), ..TestPartition::new() };
        assert_eq!(partition.build(10, &["a"], None).unwrap().rows, 1, "it came afterwards");
        let before = TestPartition::new().build(10, &["a", "b"], None).unwrap();
        let intent = Intent::read(10, &Intent::metadata(10..=before.last, 1, 1, before.skips)).unwrap().unwrap();
        let mut partition = TestPartition { suppressions: erased(2), ..TestPartition::new() };
        let again = partition.build(10, &["a", "b"], Some(&intent)).unwrap();
        assert_eq!((&again.token, &again.chunks, again.erased), (&before.token, &before.chunks, vec![0, 1]));
        assert_eq!(again.counts, ConsumedCounts { suppressed: 2, ..ConsumedCounts::default() });
    }

    #[test]
    fn a_begun_batch_that_cannot_be_decoded_is_not_sent_with_less_in_it() {
        let intent = Intent::read(1, &Intent::metadata(1..=2, 1, 1, Skips::default())).unwrap().unwrap();
        assert_eq!(TestPartition::new().build(1, &["a", "?"], Some(&intent)).unwrap_err(), CannotReplay { offset: 2 });
    }

    #[test]
    fn a_batch_is_full_of_partitions() {
        let limits = crate::config::Config::from_env(&std::collections::BTreeMap::new()).unwrap().batch;
        let (mut partition, mut building) = (TestPartition::new(), Building::new(0, 0));
        for offset in 0..212 {
            assert!(!building.is_full(limits), "{offset}");
            let id = offset.to_string();
            let week = Event { ts: offset * 7 * 86_400_000, ..event(&id) };
            let mut payload = Vec::new();
            wire::encode("p", &week, &mut payload);
            let mut context = RecordContext {
                partition: Some(3),
                hasher: &partition.hasher,
                window: Some(&mut partition.window),
                replay: None,
                suppressions: &partition.suppressions,
                now: 1,
            };
            building.take(Read { offset, at: 1, payload: &payload }, &mut context).unwrap();
        }
        assert!(building.is_full(limits));
    }

    #[test]
    fn a_topic_made_anew_gives_other_tokens() {
        let token = |id| TestPartition::new().build(0, &[id], None).unwrap().token;
        assert_eq!(token("a"), token("a"));
        assert_ne!(token("a"), token("b"));
    }
}
