//! How far each metric of an answer may be off, over all values that the answer shows: the error of a formula depends on its values.

use std::collections::BTreeMap;

use super::meta::Error;
use super::table::Row;
use crate::metric_definitions::Definition;
use crate::metric_definitions::definition::{Expression, FormulaPart};
use crate::metric_definitions::interval::{Bounds, Margin, wider};
use crate::plan::read::Read;
use crate::plan::structured::{Period, StructuredPlan};

/// Significant digits of a margin, which is rounded up.
const DIGITS: i32 = 4;

/// The widest margins of what was shown so far.
#[derive(Debug)]
pub struct Accuracy<'a> {
    plan: &'a StructuredPlan,
    margins: Vec<Margin>,
    /// Percentage points that changes may be off, by the place of the metric.
    changes: BTreeMap<usize, Option<f64>>,
}

impl<'a> Accuracy<'a> {
    /// Of an answer that shows nothing yet.
    pub fn of(plan: &'a StructuredPlan) -> Self {
        Self { plan, margins: vec![Margin::NONE; plan.shape.metrics.len()], changes: BTreeMap::new() }
    }

    /// Of an answer that shows these rows too.
    #[must_use]
    pub fn with<'r>(mut self, rows: impl IntoIterator<Item = &'r Row>) -> Self {
        rows.into_iter().for_each(|row| self.shows(row));
        self
    }

    /// A row is shown.
    pub fn shows(&mut self, row: &Row) {
        for (margin, (value, bounds)) in self.margins.iter_mut().zip(row.metrics.iter().zip(&row.bounds)) {
            *margin = margin.or_wider(bounds.margin(*value));
        }
    }

    /// A row is shown beside that of the period before, or beside nothing.
    pub fn compares(&mut self, row: &Row, before: Option<&Row>) {
        before.into_iter().for_each(|before| self.shows(before));
        for (place, metric) in self.plan.shape.metrics.iter().enumerate() {
            let value = |row: &Row| row.metrics.get(place).copied().flatten();
            let nothing = metric.nature().of_nothing;
            let (now, then) = (value(row), before.map_or(nothing, value));
            let (Some(now_value), Some(then_value)) = (now, then.filter(|then| *then != 0.0)) else { continue };
            let bounds = |row: &Row| row.bounds.get(place).copied().unwrap_or(Bounds::Exact);
            let interval = bounds(row).interval(now).zip(before.map_or(Bounds::Exact, bounds).interval(then));
            let change = (now_value - then_value) / then_value.abs() * 100.0;
            let points = interval.and_then(|(now, then)| now.change_percent(then)?.margin(change).absolute);
            let widest = self.changes.entry(place).or_insert(Some(0.0));
            *widest = wider(*widest, points);
        }
    }

    /// What there is to say of each metric that is estimated.
    pub fn errors(&self) -> Vec<(String, Error)> {
        let metrics = self.plan.shape.metrics.iter().enumerate();
        metrics.filter_map(|(place, metric)| Some((metric.name.clone(), self.error(place, metric)?))).collect()
    }

    fn error(&self, place: usize, metric: &Definition) -> Option<Error> {
        let plan = self.plan;
        let periods = [Some(&plan.period), plan.previous.as_ref()].into_iter().flatten();
        let reads = |period: &'a Period| [period.reads.as_slice(), period.totals.as_slice()];
        let places = plan.places.get(place)?;
        let of_reads = |reads: &'a [Read]| {
            let part = |(part, (reading, _)): (&FormulaPart, &(usize, usize))| {
                Error::of(part.measure, &reads.get(*reading)?.source)
            };
            metric.parts.iter().zip(places).filter_map(part).collect::<Vec<_>>()
        };
        let parts: Vec<Error> = periods.flat_map(reads).flat_map(of_reads).collect();
        let kind = parts.iter().map(|error| error.kind).max()?;
        let widest = parts.iter().filter_map(|error| error.relative).fold(0.0, f64::max);
        let change_percent = self.changes.get(&place).map(|points| points.map(rounded_up));
        let Margin { relative, absolute } = *self.margins.get(place)?;
        let (relative, absolute) = match metric.expression {
            Expression::Part(_) => (Some(widest), None),
            Expression::Number(_) | Expression::Of(..) => (relative.map(rounded_up), absolute.map(rounded_up)),
        };
        Some(Error { kind, relative, absolute, change_percent })
    }
}

/// For each metric and part, how far it may be off, read like this: a part of its true value, 0 of what is exact.
pub fn of_parts(plan: &StructuredPlan, reads: &[Read]) -> Vec<Vec<f64>> {
    let error = |(part, (reading, _)): (&FormulaPart, &(usize, usize))| {
        let error = reads.get(*reading).and_then(|read| Error::of(part.measure, &read.source));
        error.and_then(|error| error.relative).unwrap_or(0.0)
    };
    let metrics = plan.shape.metrics.iter().zip(&plan.places);
    metrics.map(|(metric, places)| metric.parts.iter().zip(places).map(error).collect()).collect()
}

/// To a few digits, and never less: a bound must stay one.
fn rounded_up(margin: f64) -> f64 {
    if margin < 1e-12 || !margin.is_finite() {
        return margin;
    }
    let power = DIGITS - 1 - margin.abs().log10().floor() as i32;
    let scaled = margin * 10_f64.powi(power);
    // What was a round number before it was computed with is one.
    let up = if (scaled - scaled.round()).abs() < 1e-6 { scaled.round() } else { scaled.ceil() };
    if power >= 0 { up / 10_f64.powi(power) } else { up * 10_f64.powi(-power) }
}

#[cfg(test)]
mod tests {
    use super::super::meta::ErrorKind;
    use super::*;

    #[test]
    fn margins_are_rounded_up() {
        for (margin, expected) in
            [(0.0, 0.0), (0.012_345, 0.012_35), (4_836.2, 4_837.0), (123_456.0, 123_500.0), (0.0081, 0.0081)]
        {
            assert_eq!(rounded_up(margin), expected);
        }
    }

    #[test]
    fn kinds_are_ordered_by_how_little_they_promise() {
        assert!(ErrorKind::Standard > ErrorKind::Bound);
    }
}
