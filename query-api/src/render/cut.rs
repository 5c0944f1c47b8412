//! Pages, and what an answer says about what it leaves out: `meta.cut`.
//!
//! A series is never cut: where rows have time buckets, a page is of groups, and each group has all of its buckets.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::{Row, compare};
use crate::plan::structured::StructuredPlan;
use crate::request::structured::{Column, Order};

/// What was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cut {
    what: &'static str,
    shown: usize,
    /// How many there are; absent where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<usize>,
    /// Of at least so many, where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<usize>,
    /// The `offset` of the next page, where there are pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<usize>,
    /// Where the rest is, in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<&'static str>,
}

impl Cut {
    /// Of groups, of which so many are shown, and of which there are others.
    pub const fn of_groups(shown: usize, of: Option<usize>) -> Self {
        Self::of("groups", shown, of)
    }

    /// Of what, of which so many are shown, and of which there are others.
    pub const fn of(what: &'static str, shown: usize, of: Option<usize>) -> Self {
        let at_least = if of.is_some() { None } else { Some(shown + 1) };
        Self { what, shown, of, at_least, next_offset: None, rest: None }
    }

    /// Whose rest is in rows that are marked `other`, if so.
    #[must_use]
    pub const fn rest_in_other(mut self, is_there: bool) -> Self {
        self.rest = if is_there { Some("other") } else { None };
        self
    }
}

/// A page of an answer.
#[derive(Debug)]
pub struct Page {
    /// Place among pages' units of each group; `None` where rows are counted.
    places: Option<BTreeMap<Vec<String>, usize>>,
    units: usize,
    offset: usize,
    limit: usize,
}

impl Page {
    /// Of the rows in order.
    pub fn of(plan: &StructuredPlan, rows: &[Row]) -> Self {
        let (offset, limit) = (plan.shape.offset, plan.shape.limit);
        if plan.period.frame.is_none() {
            return Self { places: None, units: rows.len(), offset, limit };
        }
        let groups = groups(plan, rows);
        let units = groups.len();
        let places = groups.into_iter().enumerate().map(|(place, group)| (group, place)).collect();
        Self { places: Some(places), units, offset, limit }
    }

    /// The rows that the page shows.
    pub fn rows<'a>(&'a self, rows: &'a [Row]) -> impl Iterator<Item = &'a Row> {
        rows.iter().enumerate().filter(|(place, row)| self.has(*place, row)).map(|(_, row)| row)
    }

    fn has(&self, place: usize, row: &Row) -> bool {
        let unit = self.places.as_ref().map_or(Some(place), |places| places.get(&row.groups).copied());
        unit.is_some_and(|unit| unit >= self.offset && unit - self.offset < self.limit)
    }

    /// The groups of this page and of those before it.
    pub fn groups_so_far(&self) -> usize {
        self.offset.saturating_add(self.limit).min(self.units)
    }

    /// Those groups; `None` when nothing comes after them.
    pub fn groups_before_the_rest(&self, rows: &[Row]) -> Option<Vec<Vec<String>>> {
        let end = self.groups_so_far();
        if end >= self.units {
            return None;
        }
        Some(match &self.places {
            Some(places) => places.iter().filter(|(_, place)| **place < end).map(|(group, _)| group.clone()).collect(),
            None => rows.iter().take(end).map(|row| row.groups.clone()).collect(),
        })
    }

    /// What comes after it.
    pub fn cut(&self) -> Option<Cut> {
        let end = self.groups_so_far();
        let what = if self.places.is_some() { "groups" } else { "rows" };
        let shown = end.saturating_sub(self.offset);
        let cut = Cut { next_offset: Some(end), ..Cut::of(what, shown, Some(self.units)) };
        (end < self.units).then_some(cut)
    }
}

/// The groups of rows, in the order of their pages: as asked, by the sum of a metric over their buckets (the greatest, where
/// it does not add up), else the greatest first metric first.
fn groups(plan: &StructuredPlan, rows: &[Row]) -> Vec<Vec<String>> {
    let adds_up: Vec<bool> = plan.shape.metrics.iter().map(|metric| metric.nature().of_nothing.is_some()).collect();
    let mut merged: BTreeMap<&[String], Row> = BTreeMap::new();
    for row in rows {
        let Some(known) = merged.get_mut(row.groups.as_slice()) else {
            merged.insert(&row.groups, row.clone());
            continue;
        };
        for ((known, metric), adds_up) in known.metrics.iter_mut().zip(&row.metrics).zip(&adds_up) {
            *known = match (*known, *metric) {
                (Some(a), Some(b)) => Some(if *adds_up { a + b } else { a.max(b) }),
                (a, b) => a.or(b),
            };
        }
    }
    let is_time = |column: Column| matches!(column, Column::Dimension(place) if place == plan.shape.time_place);
    let first_metric = Order { column: Column::Metric(0), descending: true };
    let orders: Vec<Order> = plan.shape.order_by.iter().copied().filter(|order| !is_time(order.column)).collect();
    let mut groups: Vec<Row> = merged.into_values().collect();
    groups.sort_by(|a, b| {
        let asked = orders.iter().chain([&first_metric]).map(|order| compare(plan, *order, a, b));
        asked
            .reduce(std::cmp::Ordering::then)
            .unwrap_or(std::cmp::Ordering::Equal)
            .then_with(|| a.groups.cmp(&b.groups))
    });
    groups.into_iter().map(|row| row.groups).collect()
}
