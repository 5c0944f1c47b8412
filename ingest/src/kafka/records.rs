//! Encodes a request's events as records, before they are produced.

use tallyhouse_schema::{Event, wire};

use crate::placement;

/// Encoded records in one buffer, in the order of the request.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    hashes: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What places it: [`placement::hash`] of its project and id.
    pub hash: u64,
    /// `schema::wire`
    pub payload: &'a [u8],
}

impl Records {
    /// Encodes events.
    pub fn of(project: &str, events: &[Event<'_>]) -> Self {
        let mut records = Self::default();
        for event in events {
            wire::encode(project, event, &mut records.bytes);
            records.ends.push(records.bytes.len());
            records.hashes.push(placement::hash(project, &event.event_id));
        }
        records
    }

    /// Appends a record that was encoded before.
    pub fn push(&mut self, hash: u64, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
        self.hashes.push(hash);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One by its place.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        let payload = self.bytes.get(start..*self.ends.get(index)?)?;
        Some(Record { hash: *self.hashes.get(index)?, payload })
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
