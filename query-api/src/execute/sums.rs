//! Reads counts, sums and averages of the same events together, whichever was asked for: they lie in three small
//! columns of the same rows. A week of hours takes 4.4 to 4.7 ms of processor time for one of them and 5.5 ms for all. So the
//! panels of a dashboard that show the number, the sum and the average of something read it once.
//!
//! Not for groups, of which there may be thousands, and not for minima and maxima, which few panels show.

use crate::metric_definitions::Measure;
use crate::plan::read::{Read, Source};
use crate::sql::Point;

/// What is read together.
const TOGETHER: [Measure; 3] = [Measure::Events, Measure::ValueSum, Measure::ValueAvg];

/// A reading, and which of its measures were asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Together {
    pub(super) read: Read,
    /// Places among its measures; `None` for all of them as they are.
    asked: Option<Vec<usize>>,
}

impl Together {
    /// The reading that answers this one and others.
    pub(super) fn of(read: &Read) -> Self {
        let is_alone = read.source == Source::Raw || !read.by.is_empty() || read.measures.is_empty();
        let place = |asked: &Measure| TOGETHER.iter().position(|measure| measure == asked);
        let asked: Option<Vec<usize>> = if is_alone { None } else { read.measures.iter().map(place).collect() };
        let measures = if asked.is_some() { TOGETHER.to_vec() } else { read.measures.clone() };
        Self { read: Read { measures, ..read.clone() }, asked }
    }

    /// A point with what was asked for.
    pub(super) fn asked(&self, point: Point) -> Point {
        let Some(places) = &self.asked else { return point };
        let measured = places.iter().map(|place| point.measured.get(*place).copied().flatten()).collect();
        Point { measured, ..point }
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::{DimSet, Rollup};

    use super::*;
    use crate::condition::{Condition, Field};

    fn read(measures: &[Measure]) -> Read {
        Read {
            source: Source::Rollup { rollup: Rollup::Hour, set: DimSet::total() },
            condition: Condition::always(),
            from: 0,
            to: 3_600,
            buckets: None,
            by: Vec::new(),
            measures: measures.to_vec(),
            top: None,
        }
    }

    fn point(measured: &[f64]) -> Point {
        let measured = measured.iter().copied().map(Some).collect();
        Point { at: 0, groups: Vec::new(), measured, newest: 0, rank: 1 }
    }

    #[test]
    fn questions_about_the_same_events_are_one_reading() {
        let (revenue, both) = (read(&[Measure::ValueSum]), read(&[Measure::ValueAvg, Measure::Events]));
        assert_eq!(Together::of(&revenue).read, Together::of(&both).read);
        assert_eq!(Together::of(&revenue).asked(point(&[4.0, 10.0, 2.5])), point(&[10.0]));
        assert_eq!(Together::of(&both).asked(point(&[4.0, 10.0, 2.5])), point(&[2.5, 4.0]));
    }

    #[test]
    fn states_groups_and_raw_events_are_read_as_they_were_asked_for() {
        let users = read(&[Measure::Events, Measure::Users]);
        let groups = Read { by: vec![Field::named("country")], ..read(&[Measure::Events]) };
        let raw = Read { source: Source::Raw, ..read(&[Measure::Events]) };
        for alone in [users, groups, raw, read(&[Measure::ValueMin]), read(&[])] {
            let together = Together::of(&alone);
            assert_eq!(together.read, alone);
            assert_eq!(together.asked(point(&[1.0, 2.0])), point(&[1.0, 2.0]));
        }
    }
}
