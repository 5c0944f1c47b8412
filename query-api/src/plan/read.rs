//! What one statement reads: the common form of everything that is counted, whatever the question.

use serde::{Serialize, Serializer};
use tallyhouse_schema::{DimSet, Rollup};

use super::frame::Frame;
use super::source;
use crate::condition::{Condition, Field};
use crate::metric_definitions::Measure;

/// Where it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A rollup, under one set of dimensions.
    Rollup {
        #[serde(serialize_with = "source::as_table")]
        rollup: Rollup,
        #[serde(serialize_with = "as_key")]
        set: DimSet,
    },
    /// Raw events: anything can be asked of them, at the price of reading each.
    Raw,
}

impl Source {
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Rollup { rollup, .. } => rollup.table(),
            Self::Raw => "events",
        }
    }

    /// Whether dimension values may have been counted as `__other__`.
    pub fn is_bounded(&self) -> bool {
        matches!(self, Self::Rollup { set, .. } if !set.is_total())
    }

    /// The precision of the state that users are counted with.
    pub const fn users_precision(&self) -> u8 {
        match self {
            Self::Rollup { rollup, .. } => rollup.users_precision(),
            // As in the hourly and daily rollups.
            Self::Raw => Rollup::Hour.users_precision(),
        }
    }
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Read {
    pub source: Source,
    pub condition: Condition,
    /// From this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// The buckets of time, or `None` for the whole range as one.
    pub buckets: Option<Frame>,
    /// What makes separate groups.
    pub by: Vec<Field>,
    /// What is computed, per bucket and group.
    pub measures: Vec<Measure>,
    /// Only the biggest groups over the whole range, by the first measure.
    pub top: Option<u32>,
}

impl Read {
    /// All events of a rollup between two seconds, of which nothing is computed.
    pub fn total(rollup: Rollup, from: i64, to: i64) -> Self {
        Self {
            source: Source::Rollup { rollup, set: DimSet::total() },
            condition: Condition::always(),
            from,
            to,
            buckets: None,
            by: Vec::new(),
            measures: Vec::new(),
            top: None,
        }
    }

    /// Whether nothing depends on the type of an event, so that rows of every type answer where a rollup has them.
    pub fn is_of_every_type(&self) -> bool {
        let has_them = matches!(&self.source, Source::Rollup { rollup, set } if rollup.has_every_type(set));
        has_them && !self.by.contains(&Field::EventType) && !self.condition.looks_at(&Field::EventType)
    }
}

fn as_key<S: Serializer>(set: &DimSet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(set.key())
}
