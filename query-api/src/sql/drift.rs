//! The statement that chooses whose rollups are compared with raw events: one row, or none.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::{Statement, Value};

/// A project that has events.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct CountedProject {
    pub name: String,
}

/// Rows of the rollup that are read at most: a choice among many projects is not worth more.
const MOST_READ: u32 = 5_000_000;

/// One of the projects that have events in an hour, by chance, of those from a name on that are read. `hour`: its start, in seconds since 1970.
pub fn any_project_of(hour: i64, from: &str) -> Statement {
    let mut statement = Statement {
        text: format!(
            "SELECT toString(project_id) AS name FROM rollup_1h WHERE event_type = '' AND dim_set = '*' \
             AND bucket = toDateTime({{hour:Int64}}, 'UTC') AND project_id >= {{from:String}} GROUP BY project_id ORDER BY rand() LIMIT 1 \
             SETTINGS max_threads = 1, max_rows_to_read = {MOST_READ}, read_overflow_mode = 'break'"
        ),
        params: Vec::new(),
    };
    statement.bind("hour", Value::Number(hour));
    statement.bind("from", Value::Text(from.to_owned()));
    statement
}
