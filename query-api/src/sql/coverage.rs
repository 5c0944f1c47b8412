//! The statement of coverage: every event is counted in every set that its type has, so a set has a gap on a day where it counts
//! fewer events than the total.

use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tallyhouse_schema::rollup::QUARTER;
use tallyhouse_sql::clickhouse::{self, Row};

use super::{Statement, Value};

/// A UTC day, its events, and those of them that are counted in the rows asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct CountedDay {
    /// Start of the day, in seconds since the epoch.
    pub day: i64,
    /// Events of the day in the rows without dimensions.
    pub events: u64,
    /// Events of the day in the rows of the set.
    pub counted: u64,
}

/// The days on which there were events of these types, and how many are in the rows of a set.
pub fn counted_by_set(project: &str, set: &str, types: &[String]) -> Statement {
    let mut statement = Statement::default();
    statement.bind("types", Value::Texts(types.to_vec()));
    counted(Rollup::Day, project, set, " AND t.event_type IN {types:Array(String)}", statement)
}

/// The days on which there were events, and how many are in rows of quarters of an hour.
pub fn counted_by_quarter(project: &str) -> Statement {
    counted(Rollup::Hour, project, QUARTER, " AND t.event_type != ''", Statement::default())
}

fn counted(rollup: Rollup, project: &str, set: &str, types: &str, mut statement: Statement) -> Statement {
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("set", Value::Text(set.to_owned()));
    statement.text = format!(
        "SELECT toInt64(toUnixTimestamp(toStartOfDay(t.bucket))) AS day, sumIf(t.events, t.dim_set = '') AS events, \
         sumIf(t.events, t.dim_set = {{set:String}}) AS counted FROM {} AS t \
         WHERE project_id = {{project:String}} AND t.dim_set IN ('', {{set:String}}){types} \
         GROUP BY day ORDER BY day SETTINGS max_threads = 1",
        rollup.table()
    );
    statement
}
