//! A deadline for a call to ClickHouse.

use std::time::Duration;

use crate::error::StoreError;

/// What ClickHouse answers in time.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut),
    }
}
