//! The statement of a [`Read`]: one row per bucket and group, with every measure.

use serde::{Deserialize, Serialize};
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_schema::rollup::EVERY_TYPE;
use tallyhouse_sql::clickhouse::{self, Row};

use super::condition::{condition, value, values};
use super::measure::measure;
use super::{Statement, Value, bucket, ranking};
use crate::condition::Condition;
use crate::metric_definitions::Measure;
use crate::plan::read::{Read, Source};
use crate::time::Grid;

/// A row of an answer: one bucket of one group.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Point {
    /// Start of the bucket, in seconds; the start of the range when it is not cut into buckets.
    pub at: i64,
    /// Values of what is grouped by, in the order asked.
    pub groups: Vec<String>,
    /// The measures, in the order asked.
    pub measured: Vec<Option<f64>>,
    /// When the newest event in it happened, in seconds, as finely as the table tells.
    pub newest: i64,
    /// Place of the group over the whole range, the biggest first, from 1; 1 when groups are not ranked.
    pub rank: u32,
}

/// Rows that a statement gives at most, and one more that tells that there are others.
pub const MOST_ROWS: i64 = 100_000;

/// The statement of a reading: a [`Point`] a row, in order. Rankings of what adds up have a better one
/// ([`super::by_group`]).
pub fn read(read: &Read, project: &str) -> Statement {
    let mut statement = Statement::default();
    let parts = Parts::of(read, project, &mut statement);
    statement.text = match read.top {
        None => parts.in_order(&mut statement),
        Some(most) => ranking::after_a_look(read, most, &parts, &mut statement),
    };
    statement
}

/// What every statement of a reading is made of, as SQL.
pub(super) struct Parts {
    /// Start of the bucket.
    pub(super) at: String,
    /// What is grouped by, in the order asked.
    pub(super) groups: String,
    /// What tells rows of the answer apart.
    pub(super) key: &'static str,
    /// The measures, in the order asked.
    pub(super) measured: String,
    /// When the newest event happened.
    pub(super) newest: String,
    pub(super) table: &'static str,
    pub(super) rows: String,
    /// How they are read.
    pub(super) settings: &'static str,
}

impl Parts {
    pub(super) fn of(read: &Read, project: &str, statement: &mut Statement) -> Self {
        let time = Time::of(&read.source);
        let rows = rows(read, project, statement);
        let at = match &read.buckets {
            Some(frame) if is_as_stored(&frame.grid(), &read.source) => time.seconds.to_owned(),
            Some(frame) => bucket(&frame.grid(), time.seconds, statement),
            None => "{from:Int64}".to_owned(),
        };
        let measures: Vec<_> = read.measures.iter().map(|measured| measure(*measured, &read.source)).collect();
        Self {
            at,
            groups: groups(read, statement),
            key: if read.by.is_empty() { "at" } else { "at, groups" },
            measured: format!("[{}]", measures.join(", ")),
            newest: format!("max({})", time.seconds),
            table: table(&read.source),
            rows,
            settings: settings(read),
        }
    }

    fn in_order(&self, statement: &mut Statement) -> String {
        let Self { at, groups, key, measured, newest, table, rows, settings } = self;
        statement.bind("most", Value::Number(MOST_ROWS + 1));
        format!(
            "SELECT {at} AS at, {groups} AS groups, {measured} AS measured, {newest} AS newest, toUInt32(1) AS rank \
             FROM {table} WHERE {rows} GROUP BY {key} ORDER BY {key} LIMIT {{most:Int64}} SETTINGS {settings}"
        )
    }
}

/// The statement of which dimensions of a rollup's set overflowed within the range: places in the set, from 1, in each of the
/// pieces that begin at `starts`, the first of them with the range. `None` when there are no dimensions, and for raw events.
///
/// Conditions are left out but for event types: they hide the very rows that tell. Of a single dimension it is one look at
/// the table's key.
pub fn overflowed(read: &Read, starts: Vec<i64>, project: &str) -> Option<Statement> {
    let Source::Rollup { rollup, set } = &read.source else { return None };
    if set.is_total() {
        return None;
    }
    let mut statement = Statement::default();
    let mut rows = scope(read, project, &mut statement);
    if let Some(types) = read.condition.event_types() {
        rows.push_str(" AND event_type IN {types:Array(String)}");
        statement.bind("types", Value::Texts(types.into_iter().map(str::to_owned).collect()));
    }
    let at = bucket(&Grid::Uneven(starts), Time::of(&read.source).seconds, &mut statement);
    let table = rollup.table();
    statement.bind("other", Value::Text(OTHER.to_owned()));
    statement.text = if set.names().len() == 1 {
        format!(
            "SELECT DISTINCT {at} AS at, toInt64(1) AS place FROM {table} WHERE {rows} AND dim_value = {{other:String}}"
        )
    } else {
        format!(
            "SELECT DISTINCT {at} AS at, toInt64(arrayJoin(arrayFilter((i, v) -> v = {{other:String}}, arrayEnumerate({values}), {values}))) \
             AS place FROM {table} WHERE {rows} AND position(dim_value, {{other:String}}) > 0",
            values = values()
        )
    };
    Some(statement)
}

/// A place of a dimension in its set, from 1, and the start of the piece in which it overflowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Place {
    /// The start, in seconds since the epoch.
    pub at: i64,
    pub place: i64,
}

/// Sums are a few bytes a row, and the table's key leaves few rows to be read in vain: a second step of reading costs more than
/// it saves (a week of hours in seven parts, means of 200: 14.4 ms of processor time with it, 11.4 ms without). It was made for
/// columns as large as states and raw rows. Where there are few of such rows, a second thread costs more than it saves too (a
/// week of hours: 7.9 ms of processor time with it, 6.0 without, and no later).
fn settings(read: &Read) -> &'static str {
    let is_state = |measure: &Measure| matches!(measure, Measure::Users | Measure::ValueQuantile(_));
    match &read.source {
        Source::Rollup { rollup, set } if !read.measures.iter().any(is_state) => {
            let rows_of_bucket = if set.is_total() { 1 } else { ROWS_OF_BUCKET };
            if (read.to - read.from) / rollup.bucket_seconds() * rows_of_bucket <= FEW_ROWS {
                "optimize_move_to_prewhere = 0, max_threads = 1"
            } else {
                "optimize_move_to_prewhere = 0"
            }
        }
        Source::Rollup { .. } | Source::Raw => "optimize_move_to_prewhere = 1",
    }
}

/// Rows of a bucket under a set of dimensions, as supposed: there may be more.
const ROWS_OF_BUCKET: i64 = 100;

/// Rows that one thread reads at once: in some milliseconds, were they ten times as many.
const FEW_ROWS: i64 = 20_000;

/// Whether the buckets asked for are those of the table, so that nothing is computed.
fn is_as_stored(grid: &Grid, source: &Source) -> bool {
    let (Grid::Even { origin, width, .. }, Source::Rollup { rollup, .. }) = (grid, source) else { return false };
    *width == rollup.bucket_seconds() && origin % width == 0
}

/// How a table tells the time of an event.
struct Time {
    /// In seconds since the epoch, as `Int64`.
    seconds: &'static str,
    /// What the range is compared with, so that the table's key is used.
    range: &'static str,
}

impl Time {
    const fn of(source: &Source) -> Self {
        match source {
            Source::Rollup { .. } => Self {
                seconds: "toInt64(bucket)",
                range: "bucket >= toDateTime({from:Int64}, 'UTC') AND bucket < toDateTime({to:Int64}, 'UTC')",
            },
            Source::Raw => Self { seconds: "toInt64(toUnixTimestamp(ts))", range: RAW_RANGE },
        }
    }
}

/// What makes a raw event lie within `from` and `to`, in seconds. The table's key has the hour before the time, and a part a
/// week: by the time alone, all hours of the part are read.
pub const RAW_RANGE: &str = "ts >= toDateTime64({from:Int64}, 3, 'UTC') AND ts < toDateTime64({to:Int64}, 3, 'UTC') \
     AND toStartOfHour(ts) >= toStartOfHour(toDateTime64({from:Int64}, 3, 'UTC')) \
     AND toStartOfHour(ts) < toDateTime64({to:Int64}, 3, 'UTC')";

/// `FINAL`: a row that was stored twice under one key is one event, as for the verification of rollups.
fn table(source: &Source) -> &'static str {
    match source {
        Source::Rollup { rollup, .. } => rollup.table(),
        Source::Raw => "events FINAL",
    }
}

/// Project, range and set: what every reading starts from.
fn scope(read: &Read, project: &str, statement: &mut Statement) -> String {
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("from", Value::Number(read.from));
    statement.bind("to", Value::Number(read.to));
    let mut rows = format!("project_id = {{project:String}} AND {}", Time::of(&read.source).range);
    if let Source::Rollup { rollup, set } = &read.source {
        let is_of_every_type = read.is_of_every_type();
        let before = if is_of_every_type { EVERY_TYPE } else { rollup.mark() };
        statement.bind("dim_set", Value::Text(format!("{before}{}", set.key())));
        // Both, so that the rows are one stretch of the table's key.
        rows.push_str(if is_of_every_type { " AND event_type = ''" } else { "" });
        rows.push_str(" AND dim_set = {dim_set:String}");
    }
    rows
}

pub(super) fn rows(read: &Read, project: &str, statement: &mut Statement) -> String {
    let scope = scope(read, project, statement);
    if read.condition == Condition::always() {
        return scope;
    }
    format!("{scope} AND {}", condition(&read.condition, &read.source, statement))
}

/// What is grouped by, in the order asked.
fn groups(read: &Read, statement: &mut Statement) -> String {
    if read.by.is_empty() {
        return "CAST([], 'Array(String)')".to_owned();
    }
    let values: Vec<_> =
        read.by.iter().map(|field| format!("toString({})", value(field, &read.source, statement))).collect();
    format!("[{}]", values.join(", "))
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::plan::series;
    use crate::request::query::METRIC_PARAMS;
    use crate::request::{MetricQuery, Params};

    const NOW: i64 = 1_795_178_096_789;

    fn statement(query: &str) -> Statement {
        let params = Params::parse(Some(query), METRIC_PARAMS).unwrap();
        let query = MetricQuery::parse("events", &params, &Vec::new, NOW).unwrap();
        read(&series::plan(&query, &Catalogue::default(), NOW).unwrap().read(), "p'1")
    }

    #[test]
    fn nothing_from_a_request_is_in_the_text() {
        let hostile = "x'%20OR%201=1--";
        let plain = statement("eventType=a&filter=country:b&filter=device:c&groupBy=country&granularity=hour");
        let bad = statement(&format!(
            "eventType={hostile}&filter=country:{hostile}&filter=device:{hostile}&groupBy=country&granularity=hour"
        ));
        assert_eq!(plain.text, bad.text);
        assert!(!bad.text.contains("OR 1=1") && !bad.text.contains("p'1"));
        let hostile = vec!["x' OR 1=1--".to_owned()];
        assert!(bad.params.iter().any(|(_, value)| *value == Value::Texts(hostile.clone())));
    }

    #[test]
    fn whether_a_dimension_overflowed_is_asked_without_filters_and_with_bound_values() {
        let ask = |query: &str| {
            let params = Params::parse(Some(query), METRIC_PARAMS).unwrap();
            let query = MetricQuery::parse("events", &params, &Vec::new, NOW).unwrap();
            overflowed(&series::plan(&query, &Catalogue::default(), NOW).unwrap().read(), vec![0, 60], "p")
        };
        assert_eq!(ask(""), None);
        for query in ["filter=device:a&eventType=x", "groupBy=device,country&filter=device:a"] {
            let statement = ask(query).unwrap();
            assert!(!statement.text.contains("texts_") && !statement.text.contains(OTHER), "{}", statement.text);
            for (name, _) in &statement.params {
                assert!(statement.text.contains(&format!("{{{name}:")), "{query}: {name} is not used");
            }
        }
    }

    #[test]
    fn every_parameter_in_the_text_is_bound_once() {
        for query in [
            "",
            "groupBy=device,country&filter=device:a",
            "timezone=Europe/Berlin&granularity=day&startTime=2026-10-01",
        ] {
            let statement = statement(query);
            for (name, _) in &statement.params {
                assert!(statement.text.contains(&format!("{{{name}:")), "{query}: {name} is not used");
                assert_eq!(statement.params.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
            }
            let used: std::collections::BTreeSet<&str> =
                statement.text.split('{').skip(1).filter_map(|rest| rest.split(':').next()).collect();
            assert_eq!(used.len(), statement.params.len(), "{query}");
        }
    }
}
