//! Where events of all requests meet: duplicates are found, batches grow, and room is given or refused.
//!
//! One lock guards it, held for as long as it takes to append a request's events (about a microsecond each), never across
//! an await. An id is always in exactly one of three places: unknown, *pending* (in a batch that is not stored yet) or in the
//! *window* (stored). A repeated id of a pending batch waits for that very batch: if that is handed back, so is the repeat, and
//! nothing is lost by calling it a duplicate.
//!
//! A batch that was attempted is never given up: its outcome is uncertain until it is stored, or sealed on the disk. Requests
//! stop waiting after their deadline and are told to come again; when they do, their events are pending or stored.

mod state;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_schema::Event;
use tallyhouse_schema::event::Flags;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::batch::{Batch, EventKey, KeyHasher, Outcome, Promise, Ticket};
use crate::config::{BatchLimits, DedupLimits};
use crate::poison;
use state::{Next, Phase, Place, State};

/// Why nothing of a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Batches of an earlier process are still being stored, and known ids are being read.
    Starting,
    /// As much is waiting as may wait.
    Full,
    /// The process is stopping.
    Stopping,
    /// ClickHouse is away, and as much waits on the disk as may.
    SpoolFull,
}

/// What a request's event is, provided that its batch gets stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// New.
    Accepted,
    /// Counted before.
    Duplicate,
}

/// A request's events after they were taken in.
#[derive(Debug)]
pub struct Submitted {
    /// Per event, in order: its fate, and what decides it (`None`: stored already).
    pub fates: Vec<(Fate, Option<Decider>)>,
    /// The batches to wait for.
    pub tickets: Vec<Ticket>,
}

/// Where the fate of a request's event is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decider {
    /// The batch, as an index into [`Submitted::tickets`].
    pub ticket: usize,
    /// The event's row in it.
    pub row: usize,
}

/// See the module.
pub struct Intake {
    state: Mutex<State>,
    changed: Notify,
    hasher: KeyHasher,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Events in batches that are not stored.
    pub pending_ids: usize,
    /// Full batches waiting for an insert.
    pub waiting_batches: usize,
    /// Batches being inserted whose requests still wait for that.
    pub uncertain_batches: usize,
    /// Ids in the window.
    pub window_ids: usize,
    /// How far back the window reaches.
    pub window_reach: Duration,
}

impl Intake {
    /// An intake that refuses everything until [`Intake::open`].
    pub fn new(limits: BatchLimits, dedup: DedupLimits) -> Self {
        let state = State::new(limits, dedup, Instant::now());
        Self { state: Mutex::new(state), changed: Notify::new(), hasher: KeyHasher::random() }
    }

    /// The state. A panic while it was held could only have come from running out of memory; go on with what is there.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an event that is in ClickHouse.
    pub fn remember(&self, project: &str, event_id: &str, stored_at: i64) {
        let key = self.hasher.key(project, event_id);
        self.lock().window.insert(key, -1, stored_at);
    }

    /// Begins to take events.
    pub fn open(&self) {
        self.lock().phase = Phase::Open;
    }

    /// Takes all events of a request, or none.
    pub fn submit(&self, project: &str, events: &[Event<'_>]) -> Result<Submitted, Refused> {
        // Hashing needs no lock.
        let keys: Vec<_> = events
            .iter()
            .map(|event| (!event.flags.has(Flags::GENERATED_ID)).then(|| self.hasher.key(project, &event.event_id)))
            .collect();
        let mut state = self.lock();
        if let Some(refused) = state.refusal() {
            return Err(refused);
        }
        let (now, had_open) = (Instant::now(), state.has_open());
        let mut submitted = Submitted { fates: Vec::with_capacity(events.len()), tickets: Vec::new() };
        let mut places: HashMap<u64, usize> = HashMap::new();
        for (event, key) in events.iter().zip(keys) {
            let (fate, place) = state.take(project, event, key, now);
            let decider = place.and_then(|Place { sequence, row }| {
                let ticket = state.ticket(sequence)?;
                let ticket = *places.entry(sequence).or_insert_with(|| {
                    submitted.tickets.push(ticket.clone());
                    submitted.tickets.len() - 1
                });
                Some(Decider { ticket, row: row as usize })
            });
            submitted.fates.push((fate, decider));
        }
        let wake = state.has_closed() || (!had_open && state.has_open());
        drop(state);
        if wake {
            self.changed.notify_waiters();
        }
        Ok(submitted)
    }

    /// The next batch to insert, when there is one that is due. `None` after [`Intake::stop`], when all are out.
    pub async fn next(&self) -> Option<Batch> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = self.lock().poll(Instant::now());
            let wait_until = match next {
                Next::Batch(batch) => return Some(batch),
                Next::Ended => return None,
                Next::At(due) => Some(due),
                Next::Change => None,
            };
            match wait_until {
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// A batch is stored: its ids move into the window and its requests are told.
    pub fn stored(&self, promise: &Promise, now: i64) {
        // In slices, so that requests are not held up for as long as a whole batch takes.
        for keys in promise.keys.chunks(4_096) {
            self.lock().stored(keys, now);
        }
        self.lock().ended(promise.sequence);
        self.settle(promise, Outcome::Stored);
    }

    /// The same, but some of its events are dead letters: their ids are forgotten, so that they can be sent again.
    pub fn stored_without(&self, promise: &Promise, now: i64, refused: &poison::Refused) {
        let forgotten: HashSet<EventKey> =
            refused.ids.iter().map(|(project, id)| self.hasher.key(project, id)).collect();
        let mut state = self.lock();
        forgotten.iter().for_each(|key| state.forget(std::slice::from_ref(key)));
        drop(state);
        let is_stored = |key: &&EventKey| !forgotten.contains(key);
        let stored: Vec<_> = promise.keys.iter().filter(is_stored).copied().collect();
        for keys in stored.chunks(4_096) {
            self.lock().stored(keys, now);
        }
        self.lock().ended(promise.sequence);
        self.settle(promise, Outcome::StoredWithout(Arc::new(refused.rows.clone())));
    }

    /// A batch is on the disk and will be stored: its requests are told. Its ids stay pending, so a repeat waits for it.
    pub fn sealed(&self, promise: &Promise) {
        self.settle(promise, Outcome::Sealed);
    }

    /// A batch was not attempted and will not be, or its file is damaged: its ids are forgotten and its requests are told.
    pub fn handed_back(&self, promise: &Promise) {
        let mut state = self.lock();
        state.forget(&promise.keys);
        state.ended(promise.sequence);
        drop(state);
        self.settle(promise, Outcome::HandedBack);
    }

    fn settle(&self, promise: &Promise, outcome: Outcome) {
        self.lock().settled(promise.sequence);
        promise.outcome.send_replace(outcome);
        self.changed.notify_waiters();
    }

    /// Takes the ids of a batch that an earlier process left on the disk: they are pending until it is stored.
    pub fn adopt<'a>(&self, ids: impl Iterator<Item = (&'a str, &'a str)>) -> Promise {
        let keys = ids.map(|(project, id)| self.hasher.key(project, id)).collect();
        self.lock().adopt(keys)
    }

    /// Whether the disk takes no more. Until it does, everything is refused before it is taken.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Batches follow each other so much slower than the configuration says: `None` for its pace.
    pub fn slow_down(&self, pace: Option<Duration>) {
        self.lock().slow_down(pace);
    }

    /// Refuses new events and lets [`Intake::next`] end when the last batch is out.
    pub fn stop(&self) {
        self.lock().phase = Phase::Stopping;
        self.changed.notify_waiters();
    }

    /// Figures for metrics.
    pub fn gauges(&self, now: i64) -> Gauges {
        self.lock().gauges(now)
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;
    use tallyhouse_schema::normalise::{Agent, Context, ProjectRules, normalise};
    use tallyhouse_schema::raw::read;
    use tallyhouse_schema::user_hash::UserHasher;
    use tallyhouse_sql::migrations::{MAX_BATCHES_AHEAD, MAX_PARTITIONS_PER_BATCH, MAX_PARTITIONS_PER_INSERT};

    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        rows: 3,
        bytes: 1 << 20,
        linger: Duration::from_millis(5),
        pace: Duration::from_millis(50),
        inserts: 2,
        waiting: 1,
        insert_timeout: Duration::from_secs(1),
        refused_grace: Duration::ZERO,
    };

    fn intake() -> Intake {
        let intake = Intake::new(LIMITS, DedupLimits { window: Duration::from_secs(3_600), ids: 1_000 });
        intake.open();
        intake
    }

    fn submit(intake: &Intake, ids: &[&str]) -> Result<Submitted, Refused> {
        let rules = ProjectRules { project: "p".into(), late_window_days: 7, retention_days: 30, may_import: false };
        let (catalogue, hasher) = (Catalogue::default(), UserHasher::new([0; 16]));
        let context = Context {
            catalogue: &catalogue,
            rules: &rules,
            hasher: &hasher,
            agent: &|_| Agent::default(),
            new_id: &|| "generated".to_owned(),
            received_at: 1,
        };
        let bodies: Vec<String> = ids
            .iter()
            .map(|id| match *id {
                "" => r#"{"eventType":"a"}"#.to_owned(),
                id => format!(r#"{{"eventType":"a","eventId":"{id}"}}"#),
            })
            .collect();
        let events: Vec<_> =
            bodies.iter().map(|body| normalise(read(body).unwrap(), None, context).unwrap().event).collect();
        intake.submit("p", &events)
    }

    fn fates(submitted: &Submitted) -> Vec<Fate> {
        submitted.fates.iter().map(|(fate, _)| *fate).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slower_pace_holds_until_it_is_taken_back() {
        let intake = intake();
        let slow = LIMITS.pace * 10;
        let mut waited = Vec::new();
        for (id, pace) in [("1", Some(slow)), ("2", Some(LIMITS.pace / 10)), ("3", None)] {
            intake.slow_down(pace);
            submit(&intake, &[id]).unwrap();
            let started = Instant::now();
            drop(intake.next().await.unwrap());
            waited.push(started.elapsed());
        }
        // Each pace counts from the batch before; one below the configured pace is not kept.
        assert_eq!(waited[0], LIMITS.linger);
        assert!(waited[1] >= slow.mul_f64(0.79), "{waited:?}");
        assert!(waited[2] >= LIMITS.pace.mul_f64(0.79) && waited[2] < slow / 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_lingers_for_company_and_keeps_the_pace() {
        let intake = intake();
        submit(&intake, &["1"]).unwrap();
        submit(&intake, &["2"]).unwrap();
        let started = Instant::now();
        let first = intake.next().await.unwrap();
        assert_eq!((first.rows, first.promise.keys.len(), started.elapsed()), (2, 2, LIMITS.linger));
        submit(&intake, &["3"]).unwrap();
        let started = Instant::now();
        let second = intake.next().await.unwrap();
        let waited = started.elapsed();
        assert!(waited >= LIMITS.pace.mul_f64(0.79) && waited <= LIMITS.pace.mul_f64(1.21), "{waited:?}");
        intake.stored(&first.promise, 1);
        intake.stored(&second.promise, 1);
        submit(&intake, &["4", "5", "6", "7"]).unwrap();
        let started = Instant::now();
        assert_eq!(
            (intake.next().await.unwrap().rows, started.elapsed()),
            (3, Duration::ZERO),
            "a full batch does not wait"
        );
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_batch_that_its_first_copy_is_in() {
        let intake = intake();
        let first = submit(&intake, &["1"]).unwrap();
        let batch = intake.next().await.unwrap();
        let repeat = submit(&intake, &["1"]).unwrap();
        assert_eq!(fates(&repeat), [Fate::Duplicate]);
        assert_eq!(*repeat.tickets[0].borrow(), Outcome::Pending);
        intake.stored(&batch.promise, 1);
        for submitted in [first, repeat] {
            assert_eq!(*submitted.tickets[0].borrow(), Outcome::Stored);
        }
        let later = submit(&intake, &["1"]).unwrap();
        assert!(fates(&later) == [Fate::Duplicate] && later.tickets.is_empty(), "stored events need no waiting");
    }

    #[tokio::test]
    async fn what_is_handed_back_is_new_again() {
        let intake = intake();
        let first = submit(&intake, &["1", "1"]).unwrap();
        assert_eq!(fates(&first), [Fate::Accepted, Fate::Duplicate]);
        let batch = intake.next().await.unwrap();
        intake.handed_back(&batch.promise);
        assert_eq!(*first.tickets[0].borrow(), Outcome::HandedBack);
        assert_eq!(fates(&submit(&intake, &["1"]).unwrap()), [Fate::Accepted]);
    }

    #[tokio::test]
    async fn generated_ids_are_never_duplicates() {
        let intake = intake();
        assert_eq!(fates(&submit(&intake, &["", ""]).unwrap()), [Fate::Accepted, Fate::Accepted]);
    }

    #[tokio::test]
    async fn a_full_intake_refuses_whole_requests_until_there_is_room() {
        let intake = intake();
        submit(&intake, &["1", "2", "3", "4", "5", "6", "7"]).unwrap();
        assert_eq!(submit(&intake, &["8"]).unwrap_err(), Refused::Full);
        let batch = intake.next().await.unwrap();
        assert_eq!(batch.rows, 3);
        submit(&intake, &["8"]).unwrap();
        intake.stored(&batch.promise, 1);
    }

    #[tokio::test]
    async fn no_batch_touches_more_partitions_than_an_insert_may() {
        let limits = BatchLimits { rows: 1_000_000, ..LIMITS };
        let intake = Intake::new(limits, DedupLimits { window: Duration::from_secs(1), ids: 1_000_000 });
        intake.open();
        // A request of a long history, and others of projects with other retentions, until the intake takes no more.
        let history = |retention_days| -> Vec<Event<'static>> {
            let week = |week: u32| Event {
                ts: i64::from(week) * 7 * 86_400_000,
                retention_days,
                flags: Flags::GENERATED_ID,
                ..Event::default()
            };
            (0..MAX_PARTITIONS_PER_BATCH - 1).map(week).collect()
        };
        let taken = (1..20).take_while(|days| intake.submit("p", &history(*days)).is_ok()).count();
        assert_eq!(taken, 3);
        intake.stop();
        let mut rows = Vec::new();
        while let Some(batch) = intake.next().await {
            // Each row is in a partition of its own.
            rows.push(batch.rows);
            intake.stored(&batch.promise, 1);
        }
        assert_eq!(rows, [212, 421]);
        assert!(rows.iter().all(|rows| *rows <= MAX_PARTITIONS_PER_INSERT as usize), "{rows:?}");
    }

    #[tokio::test]
    async fn an_uncertain_batch_holds_back_what_is_too_far_ahead() {
        let intake = Intake::new(
            BatchLimits { rows: 1, waiting: 1_000, ..LIMITS },
            DedupLimits { window: Duration::from_secs(1), ids: 1_000 },
        );
        intake.open();
        let ids: Vec<String> = (0..=MAX_BATCHES_AHEAD + 1).map(|n| n.to_string()).collect();
        submit(&intake, &ids.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let stuck = intake.next().await.unwrap();
        for _ in 0..MAX_BATCHES_AHEAD {
            let batch = intake.next().await.unwrap();
            intake.stored(&batch.promise, 1);
        }
        let mut next = std::pin::pin!(intake.next());
        assert!(futures_util::poll!(&mut next).is_pending());
        intake.stored(&stuck.promise, 1);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn stopping_flushes_and_ends() {
        let intake = Arc::new(intake());
        submit(&intake, &["1"]).unwrap();
        intake.stop();
        assert_eq!(submit(&intake, &["2"]).unwrap_err(), Refused::Stopping);
        let batch = intake.next().await.unwrap();
        intake.stored(&batch.promise, 1);
        assert!(intake.next().await.is_none());
    }
}
