//! The statement of the newest event of a reading: one row, or none.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::Statement;
use super::read::rows;
use crate::plan::read::{Read, Source};

/// When the newest event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Instant {
    /// In milliseconds since the epoch: the instant in raw events, the start of the bucket in rollups.
    pub at_ms: i64,
}

/// Rows that are read at most: some milliseconds. ClickHouse refuses more before it reads any.
const MOST_READ: u32 = 500_000;

/// Without `FINAL`: copies of an event happened when the event did.
pub fn newest(read: &Read, project: &str) -> Statement {
    let mut statement = Statement::default();
    let rows = rows(read, project, &mut statement);
    let newest = match &read.source {
        Source::Rollup { .. } => "toInt64(max(bucket)) * 1000",
        Source::Raw => "toUnixTimestamp64Milli(max(ts))",
    };
    let table = read.source.table();
    statement.text = format!(
        "SELECT {newest} AS at_ms FROM {table} WHERE {rows} HAVING count() > 0 \
         SETTINGS max_threads = 1, max_rows_to_read = {MOST_READ}, read_overflow_mode = 'throw'"
    );
    statement
}
