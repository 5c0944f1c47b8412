//! Joins readings into one table: a row per bucket and group, with every metric.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::accuracy;
use crate::metric_definitions::Definition;
use crate::metric_definitions::definition::FormulaPart;
use crate::metric_definitions::interval::Bounds;
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
    /// What is known of the true value of each.
    pub bounds: Vec<Bounds>,
}

/// The rows of a period; `found` are the points of each reading. Without groups every bucket has a row.
pub fn rows(plan: &StructuredPlan, period: &Period, found: &[Vec<Point>]) -> Vec<Row> {
    let starts = period.frame.as_ref().map_or_else(|| vec![period.from], |frame| frame.grid().starts());
    let mut measured: BTreeMap<(i64, &[String]), Vec<Option<&Point>>> = BTreeMap::new();
    if plan.shape.by.is_empty() {
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
    let errors = accuracy::of_parts(plan, &period.reads);
    let row = |((at, groups), points): ((i64, &[String]), Vec<Option<&Point>>)| Row {
        bucket: starts.binary_search(&at).unwrap_or_else(|place| place.saturating_sub(1)),
        at,
        groups: groups.to_vec(),
        metrics: metrics(plan, &points),
        bounds: bounds(plan, &points, &errors),
    };
    measured.into_iter().map(row).collect()
}

fn metrics(plan: &StructuredPlan, points: &[Option<&Point>]) -> Vec<Option<f64>> {
    let metrics = plan.shape.metrics.iter().zip(&plan.places);
    metrics.map(|(metric, places)| metric.value(&parts(metric, places, points))).collect()
}

fn bounds(plan: &StructuredPlan, points: &[Option<&Point>], errors: &[Vec<f64>]) -> Vec<Bounds> {
    let errors = errors.iter().map(|errors| |part: usize| errors.get(part).copied().unwrap_or(0.0));
    let metrics = plan.shape.metrics.iter().zip(&plan.places).zip(errors);
    metrics.map(|((metric, places), error)| metric.bounds(&parts(metric, places, points), error)).collect()
}

/// The values that a metric is computed from.
fn parts(metric: &Definition, places: &[(usize, usize)], points: &[Option<&Point>]) -> Vec<Option<f64>> {
    let part = |(part, (reading, place)): (&FormulaPart, &(usize, usize))| match points.get(*reading).copied().flatten()
    {
        Some(point) => point.measured.get(*place).copied().flatten(),
        None => part.measure.of_nothing(),
    };
    metric.parts.iter().zip(places).map(part).collect()
}

/// The groups that are shown of a series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Greatest {
    /// Values of what is grouped by.
    pub groups: Vec<Vec<String>>,
    /// Whether there are others.
    pub truncated: bool,
    /// How many there are with them, where they were counted.
    pub of: usize,
}

impl Greatest {
    /// By the first metric where it adds up, else by the greatest part that it is computed from, as a share of many is worth
    /// more than of few; `found` are all groups over the whole range.
    pub fn of(plan: &StructuredPlan, found: &[Vec<Point>], most: usize) -> Self {
        let mut measured: BTreeMap<&[String], Vec<Option<&Point>>> = BTreeMap::new();
        for (reading, points) in found.iter().enumerate() {
            for point in points {
                let group = measured.entry(&point.groups).or_insert_with(|| vec![None; found.len()]);
                if let Some(place) = group.get_mut(reading) {
                    *place = Some(point);
                }
            }
        }
        let size = |points: &[Option<&Point>]| {
            let (Some(metric), Some(places)) = (plan.shape.metrics.first(), plan.places.first()) else { return 0.0 };
            let parts = parts(metric, places, points);
            let own = metric.value(&parts).filter(|_| metric.nature().of_nothing.is_some());
            own.map_or_else(|| parts.iter().flatten().fold(0.0, |most: f64, part| most.max(part.abs())), f64::abs)
        };
        let mut sized: Vec<(f64, &[String])> =
            measured.into_iter().map(|(group, points)| (size(&points), group)).collect();
        sized.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
        let (of, truncated) = (sized.len(), sized.len() > most);
        Self { groups: sized.into_iter().take(most).map(|(_, group)| group.to_vec()).collect(), truncated, of }
    }

    /// As ClickHouse ranked them.
    pub fn ranked(points: &[Point], most: u32) -> Self {
        let groups: BTreeSet<&Vec<String>> =
            points.iter().filter(|point| point.rank <= most).map(|point| &point.groups).collect();
        let truncated = points.iter().any(|point| point.rank > most);
        Self { of: groups.len() + usize::from(truncated), groups: groups.into_iter().cloned().collect(), truncated }
    }
}

/// Orders rows as asked, then by time, then the greatest first metric first, so that the order is always the same.
pub fn sort(plan: &StructuredPlan, rows: &mut [Row]) {
    let first_metric = Order { column: Column::Metric(0), descending: true };
    rows.sort_by(|a, b| {
        let asked = plan.shape.order_by.iter().map(|order| compare(plan, *order, a, b)).find(|order| order.is_ne());
        asked
            .unwrap_or(Ordering::Equal)
            .then(a.at.cmp(&b.at))
            .then_with(|| compare(plan, first_metric, a, b))
            .then_with(|| a.groups.cmp(&b.groups))
    });
}

/// What has no value comes last in either direction.
pub(super) fn compare(plan: &StructuredPlan, order: Order, a: &Row, b: &Row) -> Ordering {
    let directed = |ordering: Ordering| if order.descending { ordering.reverse() } else { ordering };
    match order.column {
        Column::Metric(place) => {
            let value = |row: &Row| row.metrics.get(place).copied().flatten();
            match (value(a), value(b)) {
                (Some(a), Some(b)) => directed(a.total_cmp(&b)),
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        Column::Dimension(place) if plan.period.frame.is_some() && place == plan.shape.time_place => {
            directed(a.at.cmp(&b.at))
        }
        Column::Dimension(place) => {
            let group = place - usize::from(plan.period.frame.is_some() && place > plan.shape.time_place);
            directed(a.groups.get(group).cmp(&b.groups.get(group)))
        }
    }
}
