//! The statement of the newest canary event: one row.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::{Statement, Value};

/// When the newest canary event that is counted was sent, in milliseconds since 1970; no number where none is.
#[derive(Debug, Clone, Copy, PartialEq, Row, Deserialize)]
pub struct NewestCanary {
    pub sent_ms: f64,
}

/// Since an instant, in seconds since 1970. A canary's value is when it was sent.
pub fn newest_canary(project: &str, event_type: &str, since: i64) -> Statement {
    let mut statement = Statement {
        text: "SELECT max(value_max) AS sent_ms FROM rollup_1m WHERE project_id = {project:String} \
               AND event_type = {event_type:String} AND dim_set = '' AND bucket >= toDateTime({since:Int64}, 'UTC')"
            .to_owned(),
        params: Vec::new(),
    };
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("event_type", Value::Text(event_type.to_owned()));
    statement.bind("since", Value::Number(since));
    statement
}
