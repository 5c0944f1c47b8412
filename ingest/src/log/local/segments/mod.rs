//! The segments of a log, and their contents. Blocking, and without a lock: [`super`] puts both around it.

mod open;
mod read;
mod spare;

use std::collections::VecDeque;
use std::sync::Arc;
use std::{fmt, io};

use super::disk::{Disk, DiskFile};
use super::frame::{GROUP_HEADER, GroupHeader};
pub use read::{Progress, View, read};
pub use spare::make as make_spare;

/// What the name of a segment ends with.
const WHOLE: &str = ".log";

/// What the name of a segment says. Nothing of this is in the file: a sector that cannot be read must not cost all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// The offset of its first record.
    base: i64,
    /// Of several with one base only the newest has records.
    number: u64,
    /// What its checksums begin with.
    salt: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:020}-{:010}-{:08x}{WHOLE}", self.base, self.number, self.salt)
    }
}

impl Name {
    /// Reads it; `None` for other files.
    fn read(name: &str) -> io::Result<Option<Self>> {
        let Some(parts) = name.strip_suffix(WHOLE) else { return Ok(None) };
        let mut parts = parts.splitn(3, '-');
        let mut part = || parts.next().unwrap_or_default();
        match (part().parse(), part().parse(), u32::from_str_radix(part(), 16)) {
            (Ok(base), Ok(number), Ok(salt)) => Ok(Some(Self { base, number, salt })),
            _ => Err(io::Error::other(format!("{name} is not a segment of this version"))),
        }
    }
}

/// Between two entries of a segment's index, in bytes.
const INDEX_EVERY: u64 = 64 << 10;

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place.
    pub offset: i64,
    /// When it was appended, in milliseconds since 1970.
    pub at: i64,
    /// Whether it is the last of its group: a reading that ends before that goes through all of the group again.
    pub is_last: bool,
    /// What was appended.
    pub payload: &'a [u8],
}

/// What was wrong with the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that are lost.
    pub records: u64,
    /// Bytes at the end of the log that were never acknowledged.
    pub torn_bytes: u64,
    /// Files in which something was wrong.
    pub files: u64,
}

impl Damage {
    /// That of two places, added up.
    pub fn and(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            torn_bytes: self.torn_bytes + other.torn_bytes,
            files: self.files + other.files,
        }
    }
}

struct Segment<F> {
    name: String,
    base: i64,
    salt: u32,
    file: Arc<F>,
    /// The end of what is in it: offset and byte.
    end: i64,
    used: u64,
    /// The same of what is synced.
    synced: (i64, u64),
    /// Offset and byte of some groups, in order.
    index: Vec<(i64, u64)>,
    /// Its length in the file system.
    bytes: u64,
}

impl<F> Segment<F> {
    fn took(&mut self, header: GroupHeader, at: u64) {
        if self.index.last().is_none_or(|(_, last)| at - last >= INDEX_EVERY) {
            self.index.push((header.first, at));
        }
        self.end = header.end();
        self.used = at + header.bytes() as u64;
    }

    /// Where to begin to look for an offset.
    fn place(&self, offset: i64) -> u64 {
        let after = self.index.partition_point(|(first, _)| *first <= offset);
        let entry = after.checked_sub(1).and_then(|index| self.index.get(index));
        entry.map_or(0, |(_, at)| *at)
    }
}

/// Offsets that others know of.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What lies before is read.
    pub committed: i64,
    /// What lies before is not used again: an intent may name it.
    pub named: i64,
    /// Ids of segments that begin here or before are elsewhere: those that are read need not be read again.
    pub saved: i64,
}

pub struct Segments<D: Disk> {
    disk: D,
    segments: VecDeque<Segment<D::File>>,
    /// The last segment takes groups.
    is_open: bool,
    next: i64,
    /// What lies before is read: its loss is none.
    committed: i64,
    salt: u32,
    segment_bytes: u64,
    /// Of the newest segment.
    number: u64,
    /// Files that could not be removed yet.
    gone: Vec<String>,
    /// Where the last segment begins that was passed at the start ([`Bounds::saved`]).
    passed: i64,
    /// What the next segment is made of.
    spare: Option<D::File>,
}

/// What is being synced.
pub struct Unsynced<F> {
    pub file: Arc<F>,
    to: (i64, u64),
}

impl<D: Disk> Segments<D> {
    /// What the checksums of the next group begin with.
    pub fn salt(&self) -> u32 {
        self.salt
    }

    /// Ids of the segments up to the one that begins here were not read again.
    pub fn passed(&self) -> i64 {
        self.passed
    }

    /// The offset of the next record.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The end of what is synced.
    pub fn synced(&self) -> i64 {
        // Without a segment that waits for a sync it is all. The last one may end before what is committed: a newer one was removed.
        self.segments
            .back()
            .filter(|segment| segment.synced.0 < segment.end)
            .map_or(self.next, |segment| segment.synced.0)
    }

    /// The offset of the first record that is still there.
    pub fn first(&self) -> i64 {
        self.segments.front().map_or(self.next, |segment| segment.base)
    }

    /// Bytes of records from an offset on, within 64 KiB for each segment.
    pub fn bytes_from(&self, offset: i64) -> u64 {
        let after = |segment: &Segment<D::File>| segment.used.saturating_sub(segment.place(offset));
        self.segments.iter().filter(|segment| segment.end > offset).map(after).sum()
    }

    /// Bytes that the disk may still take, if that is known.
    pub fn free(&self) -> Option<u64> {
        self.disk.free().ok()
    }

    /// The first and the end offset of segments that take no more and lie before an offset.
    pub fn ended_before(&self, offset: i64) -> Vec<(i64, i64)> {
        let ended = self.segments.len() - usize::from(self.is_open);
        let is_before = |segment: &&Segment<D::File>| segment.end <= offset;
        self.segments.iter().take(ended).filter(is_before).map(|segment| (segment.base, segment.end)).collect()
    }

    /// Writes a group from [`Self::next`] on. In front of its records, which are framed with [`Self::salt`], is room for its header. After an
    /// error nothing of it is there, nor of what could not be synced before.
    pub fn write(&mut self, first: i64, group: &mut [u8], records: u32, at: i64) -> io::Result<()> {
        if first != self.next {
            return Err(io::Error::other(format!("a group from {first} on, where {} is next", self.next)));
        }
        let bytes = group.len() as u64;
        if !self.is_open || self.segments.back().is_none_or(|segment| segment.used + bytes > segment.bytes) {
            self.begin(bytes)?;
        }
        let body = group.len().checked_sub(GROUP_HEADER).and_then(|body| u32::try_from(body).ok());
        let (Some(body), Some(segment)) = (body, self.segments.back_mut()) else {
            return Err(io::Error::other("a group without a header, or of 4 GiB"));
        };
        let (header, place) = (GroupHeader { body, first: self.next, at, records }, segment.used);
        if let Some(room) = group.get_mut(..GROUP_HEADER) {
            room.copy_from_slice(&header.encode(segment.salt));
        }
        if let Err(error) = segment.file.write_at(group, place) {
            // What was written before is whole, and may have been acknowledged.
            if self.sync().is_ok() {
                self.give_up();
            }
            return Err(error);
        }
        segment.took(header, place);
        self.next = segment.end;
        Ok(())
    }

    /// Makes what is written outlive the power. After an error, what was not synced before is not there.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(unsynced) = self.unsynced() else { return Ok(()) };
        let synced = unsynced.file.sync();
        self.synced_to(&unsynced, synced)
    }

    /// What a sync would make durable. So that nobody waits for the lock while it takes place.
    pub fn unsynced(&self) -> Option<Unsynced<D::File>> {
        let segment = self.segments.back().filter(|segment| segment.synced.0 < segment.end)?;
        Some(Unsynced { file: Arc::clone(&segment.file), to: (segment.end, segment.used) })
    }

    /// A sync ended.
    pub fn synced_to(&mut self, unsynced: &Unsynced<D::File>, synced: io::Result<()>) -> io::Result<()> {
        match (synced, self.segments.iter_mut().rfind(|segment| Arc::ptr_eq(&segment.file, &unsynced.file))) {
            (Ok(()), Some(segment)) => segment.synced = segment.synced.max(unsynced.to),
            (Ok(()), None) => {}
            (Err(error), _) => {
                self.give_up();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends the segment where it was last synced. What comes begins another one, with the offsets after that.
    fn give_up(&mut self) {
        self.is_open = false;
        if let Some(segment) = self.segments.back_mut() {
            (segment.end, segment.used) = segment.synced;
            segment.index.retain(|(_, at)| *at < segment.used);
            self.next = segment.end;
        }
    }

    /// Begins a segment that a group of so many bytes fits into.
    fn begin(&mut self, group: u64) -> io::Result<()> {
        // Nothing but synced groups may lie before a segment: recovery takes what is torn there for damage.
        self.sync()?;
        self.is_open = false;
        if let Some(last) = self.segments.back_mut() {
            last.file.set_len(last.used)?;
            last.file.sync()?;
            last.bytes = last.used;
        }
        let base = self.next;
        self.number += 1;
        let name = Name { base, number: self.number, salt: self.salt }.to_string();
        let bytes = self.segment_bytes.max(group);
        let file = match self.spare.take() {
            Some(spare) if bytes == self.segment_bytes => self.disk.rename(spare::NAME, &name).map(|()| spare)?,
            spare => {
                self.spare = spare;
                self.disk.create(&name, bytes)?
            }
        };
        if let Err(error) = file.sync().and_then(|()| self.disk.sync_names()) {
            self.gone.push(name);
            return Err(error);
        }
        // An empty one of the same base: a segment is where its name says.
        let empty: Vec<_> = self
            .segments
            .iter()
            .filter(|segment| segment.end <= base && segment.base == base)
            .map(|s| s.name.clone())
            .collect();
        self.segments.retain(|segment| !empty.contains(&segment.name));
        self.gone.extend(empty);
        self.segments.push_back(Segment {
            name,
            base,
            salt: self.salt,
            file: Arc::new(file),
            end: base,
            used: 0,
            synced: (base, 0),
            index: Vec::new(),
            bytes,
        });
        self.is_open = true;
        Ok(())
    }

    /// Segments with records from an offset on, and before another.
    pub fn view(&self, from: i64, until: i64) -> Vec<View<D::File>> {
        let is_asked = |segment: &&Segment<D::File>| segment.end > from && segment.base < until;
        let view = |segment: &Segment<D::File>| View {
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            base: segment.base,
            end: segment.end,
            used: segment.used,
            at: segment.place(from),
        };
        self.segments.iter().filter(is_asked).map(view).collect()
    }

    /// Forgets segments of which every record lies before an offset. Those that cannot be removed are tried again next time.
    pub fn retire(&mut self, committed: i64) {
        self.committed = committed;
        let is_open = self.is_open;
        while self.segments.len() > usize::from(is_open)
            && self.segments.front().is_some_and(|segment| segment.end <= committed)
        {
            self.gone.extend(self.segments.pop_front().map(|segment| segment.name));
        }
        let disk = &self.disk;
        self.gone.retain(|name| match disk.remove(name) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, segment = name, "a segment that is read cannot be removed; trying again");
                true
            }
        });
    }
}

/// The offset of the first record that a disk has, before it is opened.
pub fn first<D: Disk>(disk: &D) -> io::Result<Option<i64>> {
    let mut first = None;
    for name in disk.list()? {
        first = Name::read(&name)?.map(|name| name.base).into_iter().chain(first).min();
    }
    Ok(first)
}

fn lost(expected: i64, found: i64) -> u64 {
    u64::try_from(found.saturating_sub(expected)).unwrap_or_default()
}
