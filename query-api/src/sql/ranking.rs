//! The greatest groups of a reading, by its first measure over the whole range.
//!
//! A measure that adds up is ranked while it is read: the points of every group are put together, and the greatest are the
//! answer ([`by_group`]). That holds the points of all groups, so it is refused when they are too many. Then, and for distinct
//! users, which do not add up, a first pass over the same rows ranks the groups ([`after_a_look`]): twice the work, but memory
//! only for the groups that are shown.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::measure::{users, value_count};
use super::read::{Parts, Point};
use super::{Statement, Value};
use crate::metric_definitions::Measure;
use crate::plan::read::{Read, Source};

/// Points of all groups that are put together: some 200 bytes each.
const MOST_TOGETHER: u32 = 200_000;

/// A group and its points, in no order: start of the bucket, the measures, the newest event.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct Group {
    groups: Vec<String>,
    points: Vec<(i64, Vec<Option<f64>>, i64)>,
}

/// The statement for the greatest groups of what adds up: one [`Group`] a row, the greatest first. `None` when groups are not
/// ranked, or by what does not add up. ClickHouse refuses it as too expensive when there are more points than
/// `MOST_TOGETHER`; [`read()`](super::read()) is then the way.
pub fn by_group(read: &Read, project: &str) -> Option<Statement> {
    let (most, size) = (read.top?, sum(read.measures.first().copied(), &read.source)?);
    let mut statement = Statement::default();
    let Parts { at, groups, key, measured, newest, table, rows, settings } = Parts::of(read, project, &mut statement);
    bind(most, &mut statement);
    statement.text = format!(
        "SELECT groups, groupArray((at, measured, newest)) AS points \
         FROM (SELECT {at} AS at, {groups} AS groups, {measured} AS measured, {newest} AS newest, {size} AS size \
         FROM {table} WHERE {rows} GROUP BY {key}) \
         GROUP BY groups ORDER BY sum(size) DESC, groups LIMIT {{top:Int64}} \
         SETTINGS {settings}, max_rows_to_group_by = {MOST_TOGETHER}"
    );
    Some(statement)
}

/// The points of groups that came greatest first, by bucket and place.
pub fn points(groups: Vec<Group>) -> Vec<Point> {
    let with_ranks = (1_u32..).zip(groups);
    let mut points: Vec<Point> = with_ranks
        .flat_map(|(rank, Group { groups, points })| {
            let point = move |(at, measured, newest)| Point { at, groups: groups.clone(), measured, newest, rank };
            points.into_iter().map(point)
        })
        .collect();
    points.sort_by_key(|point| (point.at, point.rank));
    points
}

/// The text for any measure: of the groups that a first look found the greatest, a point a row.
pub(super) fn after_a_look(read: &Read, most: u32, parts: &Parts, statement: &mut Statement) -> String {
    let Parts { at, groups, key, measured, newest, table, rows, settings } = parts;
    bind(most, statement);
    let first = read.measures.first().copied();
    let size = sum(first, &read.source).map_or_else(|| users(&read.source), str::to_owned);
    format!(
        "WITH (SELECT groupArray(groups) FROM (SELECT {groups} AS groups FROM {table} WHERE {rows} \
         GROUP BY groups ORDER BY {size} DESC, groups LIMIT {{top:Int64}})) AS top \
         SELECT {at} AS at, {groups} AS groups, {measured} AS measured, {newest} AS newest, \
         toUInt32(indexOf(top, groups)) AS rank FROM {table} WHERE {rows} AND has(top, {groups}) \
         GROUP BY {key} ORDER BY at, rank SETTINGS {settings}"
    )
}

/// One group more than is shown tells whether any was left out.
fn bind(most: u32, statement: &mut Statement) {
    statement.bind("top", Value::Number(i64::from(most) + 1));
}

/// What makes a group big, where it adds up: the measure itself, else how many values it has.
fn sum(measured: Option<Measure>, source: &Source) -> Option<&'static str> {
    let pick = |of_rollup, of_raw| if *source == Source::Raw { of_raw } else { of_rollup };
    Some(match measured {
        None | Some(Measure::Events) => pick("sum(events)", "count()"),
        Some(Measure::ValueSum) => pick("sum(value_sum)", "sum(ifNull(value, 0))"),
        Some(Measure::ValueAvg | Measure::ValueMin | Measure::ValueMax | Measure::ValueQuantile(_)) => {
            value_count(source)
        }
        Some(Measure::Users) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, points: &[(i64, f64)]) -> Group {
        let points = points.iter().map(|(at, value)| (*at, vec![Some(*value)], *at)).collect();
        Group { groups: vec![name.to_owned()], points }
    }

    #[test]
    fn points_are_in_order_of_time_and_then_of_size() {
        let found = points(vec![group("big", &[(60, 5.0), (0, 4.0)]), group("small", &[(60, 1.0)])]);
        let told: Vec<_> = found.iter().map(|point| (point.at, point.groups[0].as_str(), point.rank)).collect();
        assert_eq!(told, [(0, "big", 1), (60, "big", 1), (60, "small", 2)]);
    }
}
