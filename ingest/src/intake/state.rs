//! What the intake holds, and every decision about it: nothing here waits or wakes anybody.
//!
//! ```text
//! take: pending or in the window -> duplicate;  else -> open batch -> full: closed
//! poll: closed, or open and due -> uncertain -> stored | sealed | handed back
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::RngExt;
use tallyhouse_schema::Event;
use tallyhouse_sql::migrations::MAX_BATCHES_AHEAD;
use tokio::sync::watch;
use tokio::time::Instant;
use ulid::Ulid;

use super::{Fate, Gauges, Refused};
use crate::batch::{Batch, Builder, Encoded, EventKey, KeyMap, Outcome, Promise, Ticket};
use crate::config::{BatchLimits, DedupLimits};
use crate::window::Window;

/// Where an event is: its batch, and its row there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Open,
    Stopping,
}

struct OpenBatch {
    sequence: u64,
    builder: Builder,
    opened: Instant,
    outcome: watch::Sender<Outcome>,
}

/// Batches that are not stored, by their place in the order.
#[derive(Default)]
struct Tickets {
    open: HashMap<u64, Ticket>,
    next: u64,
}

impl Tickets {
    /// The place of the next batch, and whom its outcome is told to.
    fn issue(&mut self, outcome: Outcome) -> (u64, watch::Sender<Outcome>) {
        let (sequence, outcome) = (self.next, watch::Sender::new(outcome));
        self.next += 1;
        self.open.insert(sequence, outcome.subscribe());
        (sequence, outcome)
    }
}

/// See the module.
pub(super) struct State {
    pub(super) phase: Phase,
    /// The disk takes no more.
    pub(super) is_full: bool,
    /// Ids of stored events.
    pub(super) window: Window,
    limits: BatchLimits,
    most_pending: usize,
    instance: String,
    open: Option<OpenBatch>,
    closed: VecDeque<Batch>,
    /// Ids of batches that are not stored, by batch.
    pending: KeyMap<Place>,
    tickets: Tickets,
    /// Batches that were handed to an insert and are neither stored nor sealed yet.
    uncertain: BTreeSet<u64>,
    /// At least so long between batches that are not full.
    pace: Duration,
    /// No batch that is not full is handed out before.
    not_before: Instant,
}

/// What there is to do next.
pub(super) enum Next {
    /// Insert this.
    Batch(Batch),
    /// Look again then.
    At(Instant),
    /// Look again when something has changed.
    Change,
    /// Nothing more will come.
    Ended,
}

impl State {
    pub(super) fn new(limits: BatchLimits, dedup: DedupLimits, now: Instant) -> Self {
        Self {
            phase: Phase::Starting,
            is_full: false,
            window: Window::new(dedup.window, dedup.ids),
            limits,
            most_pending: dedup.ids,
            instance: Ulid::generate().to_string(),
            open: None,
            closed: VecDeque::new(),
            pending: KeyMap::default(),
            tickets: Tickets::default(),
            uncertain: BTreeSet::new(),
            pace: limits.pace,
            not_before: now,
        }
    }

    /// Why a request would be refused now, however small it is.
    pub(super) fn refusal(&self) -> Option<Refused> {
        match self.phase {
            Phase::Starting => Some(Refused::Starting),
            Phase::Stopping => Some(Refused::Stopping),
            // Pending ids are held beside the window: as many again, at most.
            Phase::Open if self.is_full || self.pending.len() >= self.most_pending => Some(Refused::SpoolFull),
            Phase::Open if !self.has_room() => Some(Refused::Full),
            Phase::Open => None,
        }
    }

    /// Room for a whole request, however large: a batch may overshoot by one request, so none is taken half.
    fn has_room(&self) -> bool {
        self.may_close() || !self.is_open_full()
    }

    fn may_close(&self) -> bool {
        self.closed.len() < self.limits.waiting
    }

    fn is_open_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.builder.is_full(self.limits))
    }

    /// Takes an event: its fate, and the row that decides it (`None`: it is stored already).
    pub(super) fn take(
        &mut self,
        project: &str,
        event: &Event<'_>,
        key: Option<EventKey>,
        now: Instant,
    ) -> (Fate, Option<Place>) {
        if let Some(key) = key {
            if let Some(place) = self.pending.get(&key) {
                return (Fate::Duplicate, Some(*place));
            }
            if self.window.find(key).is_some() {
                return (Fate::Duplicate, None);
            }
        }
        if self.may_close() && self.is_open_full() {
            self.close();
        }
        let open = match &mut self.open {
            Some(open) => open,
            empty => {
                let (sequence, outcome) = self.tickets.issue(Outcome::Pending);
                empty.insert(OpenBatch { sequence, builder: Builder::default(), opened: now, outcome })
            }
        };
        let place = Place { sequence: open.sequence, row: u32::try_from(open.builder.rows()).unwrap_or(u32::MAX) };
        open.builder.push(project, event, key);
        if let Some(key) = key {
            self.pending.insert(key, place);
        }
        (Fate::Accepted, Some(place))
    }

    /// Waits for a batch; `None` when it is settled for good.
    pub(super) fn ticket(&self, sequence: u64) -> Option<&Ticket> {
        self.tickets.open.get(&sequence)
    }

    /// Whether a batch is being filled.
    pub(super) fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a batch is ready to be handed out.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    fn close(&mut self) {
        if let Some(OpenBatch { sequence, builder, outcome, .. }) = self.open.take() {
            let Encoded { rows, chunks, keys, days } = builder.finish();
            let token = format!("{}-{}", self.instance, Ulid::generate());
            let promise = Promise { sequence, keys, outcome };
            self.closed.push_back(Batch { promise, token, rows, chunks, days });
        }
    }

    /// What there is to do now.
    pub(super) fn poll(&mut self, now: Instant) -> Next {
        let is_stopping = self.phase == Phase::Stopping;
        if self.closed.is_empty() {
            match &self.open {
                None if is_stopping => return Next::Ended,
                None => return Next::Change,
                Some(open) => {
                    let due = (open.opened + self.limits.linger).max(self.not_before);
                    if !(is_stopping || due <= now || self.is_open_full()) {
                        return Next::At(due);
                    }
                }
            }
        }
        if self.is_too_far_ahead() {
            return Next::Change;
        }
        if self.closed.is_empty() {
            self.close();
        }
        match self.closed.pop_front() {
            Some(batch) => {
                self.uncertain.insert(batch.promise.sequence);
                self.not_before = now + jittered(self.pace);
                Next::Batch(batch)
            }
            None => Next::Change,
        }
    }

    /// See [`MAX_BATCHES_AHEAD`]: further on, ClickHouse could forget the token of the oldest uncertain batch.
    fn is_too_far_ahead(&self) -> bool {
        let closed = self.closed.front().map(|batch| batch.promise.sequence);
        let next = closed.or(self.open.as_ref().map(|open| open.sequence));
        self.uncertain.first().zip(next).is_some_and(|(oldest, next)| next > oldest + MAX_BATCHES_AHEAD)
    }

    /// Ids of a batch are stored.
    pub(super) fn stored(&mut self, keys: &[EventKey], now: i64) {
        for key in keys {
            self.window.insert(*key, -1, now);
            self.pending.remove(key);
        }
    }

    /// Ids of a batch are nowhere.
    pub(super) fn forget(&mut self, keys: &[EventKey]) {
        for key in keys {
            self.pending.remove(key);
        }
    }

    /// A batch is stored or handed back: later events do not wait for it.
    pub(super) fn ended(&mut self, sequence: u64) {
        self.tickets.open.remove(&sequence);
    }

    /// A batch is stored, sealed or handed back: nothing is held back because of it.
    pub(super) fn settled(&mut self, sequence: u64) {
        self.uncertain.remove(&sequence);
    }

    /// A batch of an earlier process: its ids are pending.
    pub(super) fn adopt(&mut self, keys: Vec<EventKey>) -> Promise {
        let (sequence, outcome) = self.tickets.issue(Outcome::Sealed);
        let places = (0..).map(|row| Place { sequence, row });
        self.pending.extend(keys.iter().copied().zip(places));
        Promise { sequence, keys, outcome }
    }

    /// Batches follow each other so much slower than the configuration says: `None` for its pace.
    pub(super) fn slow_down(&mut self, pace: Option<Duration>) {
        self.pace = pace.unwrap_or_default().max(self.limits.pace);
    }

    pub(super) fn gauges(&self, now: i64) -> Gauges {
        Gauges {
            pending_ids: self.pending.len(),
            waiting_batches: self.closed.len(),
            uncertain_batches: self.uncertain.len(),
            window_ids: self.window.ids(),
            window_reach: self.window.reach(now),
        }
    }
}

/// +-20 %, so that instances which started together do not insert together.
fn jittered(pace: Duration) -> Duration {
    pace.mul_f64(rand::rng().random_range(0.8..1.2))
}
