//! The span of a query: what ClickHouse did, and under which `query_id` its `system.query_log` has it.

use std::future::Future;

use tallyhouse_service::trace::{self, Kind, Span};
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse;
use tokio::time::error::Elapsed;

use super::cost::Answered;

pub(super) fn begin(query_id: &str) -> Span {
    let mut span = trace::span("clickhouse", Kind::Client);
    if span.is_recorded() {
        span.set("db.system.name", "clickhouse");
        span.set("db.operation.name", "SELECT");
        span.set("tallyhouse.query_id", query_id.to_owned());
    }
    span
}

/// Waits for the answer, and ends the span.
pub(super) async fn asked<R>(
    mut span: Span,
    answer: impl Future<Output = Result<clickhouse::error::Result<Answered<R>>, Elapsed>>,
) -> Result<Result<Answered<R>, StoreError>, Elapsed> {
    let answer = answer.await.map(|answer| answer.map_err(StoreError::from));
    match &answer {
        Ok(Ok(answered)) => {
            span.set("db.response.returned_rows", answered.rows.len());
            span.set("tallyhouse.rows_read", answered.cost.rows_read);
            span.set("tallyhouse.bytes_read", answered.cost.bytes_read);
        }
        Ok(Err(error)) => span.fail(error.summary()),
        Err(_) => span.fail(StoreError::TimedOut.summary()),
    }
    answer
}
