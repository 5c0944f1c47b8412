//! The open group, which grows while the one before is synced.

use std::sync::{Condvar, MutexGuard};

use tokio::sync::watch;

use super::frame::GROUP_HEADER;
use crate::event_key::EventKey;

/// Bytes that may wait for a sync.
const MOST_BYTES: usize = 32 << 20;

/// What became of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is being written.
    Pending,
    /// It is in the log.
    Durable,
    /// It is not.
    Lost,
}

/// Waits for a group. Cheap to clone.
pub type Ticket = watch::Receiver<Outcome>;

/// Records that become durable together.
pub struct Group {
    /// The header's room, and framed records.
    bytes: Vec<u8>,
    first: i64,
    records: u32,
    keys: Vec<EventKey>,
    outcome: watch::Sender<Outcome>,
}

impl Group {
    fn at(first: i64) -> Self {
        let outcome = watch::Sender::new(Outcome::Pending);
        Self { bytes: vec![0; GROUP_HEADER], first, records: 0, keys: Vec::new(), outcome }
    }

    /// The offset after its last record.
    pub fn end(&self) -> i64 {
        self.first + i64::from(self.records)
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    /// How many requests wait for it, once it is taken: one receiver is that of [`Open`].
    pub fn waiting(&self) -> usize {
        self.outcome.receiver_count().saturating_sub(1)
    }

    /// The offset of the first.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// What is written, and how many records it has.
    pub fn bytes(&mut self) -> (&mut [u8], u32) {
        (&mut self.bytes, self.records)
    }

    /// Ids of its events.
    pub fn keys(&self) -> &[EventKey] {
        &self.keys
    }

    /// Wakes the waiters.
    pub fn lose(self) {
        self.outcome.send_replace(Outcome::Lost);
    }
}

/// The group that takes records, and what is known of the one that is being written.
pub struct Open {
    group: Group,
    /// First offset of the one that is being written.
    writing: Option<(i64, Ticket)>,
    is_refusing: bool,
    has_ended: bool,
    has_failed: bool,
}

impl Open {
    /// One that begins at an offset.
    pub fn at(first: i64) -> Self {
        Self { group: Group::at(first), writing: None, is_refusing: false, has_ended: false, has_failed: false }
    }

    /// Whether there is something to write.
    pub fn has_records(&self) -> bool {
        self.group.records > 0
    }

    /// The group, to be written. The next one follows it.
    pub fn take(&mut self) -> Group {
        let next = Group::at(self.group.end());
        let group = std::mem::replace(&mut self.group, next);
        if group.records > 0 {
            self.writing = Some((group.first, group.outcome.subscribe()));
        }
        group
    }

    /// It is in the log: wakes the waiters.
    pub fn written(&mut self, group: &Group) {
        self.writing = None;
        group.outcome.send_replace(Outcome::Durable);
    }

    /// Offsets go on from here.
    pub fn go_back(&mut self, next: i64) {
        self.writing = None;
        self.group = Group::at(next);
    }

    /// Whether nothing is taken for a moment.
    pub fn refuse(&mut self, is_refusing: bool) {
        self.is_refusing = is_refusing;
    }

    /// Nothing more is taken.
    pub fn end(&mut self) {
        self.has_ended = true;
    }

    /// Nothing is written any more: wakes the waiters.
    pub fn fail(&mut self) {
        (self.has_ended, self.has_failed) = (true, true);
        self.take().lose();
    }

    /// Whether nothing is written any more.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether nothing more is taken.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// Where a record is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In the log.
    Written,
    /// In the group that is being written.
    BeingWritten(Ticket),
    /// In the group that takes records.
    Open,
}

/// The right to append.
pub struct Appending<'a> {
    open: MutexGuard<'a, Open>,
    arrived: &'a Condvar,
    /// Records before.
    records: u32,
}

impl<'a> Appending<'a> {
    pub(super) fn new(open: MutexGuard<'a, Open>, arrived: &'a Condvar) -> Self {
        let records = open.group.records;
        Self { open, arrived, records }
    }

    /// Whether records of so many bytes find room.
    pub fn has_room(&self, bytes: usize) -> bool {
        let held = self.open.group.bytes.len();
        // One that is larger than all room is taken alone.
        !self.open.is_refusing && !self.open.has_ended && (held + bytes <= MOST_BYTES || self.open.group.records == 0)
    }

    /// The offset of the next record.
    pub fn next(&self) -> i64 {
        self.open.group.end()
    }

    /// Appends a framed record, and returns its offset.
    pub fn push(&mut self, framed: &[u8], key: Option<EventKey>) -> i64 {
        let group = &mut self.open.group;
        let offset = group.end();
        group.bytes.extend_from_slice(framed);
        group.keys.extend(key);
        group.records += 1;
        offset
    }

    /// Where a record is.
    pub fn place(&self, offset: i64) -> Place {
        match &self.open.writing {
            _ if offset >= self.open.group.first => Place::Open,
            Some((first, ticket)) if offset >= *first => Place::BeingWritten(ticket.clone()),
            _ => Place::Written,
        }
    }

    /// Waits for the group that takes records.
    pub fn ticket(&self) -> Ticket {
        self.open.group.outcome.subscribe()
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        // The writer wakes up for the first one; later ones it finds.
        if self.records == 0 && self.open.group.records > 0 {
            self.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_does_not_count_among_those_who_wait() {
        let mut open = Open::at(0);
        let tickets = [(); 3].map(|()| open.group.outcome.subscribe());
        open.group.records = 3;
        let group = open.take();
        assert_eq!(group.waiting(), 3);
        drop(tickets);
        assert_eq!(group.waiting(), 0);
    }
}
