//! Whether everything is rolled up that a plan reads: a dimension that is declared after events exist has no rows of them, nor have
//! quarters of an hour of events that were gone from raw when those were introduced.
//!
//! It is told by the rollups themselves, not by a record of declarations: whoever counted, and however often a declaration came and
//! went, a day on which a set has fewer events than the total is one that it misses. What is told is remembered for
//! `KNOWN_FOR`, in which a backfill may go on being warned of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tallyhouse_schema::Rollup;

use crate::cache::flight::Flights;
use crate::plan::read::{Read, Source};
use crate::plan::{OneSeries, Plan};
use crate::sql::{self, CountedDay};
use crate::store::{Ask, Class, ReadError, Store};
use crate::time::{DAY, Zone};
use crate::warning::Warning;

/// How long it is remembered.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// Sets of all projects that are remembered at most; a set has a few bytes for each day that it misses.
const MOST_SETS: u64 = 10_000;

/// How long an answer waits for its warnings.
const PATIENCE: Duration = Duration::from_millis(500);

/// What of a project is asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rows {
    /// Those of a set, of these types.
    Set { set: String, types: Vec<String> },
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

/// What is rolled up. Clones share what is remembered.
#[derive(Clone)]
pub struct Coverage {
    store: Store,
    known: Cache<(Arc<str>, Rows), Arc<Missing>>,
    flights: Flights<(Arc<str>, Rows), Result<Arc<Missing>, ReadError>>,
}

impl Coverage {
    /// Nothing remembered yet.
    pub fn new(store: Store) -> Self {
        let known = Cache::builder().max_capacity(MOST_SETS).time_to_live(KNOWN_FOR).build();
        Self { store, known, flights: Flights::default() }
    }

    /// A warning for each set of dimensions that does not hold every event of what a plan reads, and one for quarters of an hour.
    pub async fn warnings(&self, project: &str, plan: &Plan) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let asked: BTreeSet<(Rows, i64, i64)> = readings(plan).iter().filter_map(asked).collect();
        for (rows, from, to) in asked {
            let warning = match tokio::time::timeout(PATIENCE, self.missing(project, &rows)).await {
                Ok(Ok(missing)) => match missing.within(from, to) {
                    (0, _) => continue,
                    (events, gaps) => told(rows, events, &gaps),
                },
                Ok(Err(_)) | Err(_) => unknown(rows),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    async fn missing(&self, project: &str, rows: &Rows) -> Result<Arc<Missing>, ReadError> {
        let key = (Arc::<str>::from(project), rows.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let (coverage, flight) = (self.clone(), key.clone());
        let read = move || async move { coverage.read(flight).await };
        self.flights.join(key, read).await.1.unwrap_or(Err(ReadError::Failed))
    }

    async fn read(self, key: (Arc<str>, Rows)) -> Result<Arc<Missing>, ReadError> {
        let (project, rows) = &key;
        let statement = match rows {
            Rows::Set { set, types } => sql::counted_by_set(project, set, types),
            Rows::Quarters => sql::counted_by_quarter(project),
        };
        let ask = Ask { class: Class::Dashboard, project: project.to_string() };
        let days = self.store.rows::<CountedDay>(&statement, &ask).await?;
        let missing = Arc::new(Missing::of(&days));
        self.known.insert(key, Arc::clone(&missing));
        Ok(missing)
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
        Rows::Set { set, types } => (Some(set), types),
        Rows::Quarters => (None, Vec::new()),
    }
}

/// Sets that every type always had are not asked about.
fn asked(read: &Read) -> Option<(Rows, i64, i64)> {
    let Source::Rollup { rollup, set } = &read.source else { return None };
    let types = read.condition.event_types().map(|types| types.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let is_declared = !tallyhouse_schema::Catalogue::default().is_universal(set);
    let rows = match types {
        Some(types) if is_declared => Rows::Set { set: set.key().to_owned(), types },
        _ if *rollup == Rollup::Quarter => Rows::Quarters,
        _ => return None,
    };
    Some((rows, read.from, read.to))
}

fn readings(plan: &Plan) -> Vec<Read> {
    match plan {
        Plan::Series(plan) => vec![plan.read()],
        Plan::Structured(plan) => plan.readings().cloned().collect(),
        Plan::Anomalies(plan) => match &plan.series {
            OneSeries::BuiltIn(plan) => vec![plan.read()],
            OneSeries::Registered(plan) => plan.readings().cloned().collect(),
        },
        Plan::Daily(plan) => vec![plan.read()],
        Plan::Realtime(_) | Plan::Journey(_) | Plan::EventTypes(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
