//! What each process that stores events knows of suppressions (`suppression_acks`): an erasure waits for all of them.

use std::time::Duration;

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};

use crate::deadline::within;
use crate::error::StoreError;
use crate::rollups::STATEMENT_DEADLINE;

/// How often a process writes its row, whether it changed or not.
pub const WRITE_EVERY: Duration = Duration::from_secs(60);

/// A row that is older is that of a process that is gone, or cut off. It has not stopped in order: what it has taken may be stored later.
pub const GONE_AFTER: Duration = Duration::from_secs(150);

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Ack {
    /// A name that no other process has.
    pub process: String,
    /// Suppressions up to this version apply to everything that it stores from now on.
    pub known: u64,
    /// Rises when it had to store what may be erased already.
    pub leftovers: u64,
    /// 0: it stopped in order.
    pub is_running: u8,
}

/// Writes a process's row.
pub async fn write(client: &Client, ack: &Ack) -> Result<(), StoreError> {
    let sql = "INSERT INTO tallyhouse.suppression_acks (process, known, leftovers, is_running) \
               SELECT {process:String}, {known:UInt64}, {leftovers:UInt64}, {running:UInt8}";
    let query = client.query(sql).param("process", &ack.process).param("known", ack.known);
    let query = query.param("leftovers", ack.leftovers).param("running", ack.is_running);
    within(STATEMENT_DEADLINE, query.with_setting("async_insert", "0").execute()).await
}

/// Processes that run, as far as they were heard of lately.
pub async fn running(client: &Client) -> Result<Vec<Ack>, StoreError> {
    let sql = "SELECT process, known, leftovers, is_running FROM tallyhouse.suppression_acks FINAL \
               WHERE is_running = 1 AND updated_at > now64(3) - toIntervalSecond({seconds:UInt64}) ORDER BY process";
    within(STATEMENT_DEADLINE, client.query(sql).param("seconds", GONE_AFTER.as_secs()).fetch_all::<Ack>()).await
}

/// Of a process that did not stop in order and is not heard of any more.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Silent {
    /// Its name.
    pub process: String,
    /// Milliseconds since 1970.
    pub heard_ms: i64,
}

/// Processes that were not heard of for [`GONE_AFTER`] and did not confirm a version before: killed, or cut off from ClickHouse.
pub async fn silent(client: &Client, version: u64) -> Result<Vec<Silent>, StoreError> {
    let sql = "SELECT process, toUnixTimestamp64Milli(updated_at) AS heard_ms FROM tallyhouse.suppression_acks FINAL \
               WHERE is_running = 1 AND known < {version:UInt64} AND updated_at <= now64(3) - toIntervalSecond({seconds:UInt64}) \
               AND updated_at > now64(3) - toIntervalDay(7) ORDER BY heard_ms DESC";
    let query = client.query(sql).param("version", version).param("seconds", GONE_AFTER.as_secs());
    within(STATEMENT_DEADLINE, query.fetch_all::<Silent>()).await
}

/// Says of a process that another one has gone on with what it had taken.
pub async fn succeeded(client: &Client, process: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO tallyhouse.suppression_acks (process, known, leftovers, is_running) \
               SELECT process, known, leftovers, 0 FROM tallyhouse.suppression_acks FINAL \
               WHERE process = {process:String} AND is_running = 1";
    within(STATEMENT_DEADLINE, client.query(sql).param("process", process).with_setting("async_insert", "0").execute())
        .await
}

/// Says of all processes that they have stopped: those that a backup knows of do not run on the restored tables.
pub async fn stop_all(client: &Client) -> Result<(), StoreError> {
    let sql = "INSERT INTO tallyhouse.suppression_acks (process, known, leftovers, is_running) \
               SELECT process, known, leftovers, 0 FROM tallyhouse.suppression_acks FINAL WHERE is_running = 1";
    within(STATEMENT_DEADLINE, client.query(sql).with_setting("async_insert", "0").execute()).await
}

/// A number that rises with everything that was stored although it may be erased.
pub async fn leftovers(client: &Client) -> Result<u64, StoreError> {
    let sql = "SELECT sum(leftovers) FROM (SELECT process, max(leftovers) AS leftovers FROM tallyhouse.suppression_acks GROUP BY process)";
    let rows = within(STATEMENT_DEADLINE, client.query(sql).fetch_all::<u64>()).await?;
    Ok(rows.first().copied().unwrap_or_default())
}
