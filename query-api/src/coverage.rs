//! Whether the rollups cover what a plan reads. Events that came before a dimension was declared have no rows of it; quarters of an hour
//! have no rows of events that had left the raw table when quarters were introduced.
//!
//! Gaps are derived from the rollups: a set is missing on a day where it counts fewer events than the total. A record of declarations
//! would not do: it does not say who counted, or how often a declaration was removed and added again.
//!
//! ```text
//! read just now       given
//! read a while ago    given, and read again in the background: a cached answer does not wait for its warnings
//! not known           waited for, at most `QUERY_LOOK_UP_MS` over all of one answer; the reading goes on in the background
//! failed just now     unknown, without another try
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use moka::sync::Cache;
use tallyhouse_schema::{Catalogue, DimSet, Rollup};
use tokio::time::{Instant, timeout_at};

use crate::cache::single_flight::SingleFlight;
use crate::plan::read::{Read, Source};
use crate::plan::{OneSeries, Plan};
use crate::sql::{self, CountedDay};
use crate::store::{AdmissionRequest, Class, ReadError, Store};
use crate::time::{DAY, Zone};
use crate::warning::Warning;

/// How old it is when it is read again.
const YOUNG: Duration = Duration::from_secs(10);

/// How long it is remembered: a backfill may go on being warned of by the first answer after it.
const KEPT: Duration = Duration::from_secs(60);

/// How long nobody tries again what failed.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// Sets of all projects that are remembered at most; a set has a few bytes for each day that it misses.
const MOST_SETS: u64 = 10_000;

/// What of a project is asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rows {
    /// Those of a set, of these types as they were declared: what was read before a change is not believed after it.
    Set { set: String, types: Vec<String>, declared: String },
    /// Those of quarters of an hour.
    Quarters,
}

/// Days in a row of which events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    from: i64,
    to: i64,
}

/// What a set misses.
#[derive(Debug, Default)]
struct Missing {
    days: Vec<(i64, u64)>,
    gaps: Vec<Gap>,
}

impl Missing {
    fn of(days: &[CountedDay]) -> Self {
        let mut missing = Self::default();
        let mut is_open = false;
        for day in days {
            let lacks = day.events.saturating_sub(day.counted);
            match missing.gaps.last_mut().filter(|_| is_open && lacks > 0) {
                Some(gap) => gap.to = day.day + DAY,
                None if lacks > 0 => missing.gaps.push(Gap { from: day.day, to: day.day + DAY }),
                None => {}
            }
            is_open = lacks > 0;
            if lacks > 0 {
                missing.days.push((day.day, lacks));
            }
        }
        missing
    }

    /// Events of the UTC days that a range touches, and the gaps among them.
    fn within(&self, from: i64, to: i64) -> (u64, Vec<Gap>) {
        let touches = |start: i64, end: i64| start < to && end > from;
        let events = self.days.iter().filter(|(day, _)| touches(*day, day + DAY)).map(|(_, lacks)| lacks).sum();
        (events, self.gaps.iter().copied().filter(|gap| touches(gap.from, gap.to)).collect())
    }
}

/// Of which project, and what of it.
type Key = (Arc<str>, Rows);

/// What was read.
#[derive(Debug, Clone)]
struct CachedCoverage {
    missing: Arc<Missing>,
    read: Instant,
}

/// What is rolled up. Clones share what is remembered.
#[derive(Clone)]
pub struct Coverage {
    store: Store,
    /// How long an answer waits for all of its warnings.
    look_up: Duration,
    known: Cache<Key, CachedCoverage>,
    failed: Cache<Key, ()>,
    single_flight: SingleFlight<Key, Result<Arc<Missing>, ReadError>>,
}

impl Coverage {
    /// Nothing remembered yet.
    pub fn new(store: Store, look_up: Duration) -> Self {
        Self {
            store,
            look_up,
            known: Cache::builder().max_capacity(MOST_SETS).time_to_live(KEPT).build(),
            failed: Cache::builder().max_capacity(MOST_SETS).time_to_live(FAILED_FOR).build(),
            single_flight: SingleFlight::default(),
        }
    }

    /// A warning for each set of dimensions that does not hold every event of what a plan reads, and one for quarters of an hour.
    pub async fn warnings(&self, project: &str, plan: &Plan, catalogue: &Catalogue, deadline: Instant) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let readings = readings(plan);
        let asked: BTreeSet<(Rows, i64, i64)> = readings.iter().filter_map(|read| asked(read, catalogue)).collect();
        let until = deadline.min(Instant::now() + self.look_up);
        let missing = self.all_missing(project, asked.iter().map(|(rows, ..)| rows), until).await;
        for ((rows, from, to), missing) in asked.into_iter().zip(missing) {
            let warning = match missing {
                Some(missing) => match missing.within(from, to) {
                    (0, _) => continue,
                    (events, gaps) => told(rows, events, &gaps),
                },
                None => unknown(rows),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// Looked up at once: the time that an answer waits is for all of them.
    async fn all_missing(
        &self,
        project: &str,
        asked: impl Iterator<Item = &Rows>,
        until: Instant,
    ) -> Vec<Option<Arc<Missing>>> {
        join_all(asked.map(|rows| self.missing((Arc::from(project), rows.clone()), until))).await
    }

    async fn missing(&self, key: Key, until: Instant) -> Option<Arc<Missing>> {
        let known = self.known.get(&key);
        if let Some(known) = known.as_ref().filter(|known| known.read.elapsed() < YOUNG) {
            return Some(Arc::clone(&known.missing));
        }
        let reading = || {
            let (coverage, key) = (self.clone(), key.clone());
            async move { coverage.read(key).await }
        };
        let has_failed = self.failed.contains_key(&key);
        if !has_failed {
            // With nobody waiting: what takes longer is known to the next answer.
            self.single_flight.launch(&key, reading);
        }
        if known.is_some() || has_failed {
            return known.map(|known| known.missing);
        }
        timeout_at(until, self.single_flight.join(key.clone(), reading)).await.ok()?.1.ok()?.ok()
    }

    async fn read(self, key: Key) -> Result<Arc<Missing>, ReadError> {
        // It may have been read between somebody's look and this.
        if let Some(known) = self.known.get(&key).filter(|known| known.read.elapsed() < YOUNG) {
            return Ok(known.missing);
        }
        let (project, rows) = &key;
        let statement = match rows {
            Rows::Set { set, types, .. } => sql::counted_by_set(project, set, types),
            Rows::Quarters => sql::counted_by_quarter(project),
        };
        let ask = AdmissionRequest { class: Class::Dashboard, project: project.to_string(), deadline: None };
        let read = Instant::now();
        match self.store.rows::<CountedDay>(&statement, &ask).await {
            Ok(days) => {
                let missing = Arc::new(Missing::of(&days));
                self.known.insert(key, CachedCoverage { missing: Arc::clone(&missing), read });
                Ok(missing)
            }
            Err(error) => {
                self.failed.insert(key, ());
                Err(error)
            }
        }
    }
}

fn told(rows: Rows, missing_events: u64, gaps: &[Gap]) -> Warning {
    let utc = Zone::utc();
    let day = |at| utc.date(at).to_string();
    let gaps = gaps.iter().map(|gap| (day(gap.from), day(gap.to))).collect();
    let (dimensions, event_types) = named(rows);
    Warning::NotRolledUpThen { dimensions, event_types, missing_events, gaps }
}

fn unknown(rows: Rows) -> Warning {
    let (dimensions, event_types) = named(rows);
    Warning::CoverageUnknown { dimensions, event_types }
}

fn named(rows: Rows) -> (Option<String>, Vec<String>) {
    match rows {
        Rows::Set { set, types, .. } => (Some(set), types),
        Rows::Quarters => (None, Vec::new()),
    }
}

/// Whether every type always had the set.
fn is_of_all(set: &DimSet) -> bool {
    static UNDECLARED: LazyLock<Catalogue> = LazyLock::new(Catalogue::default);
    UNDECLARED.is_universal(set)
}

/// Sets that every type always had are not asked about.
fn asked(read: &Read, catalogue: &Catalogue) -> Option<(Rows, i64, i64)> {
    let Source::Rollup { rollup, set } = &read.source else { return None };
    let types = if is_of_all(set) { None } else { read.condition.event_types() };
    let rows = match types {
        Some(types) => Rows::Set {
            set: set.key().to_owned(),
            declared: revisions(&types, catalogue),
            types: types.into_iter().map(str::to_owned).collect(),
        },
        None if *rollup == Rollup::Quarter => Rows::Quarters,
        None => return None,
    };
    Some((rows, read.from, read.to))
}

/// The declarations that a plan relies on, as a part of the names of its answers; empty when it reads what every type always had.
pub fn declared(plan: &Plan, catalogue: &Catalogue) -> String {
    let relies = |read: &Cow<'_, Read>| match &read.source {
        Source::Rollup { set, .. } if !is_of_all(set) => {
            Some(read.condition.event_types().map_or_else(String::new, |types| revisions(&types, catalogue)))
        }
        Source::Rollup { .. } | Source::Raw => None,
    };
    let all: BTreeSet<String> = readings(plan).iter().filter_map(relies).collect();
    all.into_iter().collect()
}

/// Which declarations of these types are in force.
fn revisions(types: &BTreeSet<&str>, catalogue: &Catalogue) -> String {
    types.iter().map(|name| format!(" {name:?}@{}", catalogue.event_type(name).revision)).collect()
}

fn readings(plan: &Plan) -> Vec<Cow<'_, Read>> {
    match plan {
        Plan::Series(plan) => vec![Cow::Owned(plan.read())],
        Plan::Structured(plan) => plan.readings().map(Cow::Borrowed).collect(),
        Plan::Anomalies(plan) => match &plan.series {
            OneSeries::BuiltIn(plan) => vec![Cow::Owned(plan.read())],
            OneSeries::Registered(plan) => plan.readings().map(Cow::Borrowed).collect(),
        },
        Plan::Daily(plan) => vec![Cow::Owned(plan.read())],
        Plan::Realtime(_) | Plan::Funnel(_) | Plan::Retention(_) | Plan::EventTypes(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_service::metrics::Registry;
    use tallyhouse_sql::clickhouse::Client;
    use tokio::net::TcpListener;

    use super::*;
    use crate::admission::Policy;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn several_sets_are_looked_up_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::default().with_url(format!("http://{}", listener.local_addr().unwrap()));
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let store = Store::new(client, Policy::for_total(8), metrics);
        let coverage = Coverage::new(store, Duration::from_secs(60));
        let set = |set: &str| Rows::Set { set: set.to_owned(), types: vec!["a".to_owned()], declared: String::new() };
        let asked = [set("country"), set("device"), Rows::Quarters];
        let looking = tokio::spawn(async move {
            coverage.all_missing("p", asked.iter(), Instant::now() + Duration::from_secs(60)).await
        });
        // Nobody answers the first.
        let all = async { [listener.accept().await, listener.accept().await, listener.accept().await] };
        let asked = tokio::time::timeout(Duration::from_secs(5), all).await;
        assert!(asked.is_ok_and(|asked| asked.iter().all(Result::is_ok)));
        looking.abort();
    }

    #[test]
    fn days_with_fewer_events_than_the_total_are_gaps_and_days_without_any_are_none() {
        let day = |day, events, counted| CountedDay { day: day * DAY, events, counted };
        let missing = Missing::of(&[day(1, 5, 0), day(4, 2, 1), day(5, 3, 3), day(9, 1, 0)]);
        let gap = |from, to| Gap { from: from * DAY, to: to * DAY };
        assert_eq!(missing.gaps, [gap(1, 5), gap(9, 10)]);
        assert_eq!(missing.within(0, 100 * DAY), (7, vec![gap(1, 5), gap(9, 10)]));
        assert_eq!(missing.within(4 * DAY + 60, 6 * DAY), (1, vec![gap(1, 5)]));
        assert_eq!(missing.within(5 * DAY, 9 * DAY), (0, vec![]));
    }
}
