//! Readings joined into one table: a row per bucket and group, with every metric.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::plan::structured::{Period, StructuredPlan};
use crate::request::structured::{Column, Order};
use crate::sql::Point;

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Place of its bucket in the range, from 0.
    pub bucket: usize,
    /// Start of its bucket, in seconds.
    pub at: i64,
    /// Values of what is grouped by.
    pub groups: Vec<String>,
    /// The metrics, in order.
    pub metrics: Vec<Option<f64>>,
}

/// The rows of a period; `found` are the points of each reading. Without groups every bucket has a row.
pub fn rows(plan: &StructuredPlan, period: &Period, found: &[Vec<Point>]) -> Vec<Row> {
    let starts = period.frame.as_ref().map_or_else(|| vec![period.from], |frame| frame.grid().starts());
    let mut measured: BTreeMap<(i64, &[String]), Vec<Option<&Point>>> = BTreeMap::new();
    if plan.by.is_empty() {
        measured.extend(starts.iter().map(|at| ((*at, [].as_slice()), vec![None; found.len()])));
    }
    for (reading, points) in found.iter().enumerate() {
        for point in points {
            let row = measured.entry((point.at, &point.groups)).or_insert_with(|| vec![None; found.len()]);
            if let Some(place) = row.get_mut(reading) {
                *place = Some(point);
            }
        }
    }
    let row = |((at, groups), points): ((i64, &[String]), Vec<Option<&Point>>)| Row {
        bucket: starts.binary_search(&at).unwrap_or_else(|place| place.saturating_sub(1)),
        at,
        groups: groups.to_vec(),
        metrics: metrics(plan, &points),
    };
    measured.into_iter().map(row).collect()
}

fn metrics(plan: &StructuredPlan, points: &[Option<&Point>]) -> Vec<Option<f64>> {
    let value = |(metric, places): (&std::sync::Arc<crate::metric::Definition>, &Vec<(usize, usize)>)| {
        let part = |(part, (reading, place)): (&crate::metric::definition::Part, &(usize, usize))| match points
            .get(*reading)
            .copied()
            .flatten()
        {
            Some(point) => point.measured.get(*place).copied().flatten(),
            None => part.measure.of_nothing(),
        };
        metric.value(&metric.parts.iter().zip(places).map(part).collect::<Vec<_>>())
    };
    plan.metrics.iter().zip(&plan.places).map(value).collect()
}

/// Orders rows as asked, then by time, then the greatest first metric first, so that the order is always the same.
pub fn sort(plan: &StructuredPlan, rows: &mut [Row]) {
    let first_metric = Order { column: Column::Metric(0), descending: true };
    rows.sort_by(|a, b| {
        let asked = plan.order_by.iter().map(|order| compare(plan, *order, a, b)).find(|order| order.is_ne());
        asked
            .unwrap_or(Ordering::Equal)
            .then(a.at.cmp(&b.at))
            .then_with(|| compare(plan, first_metric, a, b))
            .then_with(|| a.groups.cmp(&b.groups))
    });
}

/// What has no value comes last in either direction.
fn compare(plan: &StructuredPlan, order: Order, a: &Row, b: &Row) -> Ordering {
    let directed = |ordering: Ordering| if order.descending { ordering.reverse() } else { ordering };
    match order.column {
        Column::Metric(place) => {
            let value = |row: &Row| row.metrics.get(place).copied().flatten();
            match (value(a), value(b)) {
                (Some(a), Some(b)) => directed(a.total_cmp(&b)),
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        Column::Dimension(place) if plan.period.frame.is_some() && place == plan.time_place => {
            directed(a.at.cmp(&b.at))
        }
        Column::Dimension(place) => {
            let group = place - usize::from(plan.period.frame.is_some() && place > plan.time_place);
            directed(a.groups.get(group).cmp(&b.groups.get(group)))
        }
    }
}
