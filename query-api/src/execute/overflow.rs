//! Which dimensions of the question overflowed: some of their values are counted as `__other__`.
//!
//! An answer with every group shows it by its groups. Conditions on dimensions hide the rows that show it, and a ranking leaves
//! groups out; then overflows are looked up, in chunks that the panels of a dashboard share.

use std::collections::BTreeSet;

use tallyhouse_schema::dimension::OTHER;

use super::Execution;
use super::chunked::{Kind, split};
use crate::authorize::Scope;
use crate::cache::{PartKey, VersionStamp};
use crate::condition::Field;
use crate::plan::chunks::{Chunk, cut};
use crate::plan::read::Read;
use crate::sql::{self, Place, Point, Statement};
use crate::store::ReadError;

/// The dimensions that overflowed. Measures, groups and most conditions are all the same to them.
struct Overflow;

impl Kind for Overflow {
    type Row = Place;
    type Part = Vec<i64>;
    const IS_DATA: bool = false;
    const IS_ASKED: bool = true;

    fn points(_: &Vec<i64>) -> usize {
        0
    }

    fn key(scope: &Scope, Chunk { read, .. }: &Chunk, stamp: VersionStamp) -> PartKey {
        let types = read.condition.event_types().map(|types| types.into_iter().collect::<Vec<_>>());
        PartKey::of(scope, &("overflowed", &read.source, types, read.from, read.to), stamp)
    }

    fn statement(all: &Read, chunks: &[Chunk], project: &str) -> Option<Statement> {
        let starts = chunks.iter().map(|chunk| chunk.read.from).collect();
        sql::overflowed(all, starts, project)
    }

    fn split(chunks: &[Chunk], places: Vec<Place>) -> Result<Vec<Vec<i64>>, ReadError> {
        let parts = split(chunks, places, |place| place.at).into_iter();
        Ok(parts.map(|part| part.into_iter().map(|place| place.place).collect()).collect())
    }
}

impl Execution {
    /// The dimensions that the caller asked about of which some values are counted as `__other__`; `points` are what the
    /// reading found.
    pub(super) async fn overflowed(&mut self, read: &Read, points: &[Point]) -> Result<Vec<String>, ReadError> {
        if !read.source.is_bounded() {
            return Ok(Vec::new());
        }
        if let Some(names) = told_by(read, points) {
            return Ok(names);
        }
        let now_s = self.moment.now_ms.div_euclid(1_000);
        // A ranking is about the whole range, what overflowed is not.
        let unranked = Read { top: None, ..read.clone() };
        let chunks = cut(&unranked, now_s).map_or_else(|| vec![Chunk::whole(unranked, now_s)], |cut| cut.chunks);
        let places: Vec<i64> = self.parts::<Overflow>(&chunks).await?.into_iter().flatten().collect();
        Ok(read.named(&places).into_iter().map(str::to_owned).collect())
    }
}

/// What the groups of a reading tell; `None` when they do not show everything there is.
fn told_by(read: &Read, points: &[Point]) -> Option<Vec<String>> {
    let is_cut_off = read.top.is_some_and(|most| points.iter().any(|point| point.rank > most));
    let is_hidden = !read.condition.dimensions().is_empty();
    if is_cut_off || is_hidden {
        return None;
    }
    let values = points.iter().flat_map(|point| read.by.iter().zip(&point.groups));
    let overflowed = values.filter_map(|(field, value)| match field {
        Field::Dimension(name) if value == OTHER => Some(name.clone()),
        Field::Dimension(_) | Field::EventType => None,
    });
    // In the order in which a look-up tells them.
    Some(overflowed.collect::<BTreeSet<String>>().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::{DimSet, Rollup};

    use super::*;
    use crate::condition::Condition;
    use crate::metric_definitions::Measure;
    use crate::plan::read::Source;

    fn read(by: &[&str], condition: Condition, top: Option<u32>) -> Read {
        Read {
            source: Source::Rollup { rollup: Rollup::Hour, set: DimSet::of(["country", "device"]) },
            condition,
            from: 0,
            to: 3_600,
            buckets: None,
            by: by.iter().copied().map(Field::named).collect(),
            measures: vec![Measure::Events],
            top,
        }
    }

    fn point(groups: &[&str], rank: u32) -> Point {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Point { at: 0, groups, measured: vec![Some(1.0)], newest: 0, rank }
    }

    #[test]
    fn groups_tell_what_overflowed_where_all_of_them_are_there() {
        let points = [point(&["mobile", OTHER], 1), point(&["desktop", "DE"], 2)];
        let asked = |by: &[&str], top| told_by(&read(by, Condition::always(), top), &points);
        assert_eq!(asked(&["device", "country"], None), Some(vec!["country".to_owned()]));
        assert_eq!(asked(&["country", "device"], Some(2)), Some(vec!["device".to_owned()]));
        assert_eq!(told_by(&read(&["country"], Condition::always(), None), &[]), Some(Vec::new()));
        assert_eq!(asked(&["device", "country"], Some(1)), None, "others were left out");
        let mobile = Condition::is(Field::named("device"), ["mobile".to_owned()]);
        assert_eq!(told_by(&read(&["country"], mobile, None), &points), None, "conditions hide values");
    }
}
