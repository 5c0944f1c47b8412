//! Retention as JSON: a row for every unit of the range, also those with an empty cohort. A share of zero people is 0.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{about, share};
use crate::cache::Rendered;
use crate::plan::retention::RetentionPlan;
use crate::render::{assemble, json};
use crate::sql::funnels_retention::{Cell, NOBODY};

#[derive(Serialize)]
struct Body<'a> {
    query: &'a RetentionPlan,
    data: Vec<Cohort>,
    /// By period, from 0.
    average: Vec<Option<f64>>,
}

#[derive(Serialize)]
struct Cohort {
    /// Start of its unit.
    cohort: String,
    /// People in it.
    users: u64,
    /// Whether its unit is not wholly in the range, or not over.
    partial: bool,
    /// By period, from 0; `null` for those that have not begun.
    periods: Vec<Option<Period>>,
}

#[derive(Serialize)]
struct Period {
    users: u64,
    rate: f64,
    /// Whether it is not over.
    partial: bool,
}

#[derive(Serialize)]
struct Own {
    /// Returns are known up to then.
    returns_until: String,
    events: u64,
    events_without_user: u64,
}

/// Renders what was found.
pub(super) fn render(plan: &RetentionPlan, cells: &[Cell], generated_s: i64) -> Rendered {
    let data = cohorts(plan, cells);
    let average = (0..=plan.periods as usize).map(|period| average(&data, period)).collect();
    let sum = |count: fn(&Cell) -> u64| cells.iter().map(count).sum::<u64>();
    let newest = cells.iter().map(|cell| cell.newest_ms).max();
    let own = Own {
        returns_until: plan.timezone.rfc3339(plan.until),
        events: sum(|cell| cell.events),
        events_without_user: sum(|cell| cell.without_user),
    };
    let about = about(&plan.timezone, (plan.from, plan.to), newest, generated_s);
    assemble(&json::text(&Body { query: plan, data, average }), &about, &own)
}

fn cohorts(plan: &RetentionPlan, cells: &[Cell]) -> Vec<Cohort> {
    let found: BTreeMap<(i64, i64), u64> =
        cells.iter().map(|cell| ((cell.cohort_at, cell.back_at), cell.users)).collect();
    let users = |cohort, back| found.get(&(cohort, back)).copied().unwrap_or(0);
    let edges = plan.edges();
    let units: Vec<Unit> = edges.windows(2).filter_map(Unit::of).collect();
    let of_unit = |own: &[Unit]| {
        let cohort = own.first().filter(|unit| unit.from < plan.to)?;
        let size = users(cohort.from, NOBODY);
        let period = |unit: &Unit| {
            (unit.from < plan.until).then(|| {
                let users = users(cohort.from, unit.from);
                Period { users, rate: share(users, size), partial: unit.to > plan.over }
            })
        };
        Some(Cohort {
            cohort: plan.timezone.rfc3339(cohort.from),
            users: size,
            partial: cohort.from < plan.from || cohort.to > plan.to,
            periods: own.iter().map(period).collect(),
        })
    };
    units.windows(plan.periods as usize + 1).filter_map(of_unit).collect()
}

#[derive(Debug, Clone, Copy)]
struct Unit {
    from: i64,
    to: i64,
}

impl Unit {
    fn of(edges: &[i64]) -> Option<Self> {
        let [from, to] = *edges else { return None };
        Some(Self { from, to })
    }
}

/// Over the people of those cohorts of which the period is over.
fn average(cohorts: &[Cohort], period: usize) -> Option<f64> {
    let over = cohorts.iter().filter_map(|cohort| {
        let found = cohort.periods.get(period)?.as_ref().filter(|period| !period.partial)?;
        Some((found.users, cohort.users))
    });
    over.reduce(|(a, of_a), (b, of_b)| (a + b, of_a + of_b)).map(|(users, all)| share(users, all))
}
