//! From a plan to SQL: the only file with `SELECT` in it.
//!
//! Text is put together from constants of this program alone. Whatever came from a request is a parameter that
//! ClickHouse binds by type (`{name:Type}`), so no value can become syntax. Every statement starts from one project.

use serde::{Deserialize, Serialize};
use tallyhouse_schema::dimension::{OTHER, VALUE_SEPARATOR};
use tallyhouse_schema::{DimSet, Rollup};
use tallyhouse_sql::clickhouse::{self, Row};

use crate::metric::{Measure, PURCHASE};
use crate::plan::{DailyPlan, RealtimePlan, SeriesPlan};
use crate::time::{Granularity, Grid};

/// A point of a series. `rank` is the place of its group among all, from 1.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct Point {
    /// Start of the bucket, in seconds.
    pub at: i64,
    /// Values of the dimensions grouped by, in the order asked.
    pub dims: Vec<String>,
    /// The metric's value.
    pub value: Option<f64>,
    /// Place of the group, the biggest first; 1 when not grouped.
    pub rank: u32,
}

/// Figures of one line of a dashboard or report.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct Line {
    /// Which part of the report.
    pub section: String,
    /// Start of the window, day or hour, in seconds.
    pub at: i64,
    /// The event type, country or device.
    pub key: String,
    /// Events.
    pub events: u64,
    /// Different users, estimated.
    pub users: u64,
    /// Sum of values.
    pub value: f64,
    /// Sum of the values of purchases.
    pub revenue: f64,
}

/// Sections of reports, as `Line::section` names them.
pub mod section {
    /// All events.
    pub const TOTAL: &str = "total";
    /// By event type.
    pub const EVENT_TYPE: &str = "event_type";
    /// The countries with most events.
    pub const COUNTRY: &str = "country";
    /// The devices with most events.
    pub const DEVICE: &str = "device";
    /// By hour.
    pub const HOUR: &str = "hour";
}

/// Event types in a report, and countries and devices at most.
const TOP: (i64, i64) = (100, 10);

/// A statement and the values bound to it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statement {
    /// SQL with `{name:Type}` in it.
    pub text: String,
    /// Name and value of each.
    pub params: Vec<(String, Value)>,
}

/// A bound value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `String`
    Text(String),
    /// `Array(String)`
    Texts(Vec<String>),
    /// `Int64`
    Number(i64),
    /// `Array(Int64)`
    Numbers(Vec<i64>),
}

impl Statement {
    fn bind(&mut self, name: impl Into<String>, value: Value) {
        self.params.push((name.into(), value));
    }
}

/// Stops a query of ours. `ASYNC`: the caller has left and waits for nothing.
pub const KILL: &str = "KILL QUERY WHERE query_id = {query_id:String} AND user = currentUser() ASYNC";

/// Whether ClickHouse answers.
pub const PING: &str = "SELECT 1";

/// The statement of a series.
pub fn series(plan: &SeriesPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let table = plan.rollup.table();
    let rows = series_rows(plan, project, &mut statement);
    let at = bucket(&plan.frame.grid(), &mut statement);
    let value = measure(plan.measure, plan.rollup);
    if plan.group_by.is_empty() {
        statement.text = format!(
            "SELECT {at} AS at, CAST([], 'Array(String)') AS dims, {value} AS value, toUInt32(1) AS rank \
             FROM {table} WHERE {rows} GROUP BY at ORDER BY at"
        );
        return statement;
    }
    let dims = picked(plan, &mut statement);
    let size = group_size(plan.measure, plan.rollup);
    // One group more than is shown tells whether any was left out.
    statement.bind("groups", Value::Number(i64::from(plan.limit) + 1));
    statement.text = format!(
        "WITH (SELECT groupArray(dims) FROM (SELECT {dims} AS dims FROM {table} WHERE {rows} GROUP BY dims \
         ORDER BY {size} DESC, dims LIMIT {{groups:Int64}})) AS top \
         SELECT {at} AS at, {dims} AS dims, {value} AS value, toUInt32(indexOf(top, dims)) AS rank \
         FROM {table} WHERE {rows} AND has(top, {dims}) GROUP BY at, dims ORDER BY at, rank"
    );
    statement
}

/// The statement of which dimensions of a plan overflowed within its range: places in its set, from 1. `None` when the plan
/// has no dimension.
///
/// Filters are left out: they hide the very rows that tell. Of a single dimension it is one look at the table's key.
pub fn overflowed(plan: &SeriesPlan, project: &str) -> Option<Statement> {
    if plan.set.is_total() {
        return None;
    }
    let mut statement = Statement::default();
    let rows = set_rows(plan, project, &mut statement);
    let table = plan.rollup.table();
    statement.bind("other", Value::Text(OTHER.to_owned()));
    statement.text = if plan.set.names().len() == 1 {
        format!("SELECT toInt64(1) AS place FROM {table} WHERE {rows} AND dim_value = {{other:String}} LIMIT 1")
    } else {
        format!(
            "SELECT DISTINCT toInt64(arrayJoin(arrayFilter((i, v) -> v = {{other:String}}, arrayEnumerate({values}), {values}))) \
             AS place FROM {table} WHERE {rows} AND position(dim_value, {{other:String}}) > 0",
            values = values()
        )
    };
    Some(statement)
}

/// A place of a dimension in its set, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Place {
    /// The place.
    pub place: i64,
}

/// The condition that selects a series' rows.
fn series_rows(plan: &SeriesPlan, project: &str, statement: &mut Statement) -> String {
    let mut rows = set_rows(plan, project, statement);
    for (number, filter) in plan.filters.iter().enumerate() {
        let name = format!("filter_{number}");
        let value = dim_value(&plan.set, &filter.dimension);
        rows.push_str(&format!(" AND {value} IN {{{name}:Array(String)}}"));
        statement.bind(name, Value::Texts(filter.values.clone()));
    }
    rows
}

/// The same without the filters.
fn set_rows(plan: &SeriesPlan, project: &str, statement: &mut Statement) -> String {
    let mut rows = scope(project, plan.frame.from, plan.frame.to, statement);
    statement.bind("dim_set", Value::Text(plan.set.key().to_owned()));
    rows.push_str(" AND dim_set = {dim_set:String}");
    if let Some(event_type) = &plan.event_type {
        statement.bind("event_type", Value::Text(event_type.clone()));
        rows.push_str(" AND event_type = {event_type:String}");
    }
    rows
}

/// Project and range: what every statement starts from.
fn scope(project: &str, from: i64, to: i64, statement: &mut Statement) -> String {
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("from", Value::Number(from));
    statement.bind("to", Value::Number(to));
    "project_id = {project:String} AND bucket >= toDateTime({from:Int64}, 'UTC') AND bucket < toDateTime({to:Int64}, 'UTC')"
        .to_owned()
}

/// One dimension's value within `dim_value`. Of a single dimension it is the column itself, so that its index is used.
fn dim_value(set: &DimSet, dimension: &str) -> String {
    if set.names().len() == 1 {
        return "dim_value".to_owned();
    }
    format!("{}[{}]", values(), position(set, dimension))
}

/// The dimensions grouped by, in the order asked.
fn picked(plan: &SeriesPlan, statement: &mut Statement) -> String {
    let positions = plan.group_by.iter().map(|dimension| position(&plan.set, dimension)).collect();
    statement.bind("picked", Value::Numbers(positions));
    format!("arrayMap(i -> {}[i], {{picked:Array(Int64)}})", values())
}

fn values() -> String {
    format!("splitByChar(char({}), dim_value)", u32::from(VALUE_SEPARATOR))
}

/// Place of a dimension in its set, from 1. The planner chose a set that has it; 0 would read as no value.
fn position(set: &DimSet, dimension: &str) -> i64 {
    set.names().iter().position(|name| name == dimension).map_or(0, |index| index as i64 + 1)
}

/// The start of the bucket of the grid that a rollup's bucket lies in.
fn bucket(grid: &Grid, statement: &mut Statement) -> String {
    match grid {
        Grid::Even { origin, width, .. } => {
            statement.bind("origin", Value::Number(*origin));
            statement.bind("width", Value::Number(*width));
            "intDiv(toInt64(bucket) - {origin:Int64}, {width:Int64}) * {width:Int64} + {origin:Int64}".to_owned()
        }
        Grid::Uneven(edges) => {
            statement.bind("edges", Value::Numbers(edges.clone()));
            "roundDown(toInt64(bucket), {edges:Array(Int64)})".to_owned()
        }
    }
}

fn measure(measure: Measure, rollup: Rollup) -> String {
    let of_values = |what: &str| format!("if(sum(value_count) = 0, NULL, {what})");
    match measure {
        Measure::Events => "toNullable(toFloat64(sum(events)))".to_owned(),
        Measure::Users => format!("toNullable(toFloat64({}))", users(rollup)),
        Measure::ValueSum => "toNullable(sum(value_sum))".to_owned(),
        Measure::ValueAvg => of_values("sum(value_sum) / sum(value_count)"),
        Measure::ValueMin => of_values("min(value_min)"),
        Measure::ValueMax => of_values("max(value_max)"),
        Measure::ValueQuantile(quantile) => {
            of_values(&format!("quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(value_quantiles)[{}]", quantile.position()))
        }
    }
}

/// What makes a group big: the metric itself where it adds up, else how many values it has.
fn group_size(measure: Measure, rollup: Rollup) -> String {
    match measure {
        Measure::Events => "sum(events)".to_owned(),
        Measure::Users => users(rollup),
        Measure::ValueSum => "sum(value_sum)".to_owned(),
        Measure::ValueAvg | Measure::ValueMin | Measure::ValueMax | Measure::ValueQuantile(_) => {
            "sum(value_count)".to_owned()
        }
    }
}

fn users(rollup: Rollup) -> String {
    format!("uniqCombined64Merge({})(users)", rollup.users_precision())
}

/// The statement of the real-time dashboard: per window, all events and each event type.
pub fn realtime(plan: &RealtimePlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let rows = format!("{} AND dim_set = ''", scope(project, plan.long_from, plan.to, &mut statement));
    statement.bind("windows", Value::Numbers(vec![plan.short_from, plan.long_from]));
    let window = "arrayJoin(arrayFilter(since -> toInt64(bucket) >= since, {windows:Array(Int64)}))";
    let rollup = Rollup::Minute;
    let total = part(rollup, section::TOTAL, window, "''", &rows);
    let by_type = part(rollup, section::EVENT_TYPE, window, "toString(event_type)", &rows);
    let (types, _) = TOP;
    statement.text = format!("{total} UNION ALL ({by_type} ORDER BY events DESC, key LIMIT {types} BY at)");
    statement
}

/// The statement of a daily report: both days, and of the day itself its event types, countries, devices and hours.
pub fn daily(plan: &DailyPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let both = scope(project, plan.previous_from, plan.to, &mut statement);
    statement.bind("day", Value::Number(plan.from));
    let day = format!("{both} AND bucket >= toDateTime({{day:Int64}}, 'UTC')");
    let hour = bucket(&Grid::over(Granularity::Hour, &plan.zone, plan.from, plan.to), &mut statement);
    let (types, places) = TOP;
    let of = |name, at: &str, key, rows: &str, set| {
        part(plan.rollup, name, at, key, &format!("{rows} AND dim_set = '{set}'"))
    };
    let top = |name, key, set, most| {
        format!("({} ORDER BY events DESC, key LIMIT {most})", of(name, "{day:Int64}", key, &day, set))
    };
    statement.text = [
        of(section::TOTAL, "if(toInt64(bucket) < {day:Int64}, {from:Int64}, {day:Int64})", "''", &both, ""),
        of(section::HOUR, &hour, "''", &day, ""),
        top(section::EVENT_TYPE, "toString(event_type)", "", types),
        top(section::COUNTRY, "dim_value", "country", places),
        top(section::DEVICE, "dim_value", "device", places),
    ]
    .join(" UNION ALL ");
    statement
}

/// One part of a report, as [`Line`]s.
fn part(rollup: Rollup, section: &'static str, at: &str, key: &str, rows: &str) -> String {
    format!(
        "SELECT '{section}' AS section, toInt64({at}) AS at, {key} AS key, sum(t.events) AS events, {} AS users, \
         sum(t.value_sum) AS value, sumIf(t.value_sum, event_type = '{PURCHASE}') AS revenue \
         FROM {} AS t WHERE {rows} GROUP BY at, key",
        users(rollup).replace("(users)", "(t.users)"),
        rollup.table()
    )
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
        let query = MetricQuery::parse("events", &params, NOW).unwrap();
        super::series(&series::plan(&query, &Catalogue::default(), NOW).unwrap(), "p'1")
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
        assert!(bad.params.contains(&("event_type".to_owned(), Value::Text("x' OR 1=1--".to_owned()))));
    }

    #[test]
    fn whether_a_dimension_overflowed_is_asked_without_filters_and_with_bound_values() {
        let ask = |query: &str| {
            let params = Params::parse(Some(query), METRIC_PARAMS).unwrap();
            let query = MetricQuery::parse("events", &params, NOW).unwrap();
            super::overflowed(&series::plan(&query, &Catalogue::default(), NOW).unwrap(), "p")
        };
        assert_eq!(ask(""), None);
        for query in ["filter=device:a&eventType=x", "groupBy=device,country&filter=device:a"] {
            let statement = ask(query).unwrap();
            assert!(!statement.text.contains("filter_") && !statement.text.contains(OTHER), "{}", statement.text);
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
