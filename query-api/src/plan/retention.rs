//! The plan of retention: raw events, by the table's key.

use serde::Serialize;

use super::scan::Scan;
use crate::condition::Condition;
use crate::request::Window;
use crate::request::retention::{Retention, Unit};
use crate::time::{Grid, Zone, grid, minute_ceil, minute_floor};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "retention")]
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

/// Plans retention at `now_ms`. Everything that can be asked can be read.
pub fn plan(query: &Retention, now_ms: i64) -> RetentionPlan {
    let (start, to) = query.range.bounds(now_ms);
    let unit = query.unit.granularity();
    let from = match query.range {
        Window::Closed { .. } => start,
        Window::Open { .. } | Window::Last { .. } => grid::floor(unit, &query.zone, start),
    };
    let last = grid::floor(unit, &query.zone, (to - 1).max(from));
    let end = (0..=query.periods).fold(last, |edge, _| grid::next(unit, &query.zone, edge));
    RetentionPlan {
        from,
        to,
        until: end.min(minute_ceil(now_ms)),
        over: end.min(minute_floor(now_ms)),
        timezone: query.zone.clone(),
        unit: query.unit,
        periods: query.periods,
        cohort: query.cohort.clone(),
        returns: query.returns.clone(),
        first_ever: false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::retention::with;

    /// 2026-11-20T12:34:56.789Z, a Friday.
    const NOW: i64 = 1_795_178_096_789;

    fn planned(field: &str, value: &str) -> RetentionPlan {
        plan(&with(field, value, NOW).unwrap(), NOW)
    }

    #[test]
    fn open_ranges_begin_with_whole_units_and_returns_are_known_until_now() {
        let shown = |plan: &RetentionPlan| [plan.from, plan.to, plan.until].map(|at| plan.timezone.rfc3339(at));
        let now = "2026-11-20T13:35:00+01:00";
        assert_eq!(shown(&planned("unit", r#""week""#)), ["2026-11-09T00:00:00+01:00", now, now]);
        assert_eq!(shown(&planned("unit", r#""day""#)), ["2026-11-14T00:00:00+01:00", now, now]);
        let closed = planned("date_range", r#"["2026-10-20","2026-10-21"]"#);
        let ends = ["2026-10-20T00:00:00+02:00", "2026-10-22T00:00:00+02:00", "2026-11-16T00:00:00+01:00"];
        assert_eq!(shown(&closed), ends);
    }

    #[test]
    fn edges_reach_to_the_last_period_of_the_last_cohort() {
        let edges = |plan: &RetentionPlan| -> Vec<_> {
            plan.edges().into_iter().map(|at| plan.timezone.date(at).to_string()).collect()
        };
        let closed = planned("date_range", r#"["2026-10-20","2026-10-26"]"#);
        let dates = ["2026-10-19", "2026-10-26", "2026-11-02", "2026-11-09", "2026-11-16", "2026-11-23"];
        assert_eq!(edges(&closed), dates);
        let one = planned("date_range", r#"["2026-10-19","2026-10-25"]"#);
        assert_eq!(edges(&one), ["2026-10-19", "2026-10-26", "2026-11-02", "2026-11-09", "2026-11-16"]);
    }

    #[test]
    fn any_event_is_a_return_unless_it_is_said_which() {
        assert_eq!(planned("return", "{}").scan().types, None);
        let types = planned("return", r#"{"event_type":"b","filters":[["is","country",["DE"]]]}"#).scan().types;
        assert_eq!(types, Some(vec!["a".to_owned(), "b".to_owned()]));
    }
}
