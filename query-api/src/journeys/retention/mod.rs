//! How many of the people who began in one day or week come back in those after it.
//!
//! ```json
//! {"kind": "retention", "date_range": "30d", "timezone": "Europe/Berlin", "unit": "week", "periods": 8,
//!  "cohort": {"event_type": "signup", "filters": [["is", "device", ["web"]]]}, "return": {"event_type": "purchase"}}
//! ```
//!
//! * **Cohort**: the day or week (Monday to Sunday) of the person's first cohort event *within the range*, on the calendar of
//!   the zone: days have 23 to 25 hours. Whether the person did it before the range is not looked at
//!   (`"first_ever": false`). A range that reaches until now begins with the whole unit it begins in; of one that ends in the
//!   past, the first and the last unit may be cut, and their cohorts are marked `partial`.
//! * **Period** n is the n-th unit after the cohort's own, n from 0 to `periods`: period 0 is the rest of the cohort's own
//!   unit. Returns count also after the range, up to now.
//! * **Return**: a return event later than the person's cohort event, by at least a millisecond. Without `event_type` any
//!   event is one. A person counts once in a period.
//! * A period that has not begun is `null`, one that is not over is `partial`.
//! * **Average** of a period: returned people over all people, of the cohorts of which the period is over; `null` when there
//!   is none.

pub mod render;

use serde::Serialize;

use super::{Scan, of_type};
use crate::condition::Condition;
use crate::request::body::Part;
use crate::request::filter_tree::{self, Tests};
use crate::request::{BadRequest, Window, range, values};
use crate::time::{Granularity, Grid, Zone, grid, minute_ceil, minute_floor};

/// Units after a cohort's own that may be looked at: with weeks somewhat more than a year.
const PERIODS: std::ops::RangeInclusive<u64> = 1..=60;

const FIELDS: &[&str] = &["kind", "cohort", "return", "date_range", "timezone", "unit", "periods"];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// What makes a person part of a cohort.
    pub cohort: Condition,
    /// What counts as coming back.
    pub returns: Condition,
    /// The range that cohorts are of.
    pub range: Window,
    /// Whose calendar units follow.
    pub zone: Zone,
    /// How long a period is.
    pub unit: Unit,
    /// Periods after a cohort's own.
    pub periods: u32,
}

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A calendar day.
    Day,
    /// Monday to Sunday.
    Week,
}

impl Unit {
    const NAMES: [(&'static str, Self); 2] = [("day", Self::Day), ("week", Self::Week)];

    /// Its buckets.
    pub const fn granularity(self) -> Granularity {
        match self {
            Self::Day => Granularity::Day,
            Self::Week => Granularity::Week,
        }
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// Cohorts begin from this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// Returns are known to this second: the end of the last period, or now.
    pub until: i64,
    /// Units that end by this second are over: the minute that runs is read, but not yet whole.
    pub over: i64,
    /// Whose calendar units follow.
    pub timezone: Zone,
    /// How long a period is.
    pub unit: Unit,
    /// Periods after a cohort's own.
    pub periods: u32,
    /// What makes a person part of a cohort.
    pub cohort: Condition,
    /// What counts as coming back.
    #[serde(rename = "return")]
    pub returns: Condition,
    /// Whether a cohort is of those who never did it before: not looked at, so never.
    pub first_ever: bool,
}

impl Retention {
    pub(super) fn parse(root: &Part<'_>, now_ms: i64) -> Result<Self, BadRequest> {
        let fields = root.fields(FIELDS)?;
        let mut tests = Tests::of_document();
        let cohort = cohort(&fields.required("cohort")?, &mut tests)?;
        let returns = returns(&fields.required("return")?, &mut tests)?;
        let zone = values::zone_field(fields.get("timezone").as_ref())?;
        let periods = fields.required("periods")?.number(*PERIODS.start(), *PERIODS.end())?;
        Ok(Self {
            cohort,
            returns,
            range: range::parse(&fields.required("date_range")?, &zone, now_ms)?,
            zone,
            unit: unit(&fields.required("unit")?)?,
            periods: u32::try_from(periods).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn plan(&self, now_ms: i64) -> RetentionPlan {
        let (start, to) = self.range.bounds(now_ms);
        let unit = self.unit.granularity();
        let from = match self.range {
            Window::Closed { .. } => start,
            Window::Open { .. } | Window::Last { .. } => grid::floor(unit, &self.zone, start),
        };
        let last = grid::floor(unit, &self.zone, (to - 1).max(from));
        let end = (0..=self.periods).fold(last, |edge, _| grid::next(unit, &self.zone, edge));
        RetentionPlan {
            from,
            to,
            until: end.min(minute_ceil(now_ms)),
            over: end.min(minute_floor(now_ms)),
            timezone: self.zone.clone(),
            unit: self.unit,
            periods: self.periods,
            cohort: self.cohort.clone(),
            returns: self.returns.clone(),
            first_ever: false,
        }
    }
}

impl RetentionPlan {
    /// What must hold of an event to be looked at.
    pub fn looked_at(&self) -> Condition {
        Condition::Or(vec![self.cohort.clone(), self.returns.clone()])
    }

    /// Which events it looks at.
    pub fn scan(&self) -> Scan {
        Scan::of(self.from, self.until, &self.looked_at())
    }

    /// The units that events are put into.
    pub fn grid(&self) -> Grid {
        Grid::over(self.unit.granularity(), &self.timezone, self.from, self.until)
    }

    /// Starts of all units from the first cohort's on, to the end of the last period of the last cohort. Units that follow
    /// one another are neighbours, and one edge more than there are units.
    pub fn edges(&self) -> Vec<i64> {
        let unit = self.unit.granularity();
        let mut edges = vec![grid::floor(unit, &self.timezone, self.from)];
        let mut beyond = 0;
        while let Some(last) = edges.last().copied().filter(|_| beyond <= self.periods) {
            let next = grid::next(unit, &self.timezone, last);
            beyond += u32::from(next >= self.to);
            edges.push(next);
        }
        edges
    }
}

fn cohort(part: &Part<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let fields = part.fields(&["event_type", "filters"])?;
    let of_its_type = of_type(&fields.required("event_type")?, tests)?;
    Ok(of_its_type.and(filter_tree::parse_any(fields.get("filters").as_ref(), tests)?))
}

fn returns(part: &Part<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let fields = part.fields(&["event_type", "filters"])?;
    let of_its_type = fields.get("event_type").map(|part| of_type(&part, tests)).transpose()?;
    let filters = filter_tree::parse_any(fields.get("filters").as_ref(), tests)?;
    Ok(of_its_type.unwrap_or_else(Condition::always).and(filters))
}

fn unit(part: &Part<'_>) -> Result<Unit, BadRequest> {
    let text = part.text()?;
    let found = Unit::NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, unit)| unit);
    found.ok_or_else(|| part.unknown("unit", Unit::NAMES.map(|(name, _)| name)))
}

#[cfg(test)]
mod tests {
    use super::super::Journey;
    use super::*;
    use crate::request::body;

    /// 2026-11-20T12:34:56.789Z, a Friday.
    const NOW: i64 = 1_795_178_096_789;

    fn with(field: &str, value: &str) -> Result<Retention, BadRequest> {
        let mut fields = std::collections::BTreeMap::from([
            ("kind", r#""retention""#),
            ("cohort", r#"{"event_type":"a"}"#),
            ("return", "{}"),
            ("date_range", r#""7d""#),
            ("timezone", r#""Europe/Berlin""#),
            ("unit", r#""week""#),
            ("periods", "3"),
        ]);
        fields.insert(field, value);
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let value = body::parse(format!("{{{}}}", fields.join(",")).as_bytes())?;
        match Journey::parse(&Part::root(&value), NOW)? {
            Journey::Retention(retention) => Ok(retention),
            other => panic!("{other:?}"),
        }
    }

    fn plan(field: &str, value: &str) -> RetentionPlan {
        with(field, value).unwrap().plan(NOW)
    }

    #[test]
    fn open_ranges_begin_with_whole_units_and_returns_are_known_until_now() {
        let shown = |plan: &RetentionPlan| [plan.from, plan.to, plan.until].map(|at| plan.timezone.rfc3339(at));
        let now = "2026-11-20T13:35:00+01:00";
        assert_eq!(shown(&plan("unit", r#""week""#)), ["2026-11-09T00:00:00+01:00", now, now]);
        assert_eq!(shown(&plan("unit", r#""day""#)), ["2026-11-14T00:00:00+01:00", now, now]);
        let closed = plan("date_range", r#"["2026-10-20","2026-10-21"]"#);
        let ends = ["2026-10-20T00:00:00+02:00", "2026-10-22T00:00:00+02:00", "2026-11-16T00:00:00+01:00"];
        assert_eq!(shown(&closed), ends);
    }

    #[test]
    fn edges_reach_to_the_last_period_of_the_last_cohort() {
        let edges = |plan: &RetentionPlan| -> Vec<_> {
            plan.edges().into_iter().map(|at| plan.timezone.date(at).to_string()).collect()
        };
        let closed = plan("date_range", r#"["2026-10-20","2026-10-26"]"#);
        let dates = ["2026-10-19", "2026-10-26", "2026-11-02", "2026-11-09", "2026-11-16", "2026-11-23"];
        assert_eq!(edges(&closed), dates);
        let one = plan("date_range", r#"["2026-10-19","2026-10-25"]"#);
        assert_eq!(edges(&one), ["2026-10-19", "2026-10-26", "2026-11-02", "2026-11-09", "2026-11-16"]);
    }

    #[test]
    fn any_event_is_a_return_unless_it_is_said_which() {
        assert_eq!(plan("return", "{}").scan().types, None);
        let types = plan("return", r#"{"event_type":"b","filters":[["is","country",["DE"]]]}"#).scan().types;
        assert_eq!(types, Some(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn tests_of_both_conditions_are_counted_together() {
        let list = |many: usize| format!(r#"["and",[{}]]"#, vec![r#"["is","a",["x"]]"#; many].join(","));
        let returns = |last| format!(r#"{{"filters":[{}]}}"#, [30, 30, 30, last].map(list).join(","));
        assert!(with("return", &returns(9)).is_ok());
        let error = with("return", &returns(10)).unwrap_err().to_string();
        assert!(error.starts_with("`return.filters[3][1][9]`: this test is one more than the 100"), "{error}");
    }

    #[test]
    fn errors_say_where_and_what_would_do() {
        for (field, value, expected) in [
            ("cohort", "{}", "`cohort.event_type`: it must be given"),
            ("cohort", r#"{"event_type":"a","filter":[]}"#, "`cohort.filter`: there is no such field"),
            ("return", "null", "`return`: it must be given"),
            ("return", r#"{"event_type":7}"#, "`return.event_type`: `7` is not a text"),
            ("unit", r#""month""#, "`unit`: there is no unit `month`; known: day, week"),
            ("periods", "0", "`periods`: `0` is not a whole number from 1 to 60"),
            ("periods", "61", "`periods`: `61` is not"),
            ("periods", "\"3\"", "`periods`: `3` is not a whole number"),
            ("window", "1", "`window`: there is no such field"),
        ] {
            let error = with(field, value).unwrap_err().to_string();
            assert!(error.contains(expected), "{field} {value}: {error}");
        }
    }
}
