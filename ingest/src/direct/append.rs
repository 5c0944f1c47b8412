//! Appends a request's events to the local log: finds duplicates, and assigns offsets to new events.
//!
//! One lock guards the ids, held while a request's events are looked up and appended (about a microsecond each), never across an
//! await. An id is known from the moment its event has an offset; a repeat waits for that very record. When the record's group is
//! lost, the id is forgotten before its offset is used again, and the repeat is answered as unconfirmed, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_schema::event::Flags;
use tallyhouse_schema::{Event, wire};
use tallyhouse_service::clock::steady_ms;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::ack::{AckOutcome, SubmitError};
use crate::event_key::{EventKey, KeyHasher};
use crate::log::local::{LocalLog, Outcome, Place, Ticket, frame};
use crate::request::Wait;
use crate::window::Window;
use crate::worker::partition::RefusedRecord;

/// Events of which it is remembered that ClickHouse refuses them: for who waits at the moment.
const REFUSED_EVENTS: usize = 10_000;

/// Without an insert for so long, one does not wait for the others at the end.
const NO_PROGRESS: Duration = Duration::from_secs(3);

/// What a process does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Starting,
    Open,
    Stopping,
}

/// What of the log is stored.
#[derive(Debug, Clone, Default)]
struct Stored {
    /// Records before it are in `events` and in every rollup, or refused.
    next: i64,
    /// ClickHouse's numbers for refused ones, by offset.
    refused: Arc<BTreeMap<i64, u32>>,
}

pub struct Appender {
    log: Arc<LocalLog>,
    window: Arc<Mutex<Window>>,
    hasher: KeyHasher,
    phase: AtomicU8,
    stored: watch::Sender<Stored>,
    /// The largest offset whose insert somebody waits for.
    wanted: AtomicI64,
    hurry: Notify,
}

/// A request's events after they were appended.
#[derive(Debug)]
pub struct Submitted {
    fates: Vec<Fate>,
    /// Groups to wait for: that of the request, and one that it repeats events of.
    tickets: Vec<Ticket>,
    /// [`LocalLog::losses`] by then.
    losses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Fate {
    offset: i64,
    is_duplicate: bool,
    /// Decided by this group; `None`: the record is in the log.
    ticket: Option<usize>,
}

impl Submitted {
    fn waits_for(&mut self, ticket: Ticket) -> usize {
        self.tickets.push(ticket);
        self.tickets.len() - 1
    }

    pub fn len(&self) -> usize {
        self.fates.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fates.is_empty()
    }
}

impl Appender {
    /// One that refuses everything until [`Self::open`].
    pub fn new(log: Arc<LocalLog>, window: Arc<Mutex<Window>>, hasher: KeyHasher, committed: i64) -> Self {
        let stored = Stored { next: committed, refused: Arc::default() };
        let phase = AtomicU8::new(Phase::Starting as u8);
        let (stored, wanted) = (watch::Sender::new(stored), AtomicI64::new(-1));
        Self { log, window, hasher, phase, stored, wanted, hurry: Notify::new() }
    }

    /// Begins to take events.
    pub fn open(&self) {
        self.phase.store(Phase::Open as u8, Ordering::Release);
    }

    /// Refuses new events.
    pub fn stop(&self) {
        self.phase.store(Phase::Stopping as u8, Ordering::Release);
    }

    /// Appends all events of a request, or none.
    pub fn submit(&self, project: &str, events: &[Event<'_>]) -> Result<Submitted, SubmitError> {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Starting as u8 => return Err(SubmitError::Starting),
            phase if phase == Phase::Stopping as u8 => return Err(SubmitError::Stopping),
            _ if self.log.is_full() => {
                self.log.refused(events.len());
                return Err(SubmitError::LogFull);
            }
            _ => {}
        }
        // Without the locks.
        let framed = Framed::of(self.log.salt(), &self.hasher, project, events);
        let now = steady_ms();
        let mut window = self.window();
        let mut appending = self.log.append();
        if !appending.has_room(framed.bytes.len()) {
            drop(appending);
            return Err(if self.log.has_failed() { SubmitError::LogFailed } else { SubmitError::Busy });
        }
        let losses = self.log.losses();
        let mut submitted = Submitted { fates: Vec::with_capacity(events.len()), tickets: Vec::new(), losses };
        let (mut open, mut writing) = (None, None);
        for (record, key) in framed.iter() {
            let known = key.and_then(|key| window.find(key));
            let offset = known.unwrap_or_else(|| appending.push(record, key));
            if let (None, Some(key)) = (known, key) {
                window.insert(key, offset, now);
            }
            let ticket = match appending.place(offset) {
                Place::Written => None,
                Place::Open => Some(*open.get_or_insert_with(|| submitted.waits_for(appending.ticket()))),
                Place::BeingWritten(ticket) => Some(*writing.get_or_insert_with(|| submitted.waits_for(ticket))),
            };
            submitted.fates.push(Fate { offset, is_duplicate: known.is_some(), ticket });
        }
        Ok(submitted)
    }

    /// Waits until every event is acknowledged, at most until the deadline. In the order of submission.
    pub async fn acknowledge(&self, submitted: Submitted, wait: Wait, deadline: Instant) -> Vec<AckOutcome> {
        let mut outcomes = Vec::with_capacity(submitted.tickets.len());
        for mut ticket in submitted.tickets {
            let ended = ticket.wait_for(|outcome| *outcome != Outcome::Pending);
            let ended = tokio::time::timeout_at(deadline, ended).await;
            outcomes.push(ended.ok().and_then(Result::ok).map_or(Outcome::Pending, |outcome| *outcome));
        }
        let is_durable = |fate: &Fate| {
            fate.ticket.is_none_or(|ticket| outcomes.get(ticket).is_some_and(|outcome| *outcome == Outcome::Durable))
        };
        let last = submitted.fates.iter().filter(|fate| is_durable(fate)).map(|fate| fate.offset).max();
        let stored = match (wait, last) {
            (Wait::Stored, Some(last)) => self.stored_after(last, deadline).await,
            (Wait::Stored | Wait::Durable, _) => self.stored.borrow().clone(),
        };
        // Acknowledged before they were synced, and lost: other events have their offsets now.
        let may_be_lost = wait == Wait::Stored && self.log.losses() != submitted.losses;
        let late = |fate: &Fate| if fate.is_duplicate { AckOutcome::LateDuplicate } else { AckOutcome::Late };
        let is_pending = |fate: &Fate| fate.ticket.and_then(|ticket| outcomes.get(ticket)) == Some(&Outcome::Pending);
        let outcome = |fate: &Fate| match (is_durable(fate) && !may_be_lost, wait) {
            (false, _) if is_pending(fate) => late(fate),
            (false, _) => AckOutcome::Unconfirmed,
            (true, Wait::Stored) if fate.offset >= stored.next => late(fate),
            (true, Wait::Stored) if let Some(code) = stored.refused.get(&fate.offset) => {
                AckOutcome::RefusedByStore(*code)
            }
            (true, _) if fate.is_duplicate => AckOutcome::Duplicate,
            (true, _) => AckOutcome::Accepted,
        };
        submitted.fates.iter().map(outcome).collect()
    }

    /// What is stored as soon as a record is, or at the deadline.
    async fn stored_after(&self, offset: i64, deadline: Instant) -> Stored {
        let mut stored = self.stored.subscribe();
        self.wanted.fetch_max(offset, Ordering::AcqRel);
        self.hurry.notify_one();
        let reached = stored.wait_for(|stored| stored.next > offset);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(stored)) => stored.clone(),
            Ok(Err(_)) | Err(_) => self.stored.borrow().clone(),
        }
    }

    /// The largest offset whose insert somebody waits for; -1 for none.
    pub fn wanted(&self) -> i64 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Waits for somebody who begins to wait for an insert.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// A batch is stored, but for some records. Their ids are forgotten, so that their events can be sent again.
    pub fn stored(&self, next: i64, refused: &[RefusedRecord]) {
        if !refused.is_empty() {
            let mut window = self.window();
            refused.iter().for_each(|record| window.forget(self.key(record), record.offset));
        }
        self.stored.send_modify(|stored| {
            stored.next = stored.next.max(next);
            if !refused.is_empty() {
                let known = Arc::make_mut(&mut stored.refused);
                known.extend(refused.iter().map(|record| (record.offset, record.event.code)));
                while known.len() > REFUSED_EVENTS {
                    known.pop_first();
                }
            }
        });
    }

    /// The id of a refused record.
    pub fn key(&self, record: &RefusedRecord) -> EventKey {
        self.hasher.key(&record.event.project, &record.event.event_id)
    }

    /// Waits until all that is in the log is stored, as long as there is progress.
    pub async fn all_stored(&self) {
        let (mut stored, synced) = (self.stored.subscribe(), self.log.synced());
        self.wanted.store(i64::MAX, Ordering::Release);
        self.hurry.notify_one();
        while stored.borrow_and_update().next < *synced.borrow() {
            if tokio::time::timeout(NO_PROGRESS, stored.changed()).await.is_err() {
                tracing::warn!("events of the log are not being stored; they are at the next start");
                return;
            }
        }
    }

    /// Remembers the id of an event that is stored, or about to be from elsewhere.
    pub fn remember(&self, project: &str, event_id: &str) {
        self.window().insert(self.hasher.key(project, event_id), -1, steady_ms());
    }

    pub fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }
}

/// A request's events as they are written.
struct Framed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    keys: Vec<Option<EventKey>>,
}

impl Framed {
    fn of(salt: u32, hasher: &KeyHasher, project: &str, events: &[Event<'_>]) -> Self {
        let mut framed = Self {
            bytes: Vec::with_capacity(events.len() * 256),
            ends: Vec::with_capacity(events.len()),
            keys: Vec::with_capacity(events.len()),
        };
        for event in events {
            frame::write_record(salt, &mut framed.bytes, |out| wire::encode(project, event, out));
            framed.ends.push(framed.bytes.len());
            // Nothing can repeat an id that was generated.
            let is_given = !event.flags.has(Flags::GENERATED_ID);
            framed.keys.push(is_given.then(|| hasher.key(project, &event.event_id)));
        }
        framed
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], Option<EventKey>)> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let records = starts.zip(&self.ends).filter_map(|(start, end)| self.bytes.get(start..*end));
        records.zip(self.keys.iter().copied())
    }
}
