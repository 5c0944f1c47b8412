//! The event types of a project, and how many events of each: read from the daily rollup, cached per project. [`render`] writes
//! the answer of `GET /v1/event-types`.
//!
//! A cached type stays known, however old the list is. A type that is missing from a list older than [`NEW_AFTER`] causes one reading.
//! So a misspelt name costs at most one reading in that time, and a new type is known soon after its first event.

pub mod render;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::cache::single_flight::SingleFlight;
use crate::clock::Clock;
use crate::request::error::quoted;
use crate::request::suggest::nearest;
use crate::sql::{self, EventTypeRow};
use crate::store::{AdmissionRequest, Class, ReadError, Store};
use crate::warning::Warning;

/// Types that are remembered of one project: those with most events.
pub const MOST_TYPES: usize = 10_000;

/// A misspelt name is compared with no more types than these; comparing costs microseconds each.
const MOST_COMPARED: usize = 2_000;

/// Unknown types that are named in one answer at most: a filter may name thousands, and each costs [`MOST_COMPARED`].
const MOST_UNKNOWN: usize = 10;

/// Bytes of lists over all projects.
const MOST_BYTES: u64 = 16 << 20;

/// How old a list may be that says that a type does not exist.
pub const NEW_AFTER: Duration = Duration::from_secs(2);

/// How long a list is remembered at all.
const KEPT: Duration = Duration::from_secs(3_600);

/// A type of event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeCount {
    /// As events have it in `eventType`.
    pub name: Arc<str>,
    /// Events of it that are counted, over all the time that daily rollups are kept.
    pub events: u64,
    /// Start of the first day with one, in seconds since the epoch.
    pub first_day: i64,
    /// Start of the newest day with one, in seconds since the epoch.
    pub newest_day: i64,
}

/// The types of a project.
#[derive(Debug, Default)]
pub struct KnownTypes {
    /// Those with most events first, at most [`MOST_TYPES`].
    pub types: Vec<EventTypeCount>,
    /// Whether these are all.
    pub is_whole: bool,
    names: HashSet<Arc<str>>,
    read_ms: i64,
}

impl KnownTypes {
    fn of(rows: Vec<EventTypeRow>, read_ms: i64) -> Self {
        let is_whole = rows.len() <= MOST_TYPES;
        let one = |row: EventTypeRow| EventTypeCount {
            name: row.event_type.into(),
            events: row.events,
            first_day: row.first_day,
            newest_day: row.newest_day,
        };
        let types: Vec<EventTypeCount> = rows.into_iter().take(MOST_TYPES).map(one).collect();
        Self { is_whole, names: types.iter().map(|known| Arc::clone(&known.name)).collect(), types, read_ms }
    }

    /// Whether there ever was an event of the type, as far as the list tells.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The types most like a name, best first.
    pub fn nearest(&self, name: &str) -> Vec<String> {
        nearest(name, self.types.iter().take(MOST_COMPARED).map(|known| known.name.as_ref()))
    }

    /// Warnings about the names that are not among the types; none where not all types are known.
    fn unknown(&self, asked: &BTreeSet<String>) -> Vec<Warning> {
        let unknown = asked.iter().filter(|name| self.is_whole && !self.has(name)).take(MOST_UNKNOWN);
        unknown
            .map(|name| Warning::UnknownEventType { event_type: quoted(name), nearest: self.nearest(name) })
            .collect()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.types.iter().map(|known| known.name.len() + 2 * size_of::<EventTypeCount>()).sum::<usize>()
    }
}

/// The types of all projects that were asked about. Clones share them.
#[derive(Clone)]
pub struct EventTypes {
    store: Store,
    /// How long an answer waits for its warnings.
    look_up: Duration,
    clock: Clock,
    known: Cache<Arc<str>, Arc<KnownTypes>>,
    /// Projects whose types could not be read just now: their answers do not wait for it again at once.
    failed: Cache<Arc<str>, ()>,
    single_flight: SingleFlight<Arc<str>, Result<Arc<KnownTypes>, ReadError>>,
}

impl EventTypes {
    /// Nothing remembered yet.
    pub fn new(store: Store, look_up: Duration, clock: Clock) -> Self {
        let weigh = |project: &Arc<str>, known: &Arc<KnownTypes>| {
            u32::try_from(project.len() + known.bytes()).unwrap_or(u32::MAX)
        };
        Self {
            store,
            look_up,
            clock,
            known: Cache::builder().max_capacity(MOST_BYTES).weigher(weigh).time_to_live(KEPT).build(),
            failed: Cache::builder().max_capacity(10_000).time_to_live(NEW_AFTER).build(),
            single_flight: SingleFlight::default(),
        }
    }

    /// The types of a project, as they were no longer than `age` ago.
    pub async fn of(&self, project: &str, age: Duration) -> Result<Arc<KnownTypes>, ReadError> {
        let oldest_ms = (self.clock)() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        if let Some(known) = self.known.get(project).filter(|known| known.read_ms >= oldest_ms) {
            return Ok(known);
        }
        let (types, key) = (self.clone(), Arc::<str>::from(project));
        let read = || {
            let key = Arc::clone(&key);
            async move { types.read(key).await }
        };
        self.single_flight.join(Arc::clone(&key), read).await.1.unwrap_or(Err(ReadError::Failed))
    }

    async fn read(self, project: Arc<str>) -> Result<Arc<KnownTypes>, ReadError> {
        let ask = AdmissionRequest { class: Class::Dashboard, project: project.to_string(), deadline: None };
        let read_ms = (self.clock)();
        let rows = self.store.rows(&sql::event_types(&project, MOST_TYPES + 1), &ask).await?;
        let known = Arc::new(KnownTypes::of(rows, read_ms));
        self.known.insert(project, Arc::clone(&known));
        Ok(known)
    }

    /// A warning for each of the names that no event of the project ever had. None where that cannot be told: while
    /// ClickHouse does not answer within the time that is left, and in a project with more than [`MOST_TYPES`] types.
    pub async fn warnings(&self, project: &str, asked: &BTreeSet<String>, deadline: Instant) -> Vec<Warning> {
        let remembered = self.known.get(project);
        if asked.iter().all(|name| remembered.as_ref().is_some_and(|known| known.has(name))) {
            return Vec::new();
        }
        if self.failed.contains_key(project) {
            return Vec::new();
        }
        let until = deadline.min(Instant::now() + self.look_up);
        let Ok(Ok(known)) = tokio::time::timeout_at(until, self.of(project, NEW_AFTER)).await else {
            self.failed.insert(project.into(), ());
            return Vec::new();
        };
        known.unknown(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(event_type: &str, events: u64) -> EventTypeRow {
        EventTypeRow { event_type: event_type.to_owned(), events, first_day: 0, newest_day: 86_400 }
    }

    #[test]
    fn a_list_knows_its_names_and_those_like_them() {
        let known = KnownTypes::of(vec![row("signup", 5), row("purchase", 3)], 0);
        assert!(known.is_whole && known.has("signup") && !known.has("Signup"));
        assert_eq!((known.nearest("Sginup"), known.nearest("zzz")), (vec!["signup".to_owned()], vec![]));
    }

    #[test]
    fn however_many_unknown_types_are_asked_for_a_few_are_compared_and_named() {
        let known = KnownTypes::of(vec![row("signup", 5)], 0);
        let asked: BTreeSet<String> = (0..3_000).map(|number| format!("signup {number}")).collect();
        assert_eq!(known.unknown(&asked).len(), MOST_UNKNOWN);
        assert_eq!(known.unknown(&BTreeSet::from(["signup".to_owned(), "sgnup".to_owned()])).len(), 1);
    }

    #[test]
    fn a_list_that_is_cut_says_so() {
        let rows = (0..=MOST_TYPES).map(|number| row(&format!("type {number}"), 1)).collect();
        let known = KnownTypes::of(rows, 0);
        assert_eq!((known.is_whole, known.types.len()), (false, MOST_TYPES));
    }
}
