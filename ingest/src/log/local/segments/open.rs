//! Recovery at start: reads every segment, cuts off the torn tail, and sets damage aside.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::super::disk::{self, Disk, DiskFile};
use super::super::frame::{self, GROUP_HEADER, GroupHeader, SegmentItem};
use super::{Bounds, Damage, Name, Record, Segment, Segments, lost, spare};

impl<D: Disk> Segments<D> {
    /// Opens what is there and gives each record to `visit`, in order. New offsets begin after the last record and not before
    /// these bounds.
    pub fn open(
        disk: D,
        segment_bytes: u64,
        bounds: Bounds,
        mut visit: impl FnMut(Record<'_>),
    ) -> io::Result<(Self, Damage)> {
        let Bounds { committed, named, saved } = bounds;
        let mut log = Self {
            disk,
            segments: VecDeque::new(),
            is_open: false,
            next: committed,
            committed,
            salt: rand::random::<u32>().max(1),
            segment_bytes,
            number: 0,
            gone: Vec::new(),
            passed: i64::MIN,
            spare: None,
        };
        log.disk.remove(spare::NAME)?;
        let mut names = Vec::new();
        for name in log.disk.list()? {
            names.extend(Name::read(&name)?);
        }
        names.sort();
        log.number = names.iter().map(|name| name.number).max().unwrap_or_default();
        let ends: Vec<Option<i64>> = names.iter().skip(1).map(|name| Some(name.base)).chain([None]).collect();
        let mut damage = Damage::default();
        // One for all: to have 64 MiB new each time costs as much as to read them.
        let mut buffer = Vec::new();
        let mut expected = committed;
        for (name, end) in names.into_iter().zip(ends) {
            if let Some(end) = end.filter(|end| name.base <= saved && *end <= committed) {
                log.pass(name, end)?;
                expected = expected.max(end);
                continue;
            }
            damage.records += lost(expected.max(committed), name.base);
            damage = damage.and(log.recover(name, end, &mut buffer, &mut visit)?);
            expected = log.segments.back().map_or(expected, |segment| segment.end.max(expected));
        }
        damage.records += lost(expected.max(committed), named);
        log.next = expected.max(committed).max(named);
        Ok((log, damage))
    }

    /// Takes a segment as it is. It was cut to its length when the next one began.
    fn pass(&mut self, name: Name, end: i64) -> io::Result<()> {
        let file = self.disk.open(&name.to_string())?;
        let bytes = file.bytes()?;
        self.passed = name.base;
        self.segments.push_back(Segment {
            name: name.to_string(),
            base: name.base,
            salt: name.salt,
            file: Arc::new(file),
            end,
            used: bytes,
            synced: (end, bytes),
            index: Vec::new(),
            bytes,
        });
        Ok(())
    }

    /// Reads one segment. It ends where the next one begins.
    fn recover(
        &mut self,
        name: Name,
        end: Option<i64>,
        buffer: &mut Vec<u8>,
        visit: &mut impl FnMut(Record<'_>),
    ) -> io::Result<Damage> {
        let Name { base, salt, .. } = name;
        let name = name.to_string();
        let file = self.disk.open(&name)?;
        let length = usize::try_from(file.bytes()?).unwrap_or(usize::MAX);
        buffer.resize(buffer.len().max(length), 0);
        let (read, unread) = disk::read_around(&file, buffer.get_mut(..length).unwrap_or_default(), 0)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let mut damage = Damage { files: u64::from(unread > 0), ..Damage::default() };
        let mut segment = Segment {
            name: name.clone(),
            base,
            salt,
            file: Arc::new(file),
            end: base,
            used: 0,
            synced: (base, 0),
            index: Vec::new(),
            bytes: bytes.len() as u64,
        };
        let is_last = end.is_none();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if end.is_some_and(|end| segment.end >= end) {
                // What a failed sync left behind: it was not acknowledged, and the next segment has its offsets.
                break;
            }
            match frame::look(rest, salt, segment.end) {
                SegmentItem::Group(group) => {
                    let body = rest.get(GROUP_HEADER..group.bytes()).unwrap_or_default();
                    let is_whole = frame::is_whole(group, salt, body);
                    let has_later = || {
                        let after = rest.get(group.bytes()..).unwrap_or_default();
                        !is_last || frame::look(after, salt, group.end()) != SegmentItem::End
                    };
                    if !is_whole && !has_later() {
                        damage = damage.and(self.cut(&segment, rest));
                        break;
                    }
                    damage.records += lost(segment.end.max(self.committed), group.first);
                    if !is_whole {
                        self.keep(&format!("{name}.{at}.damaged"), rest.get(..group.bytes()).unwrap_or_default());
                        damage.files += 1;
                    }
                    damage.records += give(group, salt, body, self.committed, visit);
                    segment.took(group, at as u64);
                    at += group.bytes();
                }
                SegmentItem::Damage { bytes } => {
                    self.keep(&format!("{name}.{at}.damaged"), rest.get(..bytes).unwrap_or_default());
                    damage.files += 1;
                    at += bytes;
                }
                SegmentItem::End => {
                    if is_last {
                        damage = damage.and(self.cut(&segment, rest));
                    }
                    break;
                }
            }
        }
        if let Some(end) = end {
            damage.records += lost(segment.end.max(self.committed), end);
            segment.end = end;
        }
        segment.file.set_len(segment.used)?;
        segment.file.sync()?;
        segment.bytes = segment.used;
        segment.synced = (segment.end, segment.used);
        self.segments.push_back(segment);
        Ok(damage)
    }

    /// What follows the last whole group of the log: zeros, or the rest of a group that was not acknowledged.
    fn cut(&self, segment: &Segment<D::File>, rest: &[u8]) -> Damage {
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if torn > 0 {
            self.keep(&format!("{}.{}.torn", segment.name, segment.used), rest.get(..torn).unwrap_or_default());
        }
        Damage { torn_bytes: torn as u64, ..Damage::default() }
    }

    /// Keeps bytes for a person to look at. The log goes on without it.
    fn keep(&self, name: &str, bytes: &[u8]) {
        let kept = self.disk.create(name, bytes.len().max(1) as u64).and_then(|file| file.write_at(bytes, 0));
        match kept {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(%error, name, "damaged bytes of the log could not be kept");
            }
            _ => {}
        }
    }
}

/// Gives the records of a group to `visit`, and returns how many that are not committed are damaged.
fn give(group: GroupHeader, salt: u32, body: &[u8], committed: i64, visit: &mut impl FnMut(Record<'_>)) -> u64 {
    let mut damaged = 0;
    for (offset, payload) in frame::records(group, salt, body, group.first) {
        match payload {
            Some(payload) => visit(Record { offset, at: group.at, is_last: offset + 1 == group.end(), payload }),
            None => damaged += u64::from(offset >= committed),
        }
    }
    damaged
}
