//! The statements of the real-time dashboard and of reports: several sections in one.

use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_sql::clickhouse::{self, Row};

use super::measure::users_of;
use super::{Statement, Value, bucket};
use crate::metric_definitions::PURCHASE;
use crate::plan::{DailyPlan, RealtimePlan};
use crate::time::{Granularity, Grid};

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
    /// Start of the newest minute or hour in it in which something happened, in seconds.
    pub newest: i64,
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
    /// The dimensions of which some values are counted as `__other__`.
    pub const OVERFLOWED: &str = "overflowed";
}

/// Event types in a report, and countries and devices at most.
pub const TOP: (i64, i64) = (100, 10);

/// The statement of the real-time dashboard: per window, all events and each event type.
pub fn realtime(plan: &RealtimePlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let rows = format!("{} AND dim_set = ''", scope(project, plan.long_from, plan.to, &mut statement));
    statement.bind("windows", Value::Numbers(vec![plan.short_from, plan.long_from]));
    let window = "arrayJoin(arrayFilter(since -> toInt64(bucket) >= since, {windows:Array(Int64)}))";
    let rollup = Rollup::Minute;
    let total = part(rollup, section::TOTAL, window, "''", &rows);
    let by_type = part(rollup, section::EVENT_TYPE, window, "toString(event_type)", &rows);
    // One more than is shown tells whether any was left out.
    let types = TOP.0 + 1;
    statement.text = format!("{total} UNION ALL ({by_type} ORDER BY events DESC, key LIMIT {types} BY at)");
    statement
}

/// The statement of a daily report: both days (of the day before as much as is compared), and of the day itself its event
/// types, countries, devices and hours.
pub fn daily(plan: &DailyPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let day = scope(project, plan.from, plan.to, &mut statement);
    statement.bind("previous_from", Value::Number(plan.previous_from));
    statement.bind("previous_to", Value::Number(plan.previous_to));
    let previous = format!(
        "project_id = {{project:String}} AND bucket >= toDateTime({{previous_from:Int64}}, 'UTC') \
         AND bucket < toDateTime({{previous_to:Int64}}, 'UTC') AND dim_set = '{}'",
        plan.previous_rollup.mark()
    );
    let hour =
        bucket(&Grid::over(Granularity::Hour, &plan.zone, plan.from, plan.to), "toInt64(bucket)", &mut statement);
    let (types, places) = TOP;
    let mark = plan.rollup.mark();
    let of = |name, at: &str, key, rows: &str, set| {
        part(plan.rollup, name, at, key, &format!("{rows} AND dim_set = '{mark}{set}'"))
    };
    let top = |name, key, set, most| {
        format!("({} ORDER BY events DESC, key LIMIT {})", of(name, "{from:Int64}", key, &day, set), most + 1)
    };
    statement.bind("other", Value::Text(OTHER.to_owned()));
    let overflowed = format!("{day} AND dim_set IN ('{mark}country', '{mark}device') AND dim_value = {{other:String}}");
    let which = format!("substring(toString(dim_set), {})", mark.len() + 1);
    statement.text = [
        part(plan.previous_rollup, section::TOTAL, "{previous_from:Int64}", "''", &previous),
        of(section::TOTAL, "{from:Int64}", "''", &day, ""),
        of(section::HOUR, &hour, "''", &day, ""),
        top(section::EVENT_TYPE, "toString(event_type)", "", types),
        top(section::COUNTRY, "dim_value", "country", places),
        top(section::DEVICE, "dim_value", "device", places),
        part(plan.rollup, section::OVERFLOWED, "{from:Int64}", &which, &overflowed),
    ]
    .join(" UNION ALL ");
    statement
}

/// One part of a report, as [`Line`]s.
fn part(rollup: Rollup, section: &'static str, at: &str, key: &str, rows: &str) -> String {
    format!(
        "SELECT '{section}' AS section, toInt64({at}) AS at, {key} AS key, sum(t.events) AS events, {} AS users, \
         sum(t.value_sum) AS value, sumIf(t.value_sum, event_type = '{PURCHASE}') AS revenue, \
         toInt64(max(t.bucket)) AS newest FROM {} AS t WHERE {rows} GROUP BY at, key",
        users_of(rollup).replace("(users)", "(t.users)"),
        rollup.table()
    )
}

/// Project and range: what every report starts from.
fn scope(project: &str, from: i64, to: i64, statement: &mut Statement) -> String {
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("from", Value::Number(from));
    statement.bind("to", Value::Number(to));
    "project_id = {project:String} AND bucket >= toDateTime({from:Int64}, 'UTC') AND bucket < toDateTime({to:Int64}, 'UTC')"
        .to_owned()
}
