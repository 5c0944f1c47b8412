//! Compares rollups with raw events, and repairs differences.
//!
//! [`verify`] reads and changes nothing. [`rebuild`] recomputes drifted hours from raw and swaps whole partitions, while
//! [`gate`] keeps inserts away for the moment of the swap. [`mod@stats`] says how much smaller rollups are than what they count.
//! [`backfill`] holds the statements of `tallyhouse rollups backfill`.
//! All of them work on one server. On a cluster each shard is looked at by itself: an event and its rollups are on one shard.

pub mod backfill;
pub mod gate;
pub mod rebuild;
mod stable;
pub mod stats;
pub mod verify;

use std::collections::BTreeSet;
use std::time::Duration;

use clickhouse::Client;
use tallyhouse_schema::Rollup;

use crate::deadline::within;
use crate::error::StoreError;

/// One statement may take this long; `max_execution_time` of the user ends it at the same time.
pub(crate) const STATEMENT_DEADLINE: Duration = Duration::from_secs(600);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// One project, or all.
    pub project: Option<String>,
    /// Seconds since the epoch, inclusive. Widened to whole UTC days.
    pub from: i64,
    /// Seconds since the epoch, exclusive. Widened to whole UTC days.
    pub to: i64,
    /// Tables, one rollup of each.
    pub tables: Vec<Rollup>,
    /// Only these days of it, as days since 1970. Raw must still hold all of each: that is not looked at again, since an erasure may
    /// have removed the last row that would tell.
    pub days: Option<BTreeSet<i32>>,
}

impl Selection {
    /// These days of a project, in every rollup.
    pub fn of_days(project: &str, days: BTreeSet<i32>) -> Self {
        let seconds = |day: i32| i64::from(day) * verify::DAY;
        Self {
            project: Some(project.to_owned()),
            from: days.first().copied().map_or(0, seconds),
            to: days.last().copied().map_or(0, |day| seconds(day) + verify::DAY),
            tables: Rollup::OF_EACH_TABLE.to_vec(),
            days: Some(days),
        }
    }

    /// ` AND …`: a time of SQL is within the days, where they are named.
    fn on_days(&self, time: &str) -> String {
        let Some(days) = &self.days else { return String::new() };
        let days: Vec<_> = days.iter().map(ToString::to_string).collect();
        // `IN ()` is no SQL.
        let days = if days.is_empty() { "-1".to_owned() } else { days.join(", ") };
        format!(" AND toInt32(toDate({time}, 'UTC')) IN ({days})")
    }
}

/// Why rollups could not be verified or rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RollupsError {
    /// ClickHouse.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another rebuild is at work.
    #[error("another rebuild is running")]
    Busy,
    /// Not on a cluster.
    #[error("the tables are those of a cluster: events are counted under more dimensions on a single server only")]
    Cluster,
    /// Not where a shard has several servers.
    #[error("the tables are replicated: rollups can be rebuilt on shards of one server only")]
    Replicated,
    /// Inserts were held back for as long as they may be, and let in again; the partition is as it was.
    #[error("inserts were held back for {0:?} and the partition was not ready; it is unchanged and inserts go on")]
    GateTimedOut(Duration),
    /// The connection that is the lock ended.
    #[error("the lock was lost, probably because ClickHouse ended; verify again")]
    LockLost,
    /// What is not to be rebuilt was not copied whole. The partition is unchanged.
    #[error("{table} {partition}: the copy is not what it was made from; the partition is unchanged")]
    BadCopy {
        /// The rollup.
        table: &'static str,
        /// Partition id.
        partition: String,
    },
    /// Drift was still there after the last round.
    #[error("{0} hours still differ after the last round; verify again")]
    NotConverged(usize),
}

/// The unit that is compared and rebuilt: an hour, or a day where a bucket is a day.
const fn unit_of(rollup: Rollup) -> &'static str {
    match rollup {
        Rollup::Minute | Rollup::Quarter | Rollup::Hour => "toStartOfHour",
        Rollup::Day => "toStartOfDay",
    }
}

/// The function that gives the bucket.
const fn bucket_of(rollup: Rollup) -> &'static str {
    match rollup {
        Rollup::Minute => "toStartOfMinute",
        Rollup::Quarter => "toStartOfFifteenMinutes",
        Rollup::Hour => "toStartOfHour",
        Rollup::Day => "toStartOfDay",
    }
}

/// `'text'` for SQL. A project's name comes from whoever runs the command.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(crate) async fn execute(client: &Client, sql: &str) -> Result<(), StoreError> {
    let call = client.query_raw(sql).with_setting("wait_end_of_query", "1").execute();
    within(STATEMENT_DEADLINE, call).await
}

pub(crate) async fn number(client: &Client, sql: &str) -> Result<u64, StoreError> {
    // Read to its end: a connection that is dropped before is an error in ClickHouse's log, with a trace.
    let rows = within(STATEMENT_DEADLINE, client.query_raw(sql).fetch_all::<u64>()).await?;
    Ok(rows.first().copied().unwrap_or_default())
}

/// Whether a table is there.
async fn exists(client: &Client, table: &str) -> Result<bool, StoreError> {
    let sql = format!("SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND name = '{table}'");
    Ok(number(client, &sql).await? > 0)
}

/// Whether the tables are those of a cluster.
pub async fn is_cluster(client: &Client) -> Result<bool, StoreError> {
    exists(client, "shards").await
}

/// A copy of a replicated table would have its place in Keeper.
async fn refuse_replicated(client: &Client) -> Result<(), RollupsError> {
    if is_replicated(client).await? { Err(RollupsError::Replicated) } else { Ok(()) }
}

/// Whether the tables of a server are replicated.
pub async fn is_replicated(client: &Client) -> Result<bool, StoreError> {
    let sql = "SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND name = 'rollup_1h' AND engine LIKE 'Replicated%'";
    Ok(number(client, sql).await? > 0)
}

/// What is bounded for all shards together is not done by one.
pub async fn refuse_cluster(client: &Client) -> Result<(), RollupsError> {
    if is_cluster(client).await? { Err(RollupsError::Cluster) } else { Ok(()) }
}
