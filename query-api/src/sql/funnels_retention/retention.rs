//! The statement of retention: events -> units of a person -> the cohort and the units of return -> cells.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::super::bucket;
use super::{Statement, Value, holds, scope};
use crate::plan::retention::RetentionPlan;
use crate::request::retention::Unit;
use crate::time::DAY;

/// Stands where there is no unit: in `cohort_at` for those in no cohort, in `back_at` for the cohort itself.
pub const NOBODY: i64 = -1;

/// People of one cohort who came back in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Cell {
    /// Start of the cohort's unit in seconds, or [`NOBODY`].
    pub cohort_at: i64,
    /// Start of the unit of return, or [`NOBODY`] for all people of the cohort.
    pub back_at: i64,
    pub users: u64,
    /// Their events that were looked at; 0 where it is about returns.
    pub events: u64,
    /// Those of them that belong to nobody.
    pub without_user: u64,
    /// When the newest of them happened, in milliseconds since the epoch.
    pub newest_ms: i64,
}

/// The statement of retention.
pub fn retention(plan: &RetentionPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let scope = scope(&plan.scan(), project, &mut statement);
    let cohort = holds(&plan.cohort, &mut statement);
    let returns = holds(&plan.returns, &mut statement);
    let unit = bucket(&plan.grid(), "intDiv(ms, 1000)", &mut statement);
    statement.bind("cohorts_to_ms", Value::Number(plan.to * 1_000));
    statement.bind("longest", Value::Number(longest(plan)));
    statement.bind("nobody", Value::Number(NOBODY));
    // A person's return in the unit of the cohort counts only after the cohort event; those in later units always are.
    statement.text = format!(
        "SELECT cohort_at, arrayJoin(arrayConcat([{{nobody:Int64}}], back)) AS back_at, count() AS users, \
         sumIf(events_, back_at = {{nobody:Int64}}) AS events, \
         sumIf(events_, back_at = {{nobody:Int64}} AND user_hash = 0) AS without_user, max(newest) AS newest_ms \
         FROM (SELECT user_hash, user_hash != 0 AND count(began) > 0 AS belongs, min(began) AS first, \
         if(belongs, ifNull(argMin(at, began), {{nobody:Int64}}), {{nobody:Int64}}) AS cohort_at, \
         arrayMap(unit -> unit.1, arrayFilter(unit -> belongs AND unit.2 > first AND unit.1 <= cohort_at + {{longest:Int64}}, \
         groupArrayIf((at, ifNull(latest, 0)), isNotNull(latest)))) AS back, sum(events__) AS events_, max(newest_) AS newest \
         FROM (SELECT user_hash, {unit} AS at, minOrNullIf(ms, is_cohort AND ms < {{cohorts_to_ms:Int64}}) AS began, \
         maxOrNullIf(ms, is_return) AS latest, count() AS events__, max(ms) AS newest_ \
         FROM (SELECT user_hash, toUnixTimestamp64Milli(ts) AS ms, {cohort} AS is_cohort, {returns} AS is_return \
         FROM events FINAL WHERE {scope} AND (is_cohort OR is_return)) \
         GROUP BY user_hash, at) GROUP BY user_hash) GROUP BY cohort_at, back_at ORDER BY cohort_at, back_at"
    );
    statement
}

/// No fewer seconds than lie between the starts of a cohort's unit and of its last period. What is beyond is dropped when the
/// answer is rendered; this only keeps it from being sent.
fn longest(plan: &RetentionPlan) -> i64 {
    let days = match plan.unit {
        Unit::Day => 1,
        Unit::Week => 7,
    };
    (i64::from(plan.periods) * days + 1) * DAY
}
