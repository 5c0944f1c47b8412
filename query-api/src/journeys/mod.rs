//! What people did after one another, told from raw events: funnels and retention.
//!
//! ```text
//! body -> Journey (funnel | retention) -> JourneyPlan -> size -> one statement -> render -> Rendered
//!            400 with the field           cache key      422      422, 503, 504
//! ```
//!
//! No rollup knows who did what first, so both read events one by one, in the class of ad-hoc queries. Three limits keep
//! that bearable: a range of a year, [`MOST_EVENTS`] events (looked up before anything is read: the refusal says what would
//! fit), and the store's own limits of memory and time. Nothing found is an answer of zeros.
//!
//! A person is a `user_hash`. Events without one (0) belong to nobody: they are left out and counted in
//! `meta.events_without_user`. An event that was stored twice counts once.

pub mod funnel;
pub mod retention;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use funnel::{Funnel, FunnelPlan};
pub use retention::{Retention, RetentionPlan};

use crate::cache::Rendered;
use crate::condition::{Condition, Field};
use crate::plan::newest::Newest;
use crate::plan::read::Source;
use crate::render::meta::About;
use crate::request::body::Part;
use crate::request::filter_tree::Tests;
use crate::request::query::event_types_of;
use crate::request::{BadRequest, values};
use crate::sql::journeys as statements;
use crate::store::{Answered, Ask, Cost, ReadError, Store};
use crate::time::{MINUTE, Zone};

/// Events that one question reads at most, so that it ends well within the 30 s of a query. Measured on two cores, with parts
/// yet to be merged: a funnel of four steps over 10.5 M events of 500,000 people took 2.6 s, with a breakdown 4.7 s; daily
/// retention over 13 M events 6.0 s.
pub const MOST_EVENTS: u64 = 25_000_000;

const KINDS: [&str; 2] = ["funnel", "retention"];

/// A question about people's ways.
#[derive(Debug, Clone, PartialEq)]
pub enum Journey {
    /// How many people go how far.
    Funnel(Funnel),
    /// How many people come back.
    Retention(Retention),
}

/// What is read. Equal plans have equal answers, which makes a plan the cache's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JourneyPlan {
    /// How many people go how far.
    Funnel(FunnelPlan),
    /// How many people come back.
    Retention(RetentionPlan),
}

impl Journey {
    /// Reads a body whose field `kind` says which it is; `now_ms` is the present.
    pub fn parse(root: &Part<'_>, now_ms: i64) -> Result<Self, BadRequest> {
        let kind = root.member("kind")?;
        match kind.text()? {
            "funnel" => Funnel::parse(root, now_ms).map(Self::Funnel),
            "retention" => Retention::parse(root, now_ms).map(Self::Retention),
            _ => Err(kind.unknown("kind of query", KINDS)),
        }
    }

    /// Every event type that the caller named.
    pub fn event_types(&self) -> BTreeSet<String> {
        match self {
            Self::Funnel(funnel) => {
                event_types_of(funnel.steps.iter().map(|step| &step.condition).chain([&funnel.condition]))
            }
            Self::Retention(retention) => event_types_of([&retention.cohort, &retention.returns]),
        }
    }

    /// Numbers among the values of filters that are not written as they are counted; and how they are.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        match self {
            Self::Funnel(funnel) => {
                let steps = funnel.steps.iter().map(|step| &step.condition);
                steps.chain([&funnel.condition]).flat_map(Condition::numbers_as_texts).collect()
            }
            Self::Retention(retention) => {
                [&retention.cohort, &retention.returns].into_iter().flat_map(Condition::numbers_as_texts).collect()
            }
        }
    }

    /// Plans it at `now_ms`. Everything that can be asked can be read.
    pub fn plan(&self, now_ms: i64) -> JourneyPlan {
        match self {
            Self::Funnel(funnel) => JourneyPlan::Funnel(funnel.plan(now_ms)),
            Self::Retention(retention) => JourneyPlan::Retention(retention.plan(now_ms)),
        }
    }
}

/// Which events a plan looks at: what a project's events are narrowed down to by their key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// From this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// Only of these types, or `None` for all.
    pub types: Option<Vec<String>>,
}

impl Scan {
    fn of(from: i64, to: i64, condition: &Condition) -> Self {
        let types = condition.event_types().map(|types| types.into_iter().map(str::to_owned).collect());
        Self { from, to, types }
    }
}

impl JourneyPlan {
    /// Which events it looks at.
    pub fn scan(&self) -> Scan {
        match self {
            Self::Funnel(plan) => plan.scan(),
            Self::Retention(plan) => plan.scan(),
        }
    }
}

/// Asks ClickHouse for whoever `ask` says; `generated_s` is the present in seconds, for the answer's meta.
pub async fn compute(
    store: &Store,
    ask: &Ask,
    plan: &JourneyPlan,
    generated_s: i64,
) -> Result<(Rendered, Cost), ReadError> {
    let (scan, project) = (plan.scan(), ask.project.as_str());
    let Answered { rows: sizes, cost } = store.read::<statements::Size>(&statements::size(&scan, project), ask).await?;
    within_limits(&scan, sizes.first().map_or(0, |size| size.events))?;
    match plan {
        JourneyPlan::Funnel(plan) => {
            let found = store.read(&statements::funnel(plan, project), ask).await?;
            Ok((funnel::render::render(plan, &found.rows, generated_s), cost + found.cost))
        }
        JourneyPlan::Retention(plan) => {
            let found = store.read(&statements::retention(plan, project), ask).await?;
            Ok((retention::render::render(plan, &found.rows, generated_s), cost + found.cost))
        }
    }
}

/// Refuses what is too much, and says how long a range of so many events an hour would not be.
fn within_limits(scan: &Scan, events: u64) -> Result<(), ReadError> {
    if events <= MOST_EVENTS {
        return Ok(());
    }
    let minutes = u64::try_from((scan.to - scan.from) / MINUTE).unwrap_or(0);
    let fitting = u128::from(minutes) * u128::from(MOST_EVENTS) / u128::from(events);
    let fitting_hours = u64::try_from(fitting / 60).unwrap_or(u64::MAX);
    Err(ReadError::TooManyEvents { events, limit: MOST_EVENTS, fitting_hours })
}

/// What every answer says: read from raw events, exact.
fn about(zone: &Zone, (from, to): (i64, i64), newest_ms: Option<i64>, generated_s: i64) -> About<'_> {
    About {
        tables: vec![Source::Raw.table()],
        zone,
        from,
        to,
        newest: newest_ms.map(Newest::exact),
        errors: Vec::new(),
        overflowed: Vec::new(),
        generated_s,
    }
}

/// A part of a whole, 0 to 1; of nobody it is 0.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The events of the type that a field names, a test of its own.
fn of_type(part: &Part<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    tests.count(part)?;
    Ok(Condition::is(Field::EventType, [values::event_type_field(part)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    #[test]
    fn the_kind_decides() {
        let parsed = |text: &str| Journey::parse(&Part::root(&body::parse(text.as_bytes()).unwrap()), 0);
        for (text, expected) in [
            ("[]", "a list is not an object"),
            ("{}", "`kind`: it must be given"),
            (r#"{"kind":1}"#, "`kind`: `1` is not a text"),
            (
                r#"{"kind":"funel"}"#,
                "`kind`: there is no kind of query `funel`; known: funnel, retention; did you mean",
            ),
            (r#"{"kind":"funnel"}"#, "`steps`: it must be given"),
            (r#"{"kind":"retention"}"#, "`cohort`: it must be given"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_too_much_is_told_with_what_would_fit() {
        let scan = Scan { from: 0, to: 200 * 3_600, types: None };
        assert_eq!(within_limits(&scan, MOST_EVENTS), Ok(()));
        let refused = within_limits(&scan, MOST_EVENTS * 4).unwrap_err();
        assert_eq!(
            refused,
            ReadError::TooManyEvents { events: MOST_EVENTS * 4, limit: MOST_EVENTS, fitting_hours: 50 }
        );
        assert!(refused.to_string().contains("about 50 hours"), "{refused}");
    }
}
