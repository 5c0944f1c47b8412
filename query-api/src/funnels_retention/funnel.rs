//! A funnel as JSON. A share of zero people is 0.

use serde::Serialize;
use tallyhouse_schema::dimension::OTHER;

use super::{about, share};
use crate::cache::Rendered;
use crate::plan::funnel::FunnelPlan;
use crate::render::{assemble, json};
use crate::request::funnel::Step;
use crate::sql::funnels_retention::{PeopleOf, Reached};

#[derive(Serialize)]
struct Body<'a> {
    query: &'a FunnelPlan,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    steps: Vec<Line<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    breakdown: Option<Breakdown<'a>>,
}

#[derive(Serialize)]
struct Breakdown<'a> {
    dimension: &'a str,
    values: Vec<OfValue<'a>>,
}

#[derive(Serialize)]
struct OfValue<'a> {
    value: &'a str,
    steps: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    step: usize,
    name: &'a str,
    users: u64,
    /// Part of those who took the first step.
    conversion_from_start: f64,
    /// Part of those who took the step before; of the first step, of itself.
    conversion_from_previous: f64,
    /// Those who took the step before and not this one.
    dropped: u64,
    /// `null` for the first step and where nobody came.
    median_seconds_from_previous: Option<f64>,
}

#[derive(Serialize)]
struct Own {
    /// What a person who tries more than once counts as.
    attempts: &'static str,
    events: u64,
    events_without_user: u64,
}

/// Renders what was found.
pub(super) fn render(plan: &FunnelPlan, rows: &[Reached], generated_s: i64) -> Rendered {
    let total = rows.iter().find(|row| row.part() == PeopleOf::Total);
    let values = rows.iter().filter(|row| row.part() != PeopleOf::Total).map(|row| OfValue {
        value: if row.part() == PeopleOf::Others { OTHER } else { &row.value },
        steps: lines(plan, Some(row)),
    });
    let breakdown =
        plan.breakdown.as_ref().map(|field| Breakdown { dimension: field.name(), values: values.collect() });
    let data = Data { steps: lines(plan, total), breakdown };
    let own = Own {
        attempts: "best_per_user",
        events: total.map_or(0, |row| row.events),
        events_without_user: total.map_or(0, |row| row.without_user),
    };
    let newest_ms = total.filter(|row| row.events > 0).and_then(|row| i64::try_from(row.newest_ms).ok());
    let about = about(&plan.timezone, (plan.from, plan.to), newest_ms, generated_s);
    assemble(&json::text(&Body { query: plan, data }), &about, &own)
}

fn lines<'a>(plan: &'a FunnelPlan, row: Option<&Reached>) -> Vec<Line<'a>> {
    let users = |place: usize| row.and_then(|row| row.users.get(place)).copied().unwrap_or(0);
    let line = |(place, step): (usize, &'a Step)| {
        let (here, before) = (users(place), users(place.saturating_sub(1)));
        let took = place.checked_sub(1).and_then(|place| row?.took.get(place).copied());
        Line {
            step: place + 1,
            name: &step.name,
            users: here,
            conversion_from_start: share(here, users(0)),
            conversion_from_previous: share(here, before),
            dropped: before.saturating_sub(here),
            median_seconds_from_previous: took.filter(|seconds| here > 0 && seconds.is_finite()),
        }
    };
    plan.steps.iter().enumerate().map(line).collect()
}
