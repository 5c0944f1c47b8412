//! Fills the next batch of a partition worker: which records are classified, and when the batch must be closed. No I/O.

use std::sync::{Arc, Mutex};

use tallyhouse_control::privacy::suppressions::SuppressionSet;
use tokio::time::Instant;

use super::batch::{Building, CannotReplay, Closed, Read, RecordContext};
use super::position::{Jump, Position, Step};
use super::traced::Senders;
use crate::event_key::KeyHasher;
use crate::intent::Intent;
use crate::limits::BatchLimits;
use crate::window::{Window, locked};

/// Records of one partition, in order, in one buffer.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Payloads, one after the other.
    pub bytes: Vec<u8>,
    /// Offset, time of appending and end of each payload.
    pub records: Vec<(i64, i64, usize)>,
    /// Records before it that did not come in chunks up to this one are lost; 0: that is not known.
    pub until: i64,
    /// Traces of records that are recorded.
    pub senders: Senders,
}

impl Chunk {
    /// Appends a record.
    pub fn push(&mut self, read: Read<'_>) {
        self.bytes.extend_from_slice(read.payload);
        self.records.push((read.offset, read.at, self.bytes.len()));
    }

    fn get(&self, index: usize) -> Option<Read<'_>> {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.records.get(before).map(|record| record.2))?;
        let (offset, at, end) = *self.records.get(index)?;
        Some(Read { offset, at, payload: self.bytes.get(start..end)? })
    }
}

/// What records are judged by, beside the window.
pub struct Judge<'a> {
    /// The partition; `None`: the local log.
    pub partition: Option<i32>,
    pub hasher: &'a KeyHasher,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Whose events are not stored any more.
    pub suppressions: &'a SuppressionSet,
    /// Now, by the steady clock.
    pub now: i64,
}

/// Records that are judged at once, before the task yields.
const SLICE: usize = 2_048;

pub struct Filling {
    /// Ids of this partition; `None`: no record repeats another.
    pub window: Option<Arc<Mutex<Window>>>,
    /// Where in the log it is.
    pub position: Position,
    jump: Option<Jump>,
    replay: Option<Intent>,
    building: Option<Building>,
    chunk: Chunk,
    cursor: usize,
    freed: usize,
    must_close: bool,
    senders: Senders,
}

impl Filling {
    /// Nothing yet; `replay` is the first batch, if there is one to be repeated.
    pub fn new(window: Option<Arc<Mutex<Window>>>, replay: Option<Intent>, position: Position) -> Self {
        Self {
            window,
            position,
            jump: None,
            replay,
            building: None,
            chunk: Chunk::default(),
            cursor: 0,
            freed: 0,
            must_close: false,
            senders: Senders::default(),
        }
    }

    /// Takes a chunk, when it [`Filling::wants_chunk`].
    pub fn begin(&mut self, mut chunk: Chunk) {
        self.senders.extend(std::mem::take(&mut chunk.senders));
        self.chunk = chunk;
        self.cursor = 0;
    }

    /// Whether the chunk before is through and the batch takes more.
    pub fn wants_chunk(&self, limits: BatchLimits) -> bool {
        self.cursor >= self.chunk.records.len() && !self.is_full(limits)
    }

    /// Bytes of the batch so far.
    pub fn bytes(&self) -> usize {
        self.building.as_ref().map_or(0, Building::bytes)
    }

    /// The version of suppressions that the batch was judged by.
    pub fn judged(&self) -> Option<u64> {
        self.building.as_ref().map(Building::judged)
    }

    /// Whether the batch must be closed before another record. A replayed batch is as large as it was.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        let is_full = |building: &Building| self.replay.is_none() && building.is_full(limits);
        self.must_close || self.building.as_ref().is_some_and(is_full)
    }

    /// When the batch should be inserted; `None` while there is none, or while a replayed one is not complete.
    pub fn due(&self, limits: BatchLimits) -> Option<Instant> {
        let building = self.building.as_ref()?;
        if self.is_full(limits) {
            return Some(building.opened());
        }
        self.replay.is_none().then(|| building.opened() + limits.linger)
    }

    /// The shard of a batch that is being repeated.
    pub fn shard(&self) -> Option<u32> {
        self.replay.as_ref().map(|intent| intent.shard)
    }

    /// Bytes of chunks that are through, once.
    pub fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Bytes of chunks that [`Self::take_freed`] has not told.
    pub fn held(&self) -> usize {
        self.freed + self.chunk.bytes.len()
    }

    /// Judges records until the batch is full, the chunk is through or others should have the thread. Whether more could be
    /// judged at once.
    pub fn judge(&mut self, judge: &Judge<'_>) -> Result<bool, CannotReplay> {
        let shared = self.window.clone();
        let mut window = shared.as_deref().map(locked);
        for _ in 0..SLICE {
            if self.is_full(judge.limits) {
                return Ok(false);
            }
            let Some(read) = self.chunk.get(self.cursor) else {
                self.end_replay(self.chunk.until);
                self.freed += std::mem::take(&mut self.chunk).bytes.len();
                self.cursor = 0;
                return Ok(false);
            };
            match self.position.step(read.offset) {
                Step::Judge => {}
                Step::Skip => {
                    self.cursor += 1;
                    continue;
                }
                Step::Jump(jump) => {
                    self.jump = Some(jump);
                    return Ok(false);
                }
            }
            if self.ends_before(read.offset) {
                self.must_close = true;
                return Ok(false);
            }
            if self.replay.as_ref().is_some_and(|intent| !(intent.first..=intent.last).contains(&read.offset)) {
                // The offset was set elsewhere: what the intent says is no longer asked for.
                self.replay = None;
            }
            let mut context = RecordContext {
                partition: judge.partition,
                hasher: judge.hasher,
                window: window.as_deref_mut(),
                replay: self.replay.as_ref(),
                suppressions: judge.suppressions,
                now: judge.now,
            };
            let first = context.replay.map_or(read.offset, |intent| intent.first);
            let judged = judge.suppressions.version();
            self.building.get_or_insert_with(|| Building::new(first, judged)).take(read, &mut context)?;
            self.cursor += 1;
            self.position.taken(read.offset);
            self.must_close = self.replay.as_ref().is_some_and(|intent| read.offset == intent.last);
        }
        Ok(true)
    }

    /// The log did not go on where it should; nothing is judged before that is understood.
    pub fn take_jump(&mut self) -> Option<Jump> {
        self.jump.take()
    }

    /// Whether [`Self::take_jump`] gives one.
    pub fn has_jump(&self) -> bool {
        self.jump.is_some()
    }

    /// Ends the replay when all records of its range that are left came before an offset.
    fn end_replay(&mut self, until: i64) {
        if self.replay.as_ref().is_some_and(|intent| intent.last < until) {
            self.must_close = self.building.is_some();
            self.replay = self.replay.take().filter(|_| self.must_close);
        }
    }

    /// Whether the batch being filled cannot go on with this offset: a replayed range ended before it (the log has gaps), or
    /// the offset went back, and a range cannot.
    fn ends_before(&self, offset: i64) -> bool {
        let Some(building) = &self.building else { return false };
        offset <= building.last() || self.replay.as_ref().is_some_and(|intent| offset > intent.last)
    }

    pub fn close(&mut self, topic: &str, partition: Option<i32>) -> Option<Closed> {
        let building = self.building.take()?;
        self.must_close = false;
        let mut closed = building.close(topic, partition, self.replay.take().as_ref());
        closed.senders = self.senders.of_batch(closed.last, &closed.offsets);
        Some(closed)
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::{Event, wire};

    use super::*;
    use crate::intent::Skips;

    fn chunk(offsets: impl IntoIterator<Item = i64>, until: i64) -> Chunk {
        let mut chunk = Chunk { until, ..Chunk::default() };
        for offset in offsets {
            let (id, mut payload) = (offset.to_string(), Vec::new());
            wire::encode("p", &Event { event_id: id.as_str().into(), ..Event::default() }, &mut payload);
            chunk.push(Read { offset, at: 1, payload: &payload });
        }
        chunk
    }

    /// Batches of the local log, of which the first repeats the offsets 10 to 14 without 11: first, last, token and offsets of each.
    fn batches(chunks: Vec<Chunk>) -> Vec<(i64, i64, String, Vec<i64>)> {
        let limits = crate::config::Config::from_env(&std::collections::BTreeMap::new()).unwrap().batch;
        let mut skips = Skips::default();
        skips.push(1);
        let intent = Intent::read(10, &Intent::metadata(10..=14, 1, 1, skips)).unwrap();
        let (mut filling, mut batches) = (Filling::new(None, intent, Position::default()), Vec::new());
        let hasher = KeyHasher::random();
        let suppressions = SuppressionSet::default();
        let judge = Judge { partition: None, hasher: &hasher, limits, suppressions: &suppressions, now: 1 };
        let mut chunks = chunks.into_iter();
        loop {
            while filling.judge(&judge).unwrap() {}
            if filling.due(limits).is_some_and(|due| due <= Instant::now()) {
                batches.extend(filling.close("t", None));
            } else if let Some(chunk) = chunks.next() {
                filling.begin(chunk);
            } else {
                let is_due = filling.due(limits).is_some();
                let last = filling.close("t", None);
                assert_eq!(is_due, last.is_some(), "it waits for records that are lost");
                batches.extend(last);
                return batches.into_iter().map(|it| (it.first, it.last, it.token, it.offsets)).collect();
            }
        }
    }

    #[tokio::test]
    async fn a_begun_batch_keeps_its_range_and_token_whatever_damage_has_left_of_it() {
        let (whole, rest) = (|offsets: &[i64]| (10, 14, "t-10-14".to_owned(), offsets.to_vec()), 15..20);
        let next = (15, 19, "t-15-19".to_owned(), rest.clone().collect());
        assert_eq!(batches(vec![chunk(10..20, 20)]), [whole(&[10, 12, 13, 14]), next.clone()]);
        // The first and the last are lost, and what follows is in the same chunk, in another one, or not there yet.
        assert_eq!(batches(vec![chunk([12].into_iter().chain(rest.clone()), 20)]), [whole(&[12]), next.clone()]);
        assert_eq!(
            batches(vec![chunk([12], 13), chunk([], 15), chunk(rest.clone(), 20)]),
            [whole(&[12]), next.clone()]
        );
        assert_eq!(batches(vec![chunk([12], 15)]), [whole(&[12])]);
        // Nothing is left.
        assert_eq!(batches(vec![chunk([], 15), chunk(rest.clone(), 20)]), std::slice::from_ref(&next));
        assert_eq!(batches(vec![chunk(rest, 20)]), [next]);
    }
}
