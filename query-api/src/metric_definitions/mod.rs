//! The built-in metrics: each is a measure, perhaps of one event type only.

pub mod definition;
pub mod interval;

use serde::Serialize;

use crate::time::Granularity;

pub use definition::Definition;

/// What is computed over the events of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Measure {
    Events,
    /// How many different users; estimated from a mergeable state.
    Users,
    /// The sum of values.
    ValueSum,
    /// The sum of values by their number.
    ValueAvg,
    /// The least value.
    ValueMin,
    /// The greatest value.
    ValueMax,
    /// A quantile of values; estimated from a mergeable sketch.
    ValueQuantile(Quantile),
}

/// A level that the rollups' sketch is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Quantile {
    P50,
    /// 95 %.
    P95,
    /// 99 %.
    P99,
}

impl Quantile {
    /// The place of the level in the merged array, from 1: the order of `schema`'s `QUANTILE_LEVELS`.
    pub const fn position(self) -> u8 {
        match self {
            Self::P50 => 1,
            Self::P95 => 2,
            Self::P99 => 3,
        }
    }
}

impl Measure {
    /// What a bucket without any event shows: nothing happened 0 times, but has no average.
    pub const fn of_nothing(self) -> Option<f64> {
        match self {
            Self::Events | Self::Users | Self::ValueSum => Some(0.0),
            Self::ValueAvg | Self::ValueMin | Self::ValueMax | Self::ValueQuantile(_) => None,
        }
    }

    /// Whether values are whole numbers.
    pub const fn is_count(self) -> bool {
        matches!(self, Self::Events | Self::Users)
    }
}

/// What a series' values are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nature {
    /// What a bucket without any event shows; `Some` where values add up.
    pub of_nothing: Option<f64>,
    /// Whether values are whole numbers.
    pub is_count: bool,
}

impl From<Measure> for Nature {
    fn from(measure: Measure) -> Self {
        Self { of_nothing: measure.of_nothing(), is_count: measure.is_count() }
    }
}

/// A metric of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name in the path.
    pub name: &'static str,
    /// What it computes.
    pub measure: Measure,
    /// The only event type that it is about, or `None` for a metric of all.
    pub event_type: Option<&'static str>,
    /// The only granularity that its name allows, or `None` for any.
    pub granularity: Option<Granularity>,
}

/// The event type whose value is revenue.
pub const PURCHASE: &str = "purchase";

/// All of them.
pub const METRICS: [Metric; 11] = [
    plain("events", Measure::Events),
    plain("users", Measure::Users),
    Metric { granularity: Some(Granularity::Day), ..plain("daily_active_users", Measure::Users) },
    Metric { event_type: Some(PURCHASE), ..plain("revenue", Measure::ValueSum) },
    plain("value_sum", Measure::ValueSum),
    plain("value_avg", Measure::ValueAvg),
    plain("value_min", Measure::ValueMin),
    plain("value_max", Measure::ValueMax),
    plain("value_p50", Measure::ValueQuantile(Quantile::P50)),
    plain("value_p95", Measure::ValueQuantile(Quantile::P95)),
    plain("value_p99", Measure::ValueQuantile(Quantile::P99)),
];

const fn plain(name: &'static str, measure: Measure) -> Metric {
    Metric { name, measure, event_type: None, granularity: None }
}

impl Metric {
    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        METRICS.into_iter().find(|metric| metric.name == name)
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::rollup::QUANTILE_LEVELS;

    use super::*;

    #[test]
    fn quantiles_stand_where_the_schema_keeps_them() {
        for (quantile, level) in [(Quantile::P50, 0.5), (Quantile::P95, 0.95), (Quantile::P99, 0.99)] {
            assert_eq!(QUANTILE_LEVELS[usize::from(quantile.position()) - 1], level);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }
}
