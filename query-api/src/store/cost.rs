//! The cost of an answer, as ClickHouse reports it in `X-ClickHouse-Summary`. It is complete because ClickHouse sends an answer
//! only at its end (`wait_end_of_query`).

use std::ops::{Add, AddAssign};

use tallyhouse_sql::clickhouse::error::Result;
use tallyhouse_sql::clickhouse::query::{Query, RowCursor};
use tallyhouse_sql::clickhouse::{QuerySummary, RowOwned, RowRead};

/// Rows and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered<R> {
    /// The rows, in the statement's order.
    pub rows: Vec<R>,
    pub cost: Cost,
}

/// What ClickHouse did for an answer; costs of several queries add up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Rows read from tables.
    pub rows_read: u64,
    /// Bytes of them, uncompressed.
    pub bytes_read: u64,
    /// Time in ClickHouse, in milliseconds.
    pub elapsed_ms: f64,
    /// A shard of the cluster did not answer.
    pub is_partial: bool,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows_read: self.rows_read.saturating_add(other.rows_read),
            bytes_read: self.bytes_read.saturating_add(other.bytes_read),
            elapsed_ms: self.elapsed_ms + other.elapsed_ms,
            is_partial: self.is_partial || other.is_partial,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Cost {
    /// What a cursor's answer cost; known once the answer has begun.
    pub fn of<R>(cursor: &RowCursor<R>) -> Self {
        Self::of_summary(cursor.summary())
    }

    /// The cost in a summary; zero without one.
    pub fn of_summary(summary: Option<&QuerySummary>) -> Self {
        let Some(summary) = summary else { return Self::default() };
        Self {
            rows_read: summary.read_rows().unwrap_or_default(),
            bytes_read: summary.read_bytes().unwrap_or_default(),
            elapsed_ms: summary.elapsed_ns().unwrap_or_default() as f64 / 1e6,
            is_partial: false,
        }
    }
}

pub(super) async fn fetch<R: RowOwned + RowRead>(query: Query) -> Result<Answered<R>> {
    let (mut cursor, mut rows) = (query.fetch::<R>()?, Vec::new());
    while let Some(row) = cursor.next().await? {
        rows.push(row);
    }
    Ok(Answered { rows, cost: Cost::of(&cursor) })
}
