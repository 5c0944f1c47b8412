//! The filling of a lane's next batch: which records are judged, and when the batch must be closed. No I/O.

use tokio::time::Instant;

use super::batch::{Building, CannotReplay, Closed, Known, Read};
use super::intent::Intent;
use crate::batch::KeyHasher;
use crate::config::BatchLimits;
use crate::window::Window;

/// Records of one partition, in order, in one buffer.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Payloads, one after the other.
    pub bytes: Vec<u8>,
    /// Offset, time of appending and end of each payload.
    pub records: Vec<(i64, i64, usize)>,
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

/// What records are judged by, beside what is known.
pub struct Judge<'a> {
    /// The partition; `None`: the local log.
    pub partition: Option<i32>,
    /// Hashes ids.
    pub hasher: &'a KeyHasher,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Now, by the steady clock.
    pub now: i64,
}

/// Records that are judged in one go, before others get the thread.
const SLICE: usize = 2_048;

/// See the module.
pub struct Filling {
    /// Ids of this partition; `None`: no record repeats another.
    pub window: Option<Window>,
    replay: Option<Intent>,
    building: Option<Building>,
    chunk: Chunk,
    cursor: usize,
    freed: usize,
    must_close: bool,
}

impl Filling {
    /// Nothing yet; `replay` is the first batch, if there is one to be repeated.
    pub fn new(window: Option<Window>, replay: Option<Intent>) -> Self {
        Self { window, replay, building: None, chunk: Chunk::default(), cursor: 0, freed: 0, must_close: false }
    }

    /// Takes a chunk, when it [`Filling::wants_chunk`].
    pub fn begin(&mut self, chunk: Chunk) {
        self.chunk = chunk;
        self.cursor = 0;
    }

    /// Whether the chunk before is through and the batch takes more.
    pub fn wants_chunk(&self, limits: BatchLimits) -> bool {
        self.cursor >= self.chunk.records.len() && !self.is_full(limits)
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

    /// Bytes of chunks that are through, once.
    pub fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Judges records until the batch is full, the chunk is through or others should have the thread. Whether more could be
    /// judged at once.
    pub fn judge(&mut self, judge: &Judge<'_>) -> Result<bool, CannotReplay> {
        for _ in 0..SLICE {
            if self.is_full(judge.limits) {
                return Ok(false);
            }
            let Some(read) = self.chunk.get(self.cursor) else {
                self.freed += std::mem::take(&mut self.chunk).bytes.len();
                self.cursor = 0;
                return Ok(false);
            };
            if self.ends_before(read.offset) {
                self.must_close = true;
                return Ok(false);
            }
            if self.replay.as_ref().is_some_and(|intent| !(intent.first..=intent.last).contains(&read.offset)) {
                // The offset was set elsewhere: what the intent says is no longer asked for.
                self.replay = None;
            }
            let mut known = Known {
                partition: judge.partition,
                hasher: judge.hasher,
                window: self.window.as_mut(),
                replay: self.replay.as_ref(),
                now: judge.now,
            };
            self.building.get_or_insert_with(|| Building::new(read.offset)).take(read, &mut known)?;
            self.cursor += 1;
            self.must_close = self.replay.as_ref().is_some_and(|intent| read.offset == intent.last);
        }
        Ok(true)
    }

    /// Whether the batch being filled cannot go on with this offset: a replayed range ended before it (the log has gaps), or
    /// the offset went back, and a range cannot.
    fn ends_before(&self, offset: i64) -> bool {
        let Some(building) = &self.building else { return false };
        offset <= building.last() || self.replay.as_ref().is_some_and(|intent| offset > intent.last)
    }

    /// Closes the batch.
    pub fn close(&mut self, topic: &str, partition: Option<i32>) -> Option<Closed> {
        let building = self.building.take()?;
        self.must_close = false;
        let is_repeated = self.replay.take().is_some();
        Some(building.close(topic, partition, is_repeated))
    }
}
