//! From a question to a plan: a pure function of the query, the catalogue and the present.
//!
//! The planner takes the coarsest rollup that answers *exactly*. Coarser means fewer rows; exact means that every border of a
//! bucket, and both ends of the range, fall between two of the rollup's own buckets.

pub mod anomalies;
pub mod chunks;
pub mod comparison;
pub mod dimensions;
pub mod error;
pub mod event_types;
pub mod frame;
pub mod funnel;
pub mod newest;
pub mod read;
pub mod retention;
pub mod scan;
pub mod series;
pub mod source;
pub mod structured;
mod suggest;

use serde::Serialize;
use tallyhouse_schema::{Catalogue, Rollup};

pub use anomalies::AnomalyPlan;
pub use error::Unplannable;
pub use event_types::EventTypesPlan;
pub use frame::Frame;
pub use funnel::FunnelPlan;
pub use retention::RetentionPlan;
pub use series::SeriesPlan;
pub use structured::StructuredPlan;

use self::read::Read;
use crate::admission::Class;
use crate::request::{DailyQuery, Query, SeriesQuery};
use crate::time::{Granularity, Grid, MINUTE, Zone, minute_floor};

/// What is read. Equal plans have equal answers, which makes a plan the cache's key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Plan {
    /// A series of one metric.
    Series(SeriesPlan),
    /// The last minutes.
    Realtime(RealtimePlan),
    /// A day's report.
    Daily(DailyPlan),
    /// What is unusual in a series.
    Anomalies(AnomalyPlan),
    /// How many users take one step after another.
    Funnel(FunnelPlan),
    /// How many users come back.
    Retention(RetentionPlan),
    /// Several metrics by any dimensions.
    Structured(Box<StructuredPlan>),
    /// Which types of event there are.
    EventTypes(Box<EventTypesPlan>),
}

/// A series of one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum OneSeries {
    /// Of a built-in one.
    BuiltIn(Box<SeriesPlan>),
    /// Of a registered one: always with buckets of time.
    Registered(Box<StructuredPlan>),
}

/// The real-time dashboard: two windows that end now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RealtimePlan {
    /// Start of the shorter window, 5 minutes ago, widened to a whole minute.
    pub short_from: i64,
    /// Start of the longer window, 30 minutes ago, widened likewise.
    pub long_from: i64,
    /// The end of the running minute.
    pub to: i64,
}

/// A day's report, and the day before for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DailyPlan {
    /// The local date.
    pub date: String,
    pub zone: Zone,
    #[serde(serialize_with = "source::as_table")]
    pub rollup: Rollup,
    /// Start of the day before.
    pub previous_from: i64,
    /// The end of what is compared of it: as much of it as has passed of the day.
    pub previous_to: i64,
    /// What that is read from.
    #[serde(serialize_with = "source::as_table")]
    pub previous_rollup: Rollup,
    /// Start of the day.
    pub from: i64,
    /// Start of the day after.
    pub to: i64,
    /// Whether the day is over.
    pub complete: bool,
}

impl DailyPlan {
    /// The rows that its statement reads, without the parts that it makes of them.
    pub fn read(&self) -> Read {
        Read { from: self.previous_from, ..Read::total(self.rollup, self.from, self.to) }
    }
}

impl RealtimePlan {
    /// Likewise.
    pub fn read(&self) -> Read {
        Read::total(Rollup::Minute, self.long_from, self.to)
    }
}

impl From<OneSeries> for Plan {
    fn from(series: OneSeries) -> Self {
        match series {
            OneSeries::BuiltIn(plan) => Self::Series(*plan),
            OneSeries::Registered(plan) => Self::Structured(plan),
        }
    }
}

/// Plans a series of one metric.
pub fn one_series(query: &SeriesQuery, catalogue: &Catalogue, now_ms: i64) -> Result<OneSeries, Unplannable> {
    match query {
        SeriesQuery::BuiltIn(query) => {
            series::plan(query, catalogue, now_ms).map(|plan| OneSeries::BuiltIn(Box::new(plan)))
        }
        SeriesQuery::Registered(query) => {
            structured::plan(query, catalogue, now_ms).map(|plan| OneSeries::Registered(Box::new(plan)))
        }
    }
}

impl Plan {
    /// Who waits for it: raw events are for people who can wait.
    pub fn class(&self) -> Class {
        match self {
            Self::Realtime(_) => Class::Realtime,
            Self::Funnel(_) | Self::Retention(_) => Class::AdHoc,
            Self::Structured(plan) if plan.reads_raw() => Class::AdHoc,
            Self::EventTypes(plan) if plan.sampled > 0 => Class::AdHoc,
            Self::EventTypes(_) | Self::Series(_) | Self::Daily(_) | Self::Anomalies(_) | Self::Structured(_) => {
                Class::Dashboard
            }
        }
    }
}

/// Plans a query at `now_ms`. What a refusal suggests is answered.
pub fn plan(query: &Query, catalogue: &Catalogue, now_ms: i64) -> Result<Plan, Unplannable> {
    let is_answered = |query: &Query, now_ms| planned(query, catalogue, now_ms).is_ok();
    planned(query, catalogue, now_ms).map_err(|refusal| suggest::instead(refusal, query, now_ms, is_answered))
}

fn planned(query: &Query, catalogue: &Catalogue, now_ms: i64) -> Result<Plan, Unplannable> {
    match query {
        Query::Metric(query) => series::plan(query, catalogue, now_ms).map(Plan::Series),
        Query::Realtime => Ok(Plan::Realtime(realtime(now_ms))),
        Query::Daily(query) => daily(query, now_ms).map(Plan::Daily),
        Query::Anomalies(query) => anomalies::plan(query, catalogue, now_ms).map(Plan::Anomalies),
        Query::Funnel(query) => Ok(Plan::Funnel(funnel::plan(query, now_ms))),
        Query::Retention(query) => Ok(Plan::Retention(retention::plan(query, now_ms))),
        Query::EventTypes(query) => {
            event_types::plan(query, catalogue, now_ms).map(|plan| Plan::EventTypes(Box::new(plan)))
        }
        Query::Structured(query) => {
            structured::plan(query, catalogue, now_ms).map(|plan| Plan::Structured(Box::new(plan)))
        }
    }
}

fn realtime(now_ms: i64) -> RealtimePlan {
    let minutes_ago = |minutes: i64| minute_floor(now_ms) - minutes * MINUTE;
    RealtimePlan { short_from: minutes_ago(5), long_from: minutes_ago(30), to: minute_floor(now_ms) + MINUTE }
}

fn daily(query: &DailyQuery, now_ms: i64) -> Result<DailyPlan, Unplannable> {
    let zone = &query.zone;
    let start = |date: Result<jiff::civil::Date, _>| date.map_or(0, |date| zone.day_start(date));
    let (previous_from, from, to) =
        (start(query.date.yesterday()), start(Ok(query.date)), start(query.date.tomorrow()));
    let hours = Grid::over(Granularity::Hour, zone, previous_from, to);
    let complete = to.saturating_mul(1_000) <= now_ms;
    let rollup = source::choose(previous_from, to, &hours, now_ms)?;
    // To the end of the running minute.
    let passed = minute_floor(now_ms) + MINUTE - from;
    let (previous_from, previous_to) = match complete {
        true => (previous_from, from),
        // The day before may be an hour shorter.
        false => (previous_from.min(from - passed), previous_from.min(from - passed) + passed),
    };
    let one = Grid::Even { origin: previous_from, width: (previous_to - previous_from).max(1), count: 1 };
    let previous_rollup = match complete {
        true => rollup,
        false => source::choose(previous_from, previous_to, &one, now_ms)?,
    };
    Ok(DailyPlan {
        date: query.date.to_string(),
        zone: zone.clone(),
        rollup,
        previous_from,
        previous_to,
        previous_rollup,
        from,
        to,
        complete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Params;
    use crate::request::query::DAILY_PARAMS;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn daily_plan(query: &str) -> Result<DailyPlan, Unplannable> {
        let query = DailyQuery::parse(&Params::parse(Some(query), DAILY_PARAMS).unwrap(), NOW).unwrap();
        match plan(&Query::Daily(query), &Catalogue::default(), NOW)? {
            Plan::Daily(plan) => Ok(plan),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_day_is_read_from_hours_where_its_hours_are_utc_hours() {
        assert_eq!(daily_plan("").unwrap().rollup, Rollup::Hour);
        assert_eq!(daily_plan("timezone=America/New_York&date=2026-11-01").unwrap().rollup, Rollup::Hour);
        assert_eq!(daily_plan("timezone=Asia/Kolkata").unwrap().rollup, Rollup::Quarter);
        assert_eq!(daily_plan("timezone=Asia/Kolkata&date=2022-06-01").unwrap().rollup, Rollup::Quarter);
        let gone = daily_plan("timezone=Asia/Kolkata&date=2020-06-01").unwrap_err().to_string();
        // The day before is in the report too.
        assert!(gone.contains("kept for 1826 days: ask for a start of 2021-11-22T00:00:00+05:30"), "{gone}");
    }

    #[test]
    fn days_are_as_long_as_the_clocks_make_them() {
        let plan = daily_plan("timezone=America/New_York&date=2026-11-01").unwrap();
        assert_eq!((plan.to - plan.from, plan.from - plan.previous_from), (25 * 3_600, 24 * 3_600));
        assert!(plan.complete && !daily_plan("date=2026-11-20").unwrap().complete);
    }

    #[test]
    fn a_running_day_is_compared_with_as_much_of_the_day_before() {
        let plan = daily_plan("date=2026-11-20").unwrap();
        let passed = 12 * 3_600 + 35 * 60;
        assert_eq!((plan.previous_to - plan.previous_from, plan.from - plan.previous_from), (passed, 86_400));
        assert_eq!((plan.rollup, plan.previous_rollup), (Rollup::Hour, Rollup::Minute));
        let whole = daily_plan("").unwrap();
        assert_eq!((whole.previous_to, whole.previous_rollup), (whole.from, Rollup::Hour));
    }

    #[test]
    fn realtime_windows_are_widened_to_whole_minutes_and_stable_within_one() {
        let plan = realtime(NOW);
        assert_eq!(plan, realtime(NOW + 3_000));
        assert_eq!((plan.to - plan.short_from, plan.to - plan.long_from), (360, 1_860));
    }
}
