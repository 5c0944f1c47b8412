//! The ids of a project in memory: chunks of entries, in order of arrival.

use std::collections::{BTreeSet, VecDeque};

use crate::event_key::EventKey;

/// Ids of a chunk: small enough that many projects cost little, large enough that chunks cost nothing.
pub(super) const CHUNK: usize = 1_024;

/// Without the project, which is its chunk's. Packed: it is what the memory is used for.
#[derive(Debug, Clone, Copy)]
#[repr(C, packed(4))]
pub(super) struct Entry {
    pub(super) id: [u32; 3],
    pub(super) offset: i64,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) project: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) oldest: i64,
    pub(super) newest: i64,
    /// Of its offsets.
    pub(super) lowest: i64,
    pub(super) highest: i64,
}

/// The ids of a project.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Slots of its chunks, oldest first.
    pub(super) chunks: VecDeque<u32>,
    /// Entries at the front of the first chunk that are forgotten already.
    pub(super) forgotten: usize,
    pub(super) ids: usize,
}

pub(super) fn entry(chunks: &[Chunk], number: u32) -> Option<(&Chunk, &Entry)> {
    let chunk = chunks.get(number as usize / CHUNK)?;
    Some((chunk, chunk.entries.get(number as usize % CHUNK)?))
}

pub(super) fn is_of(chunks: &[Chunk], number: u32, key: EventKey) -> bool {
    entry(chunks, number).is_some_and(|(chunk, entry)| key.parts() == (chunk.project, entry.id))
}

pub(super) fn entry_hash(chunks: &[Chunk], number: u32) -> u64 {
    entry(chunks, number).map_or(0, |(chunk, entry)| EventKey::from_parts(chunk.project, entry.id).hash())
}

/// A number that grows with the size, in steps of an eighth, so that it seldom changes.
pub(super) fn size_class(ids: usize) -> u32 {
    match ids.checked_ilog2() {
        None | Some(0..3) => ids as u32,
        Some(log) => log * 8 + (ids >> (log - 3)) as u32 - 24,
    }
}

pub(super) fn resize(by_size: &mut BTreeSet<(u32, u32)>, project: u32, before: u32, now: u32) {
    if before != now {
        by_size.remove(&(before, project));
        if now > 0 {
            by_size.insert((now, project));
        }
    }
}
