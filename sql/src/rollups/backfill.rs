//! The tables of a backfill (`tallyhouse rollups backfill`), and the merge of raw events after it.
//!
//! `backfill_days` lists the days to rebuild and outlives a killed run; `backfill_rows` holds the additions to one batch of raw rows.

use clickhouse::Client;

use crate::error::StoreError;

/// Creates both tables. Keeps the days of a killed run; dropping its rows waits for a statement that still reads them.
pub async fn create_tables(client: &Client) -> Result<(), StoreError> {
    execute(
        client,
        "CREATE TABLE IF NOT EXISTS tallyhouse.backfill_days (project_id String, day Int64) \
         ENGINE = MergeTree ORDER BY (project_id, day)",
    )
    .await?;
    drop_rows(client).await?;
    execute(
        client,
        "CREATE TABLE tallyhouse.backfill_rows (ts Int64, user_hash UInt64, event_id String, \
         added Array(Tuple(String, String))) ENGINE = MergeTree ORDER BY (ts, user_hash, event_id)",
    )
    .await
}

/// Empties `backfill_rows` for the next batch.
pub async fn empty_rows(client: &Client) -> Result<(), StoreError> {
    execute(client, "TRUNCATE TABLE tallyhouse.backfill_rows SYNC").await
}

/// Drops `backfill_rows`, once every row is completed.
pub async fn drop_rows(client: &Client) -> Result<(), StoreError> {
    execute(client, "DROP TABLE IF EXISTS tallyhouse.backfill_rows SYNC").await
}

/// Drops `backfill_days`, once every day is rebuilt.
pub async fn drop_days(client: &Client) -> Result<(), StoreError> {
    execute(client, "DROP TABLE IF EXISTS tallyhouse.backfill_days SYNC").await
}

/// Merges a partition of raw events, so that completed rows replace the earlier ones also without `FINAL`.
pub async fn merge(client: &Client, partition: &str) -> Result<(), StoreError> {
    let sql = format!(
        "OPTIMIZE TABLE tallyhouse.events PARTITION ID '{partition}' FINAL \
         SETTINGS optimize_skip_merged_partitions = 1, optimize_throw_if_noop = 1"
    );
    execute(client, &sql).await
}

/// Without a deadline: a merge of a week, or waiting for a killed run's statement, takes as long as it takes.
async fn execute(client: &Client, sql: &str) -> Result<(), StoreError> {
    let call = client.query_raw(sql).with_setting("wait_end_of_query", "1").with_setting("max_execution_time", "0");
    Ok(call.execute().await?)
}
