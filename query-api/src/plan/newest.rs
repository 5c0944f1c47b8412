//! The newest event that an answer counts, and where to look up its instant.
//!
//! A rollup names the bucket of the event. Finer tables give the rest, from that one bucket:
//!
//! ```text
//! days               -> minutes, or hours where minutes are gone -> raw events
//! hours, quarters    -> minutes, where they are kept             -> raw events
//! minutes            what an answer of minutes says, without a look-up
//! ```

use serde::Serialize;
use tallyhouse_schema::Rollup;

use super::read::{Read, Source};
use crate::time::DAY;

/// When the newest event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Newest {
    /// In milliseconds since the epoch: the instant, or the start of what it lies in.
    pub at_ms: i64,
    /// How finely that is known.
    pub precision: Precision,
}

/// The width of what an event is known to lie in, coarsest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// A UTC day.
    Day,
    Hour,
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    Minute,
    /// A second.
    Second,
    /// The instant, as events have it.
    Millisecond,
}

impl Precision {
    /// As a table tells it.
    pub const fn of(source: &Source) -> Self {
        match source {
            Source::Rollup { rollup: Rollup::Day, .. } => Self::Day,
            Source::Rollup { rollup: Rollup::Hour, .. } => Self::Hour,
            Source::Rollup { rollup: Rollup::Quarter, .. } => Self::Quarter,
            Source::Rollup { rollup: Rollup::Minute, .. } => Self::Minute,
            Source::Raw => Self::Millisecond,
        }
    }

    const fn width_ms(self) -> i64 {
        match self {
            Self::Day => DAY * 1_000,
            Self::Hour => 3_600_000,
            Self::Quarter => 900_000,
            Self::Minute => 60_000,
            Self::Second => 1_000,
            Self::Millisecond => 1,
        }
    }
}

impl Newest {
    /// As a reading's points tell it; `at_s` is in seconds.
    pub const fn of_points(source: &Source, at_s: i64) -> Self {
        let precision = match source {
            Source::Raw => Precision::Second,
            Source::Rollup { .. } => Precision::of(source),
        };
        Self { at_ms: at_s * 1_000, precision }
    }

    /// An instant that is known to the millisecond.
    pub const fn exact(at_ms: i64) -> Self {
        Self { at_ms, precision: Precision::Millisecond }
    }

    /// The first millisecond after what it lies in.
    pub const fn end_ms(&self) -> i64 {
        self.at_ms + self.precision.width_ms()
    }

    /// The reading of a table over what it lies in, within the range of the question.
    pub fn look(&self, read: &Read, source: Source) -> Read {
        let (from, to) = (self.at_ms.div_euclid(1_000), self.end_ms().div_euclid(1_000));
        Read {
            source,
            condition: read.condition.clone(),
            from: from.max(read.from),
            to: to.min(read.to),
            buckets: None,
            by: Vec::new(),
            measures: Vec::new(),
            top: None,
        }
    }
}

/// The tables that tell it more finely than one does, in order; `now_s` is the present.
pub fn finer(source: &Source, newest: &Newest, now_s: i64) -> Vec<Source> {
    let Source::Rollup { rollup, set } = source else { return vec![Source::Raw] };
    let are_minutes_kept = newest.at_ms.div_euclid(1_000) >= now_s - Rollup::Minute.retention_days() * DAY;
    let between = match rollup {
        Rollup::Minute => return Vec::new(),
        Rollup::Quarter | Rollup::Hour | Rollup::Day if are_minutes_kept => Some(Rollup::Minute),
        Rollup::Day => Some(Rollup::Hour),
        Rollup::Quarter | Rollup::Hour => None,
    };
    let between = between.map(|rollup| Source::Rollup { rollup, set: set.clone() });
    between.into_iter().chain([Source::Raw]).collect()
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::DimSet;

    use super::*;
    use crate::condition::Condition;

    fn rollup(rollup: Rollup) -> Source {
        Source::Rollup { rollup, set: DimSet::of(["country"]) }
    }

    #[test]
    fn finer_tables_are_asked_where_they_are_kept() {
        let now_s = 1_795_178_096;
        let tables = |source: Source, days_ago: i64| {
            let newest = Newest::of_points(&source, now_s - days_ago * DAY);
            finer(&source, &newest, now_s).iter().map(Source::table).collect::<Vec<_>>()
        };
        assert_eq!(tables(rollup(Rollup::Day), 2), ["rollup_1m", "events"]);
        assert_eq!(tables(rollup(Rollup::Day), 91), ["rollup_1h", "events"]);
        assert_eq!(tables(rollup(Rollup::Quarter), 2), ["rollup_1m", "events"]);
        assert_eq!(tables(rollup(Rollup::Hour), 91), ["events"]);
        assert!(tables(rollup(Rollup::Minute), 2).is_empty());
        assert_eq!(tables(Source::Raw, 2), ["events"]);
    }

    #[test]
    fn a_look_stays_within_the_bucket_and_the_range() {
        let read = Read {
            source: rollup(Rollup::Day),
            condition: Condition::always(),
            from: DAY,
            to: 3 * DAY,
            buckets: None,
            by: Vec::new(),
            measures: Vec::new(),
            top: Some(3),
        };
        let look = Newest::of_points(&read.source, 2 * DAY).look(&read, Source::Raw);
        assert_eq!((look.from, look.to, look.top), (2 * DAY, 3 * DAY, None));
        let minute = Newest { at_ms: (2 * DAY + 60) * 1_000, precision: Precision::Minute };
        assert_eq!((minute.look(&read, Source::Raw).from, minute.end_ms()), (2 * DAY + 60, (2 * DAY + 120) * 1_000));
    }
}
