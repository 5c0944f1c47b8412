//! A series of one metric, built in or registered: what `GET /v1/metrics/{name}`, its stream and its anomalies ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::query::{MetricQuery, Query};
use super::structured::{StructuredQuery, Time};
use super::window::Window;
use crate::time::Granularity;

/// A series of one metric.
#[derive(Debug, Clone, PartialEq)]
pub enum SeriesQuery {
    /// Of a built-in one.
    BuiltIn(MetricQuery),
    /// Of one that the project registered; see [`StructuredQuery::series`].
    Registered(Box<StructuredQuery>),
}

impl SeriesQuery {
    pub fn window(&self) -> Window {
        match self {
            Self::BuiltIn(query) => query.window,
            Self::Registered(query) => query.window,
        }
    }

    /// The same over another range.
    #[must_use]
    pub fn over(self, window: Window) -> Self {
        match self {
            Self::BuiltIn(query) => Self::BuiltIn(MetricQuery { window, ..query }),
            Self::Registered(query) => Self::Registered(Box::new(StructuredQuery { window, ..*query })),
        }
    }

    /// Every event type that the caller named, also by a registered metric.
    pub fn event_types(&self) -> BTreeSet<String> {
        match self {
            Self::BuiltIn(query) => query.event_types(),
            Self::Registered(query) => query.event_types(),
        }
    }

    /// Numbers among the values of filters that are not written as they are counted; and how they are.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        match self {
            Self::BuiltIn(query) => query.condition().numbers_as_texts(),
            Self::Registered(query) => query.shape.condition.numbers_as_texts(),
        }
    }

    /// The width of buckets, or `None` for what makes a readable chart.
    pub fn granularity(&self) -> Option<Granularity> {
        match self {
            Self::BuiltIn(query) => query.granularity,
            Self::Registered(query) => match query.time {
                Some(Time::Of(granularity)) => Some(granularity),
                Some(Time::Readable) | None => None,
            },
        }
    }

    /// The same in buckets of this width.
    #[must_use]
    pub fn in_buckets_of(self, granularity: Granularity) -> Self {
        match self {
            Self::BuiltIn(query) => Self::BuiltIn(MetricQuery { granularity: Some(granularity), ..query }),
            Self::Registered(query) => {
                Self::Registered(Box::new(StructuredQuery { time: Some(Time::Of(granularity)), ..*query }))
            }
        }
    }
}

impl From<SeriesQuery> for Query {
    fn from(series: SeriesQuery) -> Self {
        match series {
            SeriesQuery::BuiltIn(query) => Self::Metric(query),
            SeriesQuery::Registered(query) => Self::Structured(*query),
        }
    }
}
