//! The statement of a project's types of event.

use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tallyhouse_sql::clickhouse::{self, Row};

use super::{Statement, Value};

/// A type of event and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct EventTypeRow {
    /// Its name.
    pub event_type: String,
    /// Events counted.
    pub events: u64,
    /// Start of its first day, in seconds.
    pub first_day: i64,
    /// Start of its newest day, in seconds.
    pub newest_day: i64,
}

/// The types with most events, at most so many. The empty type stands for every type together.
pub fn event_types(project: &str, most: usize) -> Statement {
    let mut statement = Statement::default();
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("most", Value::Number(i64::try_from(most).unwrap_or(i64::MAX)));
    statement.text = format!(
        "SELECT toString(t.event_type) AS event_type, sum(t.events) AS events, toInt64(min(t.bucket)) AS first_day, \
         toInt64(max(t.bucket)) AS newest_day FROM {} AS t \
         WHERE project_id = {{project:String}} AND dim_set = '' AND t.event_type != '' \
         GROUP BY event_type ORDER BY events DESC, event_type LIMIT {{most:Int64}} SETTINGS max_threads = 1",
        Rollup::Day.table()
    );
    statement
}
