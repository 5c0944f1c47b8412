//! The instant of the newest event that an answer counts: looked up in finer tables, in the last bucket alone, and cached
//! like parts. Measures and groups do not affect it, so the panels of a dashboard share it.
//!
//! It matters less than the answer itself: where the look-up would cost too much, or does not end within `QUERY_LOOK_UP_MS` and the
//! deadline of the answer, the answer names the start of the bucket, and its width as the precision.

use std::collections::BTreeSet;

use tallyhouse_schema::DimSet;
use tokio::time::Instant;

use super::Execution;
use super::chunked::{Kind, split};
use crate::authorize::Scope;
use crate::cache::{PartKey, VersionStamp};
use crate::condition::Condition;
use crate::plan::chunks::Chunk;
use crate::plan::newest::{Newest, Precision, finer};
use crate::plan::read::{Read, Source};
use crate::sql::{self, Point, Statement};
use crate::store::ReadError;

/// The newest event of a reading without groups.
struct Instants;

impl Kind for Instants {
    type Row = sql::Instant;
    type Part = Vec<i64>;
    const IS_DATA: bool = false;
    const IS_ASKED: bool = false;

    fn points(_: &Vec<i64>) -> usize {
        0
    }

    fn key(scope: &Scope, Chunk { read, .. }: &Chunk, stamp: VersionStamp) -> PartKey {
        PartKey::of(scope, &("newest", &read.source, &read.condition, read.from, read.to), stamp)
    }

    fn statement(all: &Read, _: &[Chunk], project: &str) -> Option<Statement> {
        Some(sql::newest(all, project))
    }

    fn split(chunks: &[Chunk], rows: Vec<sql::Instant>) -> Result<Vec<Vec<i64>>, ReadError> {
        let parts = split(chunks, rows, |row| row.at_ms.div_euclid(1_000)).into_iter();
        Ok(parts.map(|part| part.into_iter().map(|row| row.at_ms).collect()).collect())
    }
}

/// Readings of one table and set, of which one look-up tells the newest event.
struct Group {
    read: Read,
    conditions: BTreeSet<Condition>,
    /// The newest of what they found.
    coarse: Newest,
    /// Whether groups were left out: one of these may have a newer event.
    is_cut_off: bool,
}

impl Group {
    fn of(read: &Read, points: &[Point]) -> Option<Self> {
        let coarse = Newest::of_points(&read.source, points.iter().map(|point| point.newest).max()?);
        let is_cut_off = read.top.is_some_and(|most| points.iter().any(|point| point.rank > most));
        let read = Read { source: counting(read), ..read.clone() };
        Some(Self { conditions: BTreeSet::from([read.condition.clone()]), read, coarse, is_cut_off })
    }

    /// Of readings over one range.
    fn all(found: &[(&Read, &[Point])]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for one in found.iter().filter_map(|(read, points)| Self::of(read, points)) {
            match groups.iter_mut().find(|group| group.read.source == one.read.source) {
                Some(group) => {
                    group.conditions.extend(one.conditions);
                    group.coarse = group.coarse.max(one.coarse);
                    group.is_cut_off |= one.is_cut_off;
                }
                None => groups.push(one),
            }
        }
        groups.into_iter().map(Self::joined).collect()
    }

    fn joined(mut self) -> Self {
        let conditions = std::mem::take(&mut self.conditions);
        if conditions.contains(&Condition::always()) {
            self.read.condition = Condition::always();
        } else if conditions.len() > 1 {
            self.read.condition = Condition::Or(conditions.into_iter().collect());
        }
        self
    }
}

/// The rows that count the same events as those of a reading. Groups and measures are all the same to the newest one, so that
/// the total tells it where no condition names a dimension: few rows, and the same for all panels.
fn counting(read: &Read) -> Source {
    match &read.source {
        Source::Rollup { rollup, .. } if read.condition.dimensions().is_empty() => {
            Source::Rollup { rollup: *rollup, set: DimSet::total() }
        }
        source => source.clone(),
    }
}

impl Execution {
    /// The newest event of all groups of these readings, all over one range; the points are what each found.
    pub(super) async fn newest(&mut self, found: &[(&Read, &[Point])]) -> Option<Newest> {
        let mut groups = Group::all(found);
        // Most often it is the only one whose bucket has to be looked at.
        groups.sort_by_key(|group| std::cmp::Reverse(group.coarse));
        let coarse = groups.first()?.coarse;
        // What the answer itself took is not lost for it.
        let until = self.ends.min(Instant::now() + self.sources.look_up);
        tokio::time::timeout_at(until, self.looked_up(groups)).await.ok().flatten().or(Some(coarse))
    }

    /// Of a reading of which it is known in which bucket that is.
    pub(super) async fn newest_of(&mut self, read: &Read, at_s: Option<i64>) -> Option<Newest> {
        let at = at_s?;
        let point = Point { at, groups: Vec::new(), measured: Vec::new(), newest: at, rank: 1 };
        self.newest(&[(read, &[point])]).await
    }

    async fn looked_up(&mut self, groups: Vec<Group>) -> Option<Newest> {
        let mut newest: Option<Newest> = None;
        for group in groups {
            if newest.is_none_or(|newest| group.is_cut_off || newest.at_ms < group.coarse.end_ms()) {
                newest = newest.max(Some(self.instant(group).await));
            }
        }
        newest
    }

    async fn instant(&mut self, Group { read, coarse, is_cut_off, .. }: Group) -> Newest {
        let mut newest = coarse;
        if is_cut_off {
            let since = Read { to: read.to, ..newest.look(&read, read.source.clone()) };
            newest = self.look(since).await.unwrap_or(newest);
        }
        for source in finer(&read.source, &newest, self.moment.now_ms.div_euclid(1_000)) {
            newest = self.look(newest.look(&read, source)).await.unwrap_or(newest);
        }
        newest
    }

    async fn look(&mut self, read: Read) -> Option<Newest> {
        let precision = Precision::of(&read.source);
        let chunk = Chunk::whole(read, self.moment.now_ms.div_euclid(1_000));
        let parts = self.parts::<Instants>(&[chunk]).await.ok()?;
        let at_ms = parts.into_iter().flatten().next()?;
        Some(Newest { at_ms, precision })
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Rollup;

    use super::*;
    use crate::condition::Field;

    const HOUR: i64 = 3_600;

    fn found(set: &[&str], condition: Condition, hours: &[i64], top: Option<u32>) -> (Read, Vec<Point>) {
        let source = Source::Rollup { rollup: Rollup::Hour, set: DimSet::of(set.iter().copied()) };
        let read = Read { source, condition, top, ..Read::total(Rollup::Hour, 0, 24 * HOUR) };
        let point = |(rank, hour): (u32, &i64)| Point {
            at: 0,
            groups: Vec::new(),
            measured: Vec::new(),
            newest: hour * HOUR,
            rank,
        };
        (read, (1..).zip(hours).map(point).collect())
    }

    fn is(field: &str, value: &str) -> Condition {
        Condition::is(Field::named(field), [value.to_owned()])
    }

    /// Set, condition, hour, and whether groups were left out.
    fn groups(found: &[(Read, Vec<Point>)]) -> Vec<(String, Condition, i64, bool)> {
        let found: Vec<_> = found.iter().map(|(read, points)| (read, points.as_slice())).collect();
        let told = |group: Group| {
            let Source::Rollup { set, .. } = &group.read.source else { panic!("{:?}", group.read) };
            let hour = group.coarse.at_ms / 1_000 / HOUR;
            (set.key().to_owned(), group.read.condition, hour, group.is_cut_off)
        };
        Group::all(&found).into_iter().map(told).collect()
    }

    #[test]
    fn readings_without_conditions_on_dimensions_are_looked_up_together_in_the_total() {
        let (bought, seen) = (is("event_type", "purchase"), is("event_type", "view"));
        let some = [
            found(&["country"], seen.clone(), &[3, 5], Some(1)),
            found(&["device"], bought.clone(), &[7], None),
            found(&[], bought.clone(), &[7], None),
            found(&[], is("event_type", "never"), &[], None),
        ];
        assert_eq!(groups(&some), [(String::new(), Condition::Or(vec![bought.clone(), seen]), 7, true)]);
        let all = [found(&["country"], Condition::always(), &[8], None), found(&[], bought, &[7], None)];
        assert_eq!(groups(&all), [(String::new(), Condition::always(), 8, false)]);
    }

    #[test]
    fn conditions_on_dimensions_are_looked_up_where_these_are_counted() {
        let (french, mobile) = (is("country", "FR"), is("device", "mobile"));
        let both = [
            found(&["country"], french.clone(), &[3], None),
            found(&["country"], is("country", "DE"), &[4], None),
            found(&["device"], mobile.clone(), &[5], None),
        ];
        let expected = [
            ("country".to_owned(), Condition::Or(vec![is("country", "DE"), french]), 4, false),
            ("device".to_owned(), mobile, 5, false),
        ];
        assert_eq!(groups(&both), expected);
        assert!(groups(&[]).is_empty());
    }
}
