//! Reads synced records without delaying the writer.

use std::io;
use std::sync::Arc;

use super::super::disk::{self, DiskFile};
use super::super::frame::{self, GROUP_HEADER, GroupHeader, SegmentItem};
use super::{Damage, Record, lost};

/// Read at a time, unless a group is larger.
const READ_AT_ONCE: usize = 1 << 20;

/// Segments to read from, without a lock.
pub struct View<F> {
    pub(super) file: Arc<F>,
    pub(super) salt: u32,
    pub(super) base: i64,
    pub(super) end: i64,
    pub(super) used: u64,
    /// Where to begin.
    pub(super) at: u64,
}

/// Where a reading stands and what it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The offset to go on with.
    pub next: i64,
    /// What could not be read.
    pub damage: Damage,
}

/// Gives records of a view to `visit`, in order, from an offset until another or until `visit` returns `false`.
pub fn read<F: DiskFile>(
    view: &[View<F>],
    from: i64,
    until: i64,
    mut visit: impl FnMut(Record<'_>) -> bool,
) -> io::Result<Progress> {
    let mut progress = Progress { next: from, damage: Damage::default() };
    for segment in view {
        if !read_segment(segment, &mut progress, until, &mut visit)? {
            return Ok(progress);
        }
    }
    // What no segment has is lost.
    progress.damage.records += lost(progress.next, until);
    progress.next = progress.next.max(until);
    Ok(progress)
}

/// Whether the reading goes on: `visit` did not end it.
fn read_segment<F: DiskFile>(
    segment: &View<F>,
    progress: &mut Progress,
    until: i64,
    visit: &mut impl FnMut(Record<'_>) -> bool,
) -> io::Result<bool> {
    let mut buffer = Vec::new();
    let mut at = segment.at;
    let mut want = READ_AT_ONCE;
    let mut expected = segment.base;
    while at < segment.used {
        let length = want.min(usize::try_from(segment.used - at).unwrap_or(usize::MAX));
        buffer.resize(length, 0);
        let (read, _) = disk::read_around(&*segment.file, &mut buffer, at)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let is_rest = at + read as u64 >= segment.used || read < length;
        let (mut done, mut missing) = (0, READ_AT_ONCE);
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let cut = GroupHeader::decode(rest, segment.salt).filter(|group| group.bytes() > rest.len());
            if (cut.is_some() || rest.len() < GROUP_HEADER) && !is_rest {
                missing = cut.map_or(READ_AT_ONCE, GroupHeader::bytes).max(READ_AT_ONCE);
                break;
            }
            match frame::look(rest, segment.salt, expected) {
                SegmentItem::Group(group) => {
                    done += group.bytes();
                    expected = group.end();
                    if group.end() <= progress.next {
                        continue;
                    }
                    if group.first >= until.min(segment.end) {
                        return Ok(true);
                    }
                    progress.damage.records += lost(progress.next, group.first);
                    let body = rest.get(GROUP_HEADER..group.bytes()).unwrap_or_default();
                    let mut is_wanted = true;
                    for (offset, payload) in frame::records(group, segment.salt, body, progress.next) {
                        if !is_wanted {
                            return Ok(false);
                        }
                        if offset >= until.min(segment.end) {
                            return Ok(true);
                        }
                        progress.next = offset + 1;
                        match payload {
                            Some(payload) => {
                                is_wanted =
                                    visit(Record { offset, at: group.at, is_last: offset + 1 == group.end(), payload })
                            }
                            None => progress.damage.records += 1,
                        }
                    }
                    if !is_wanted {
                        return Ok(false);
                    }
                }
                SegmentItem::Damage { bytes } => done += bytes,
                SegmentItem::End if is_rest => done = bytes.len(),
                SegmentItem::End => break,
            }
        }
        // The next group as a whole; where none is known, more.
        want = if done == 0 { missing.max(want.saturating_mul(2)) } else { missing };
        if done == 0 && is_rest {
            break;
        }
        at += done as u64;
    }
    // What is missing at its end is lost.
    let end = segment.end.min(until);
    progress.damage.records += lost(progress.next, end);
    progress.next = progress.next.max(end);
    Ok(true)
}
