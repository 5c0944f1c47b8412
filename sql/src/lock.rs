//! One process at a time, on a ClickHouse that has no Keeper.
//!
//! **The lock is a running query.** ClickHouse refuses a second query of the same id, whoever asks (code 216), so whoever has the query of
//! that id running has the lock. The query ends with the connection: there is no row, table or file that a holder could leave behind.
//!
//! ```text
//! take   send the query under the lock's name -> it runs (seen in system.processes) -> taken
//!                                             '-> refused: somebody has it
//! hold   the query sends a row of blanks each second, which the holder reads
//! check  are my queries still in system.processes?
//! leave  the connection is closed
//! ```
//!
//! What can go wrong:
//!
//! * The holder is killed: its kernel closes the connection, ClickHouse notices within a second
//!   (`cancel_http_readonly_queries_on_client_close`).
//! * The holder's machine is gone, or the holder stands still: nobody reads the rows. Once the buffers between are full ClickHouse waits
//!   `http_send_timeout` (30 s) and ends the query: a minute or two in all. A holder that wakes up later asks before its next step whether it has
//!   the lock ([`QueryLock::check_with`]) and stops. Between that answer and the arrival of the step nothing protects; the steps of migrations have
//!   an id of their own for that, so that two never run at once.
//! * ClickHouse is restarted: the query is gone, and with it everything that was under way. [`QueryLock::check_with`] says so.
//! * A proxy cuts the connection: the same.
//! * Two ask at once: one is refused. Both may be when the query of one ends just then; they ask again.
//! * A cluster: an id is one server's, and so is the lock. What it protects, a server's tables, is too. Whoever works on all shards holds the
//!   lock of that work (`tallyhouse-privacy`, on the first shard) and takes the lock of one shard's tables after the other's, in the order of the list,
//!   each let go before the next: nobody who has the lock of a shard asks for another one, so there is no deadlock.

use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::deadline::within;
use crate::error::StoreError;

const POLL: Duration = Duration::from_millis(20);

/// A question about the lock.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Of each row, so that a holder that does not read is noticed: the kernels' buffers between take a few megabytes.
const ROW_BYTES: u32 = 128 << 10;

/// The right to do something alone, as long as the value lives.
#[derive(Debug)]
pub struct QueryLock {
    client: Client,
    name: &'static str,
    /// The text of the query, which no other process has.
    mine: String,
    held: JoinHandle<()>,
}

/// Who has a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process, as it says.
    pub process: String,
    /// Where it is.
    pub address: String,
    /// For so long.
    pub since: Duration,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}, for {} s", self.process, self.address, self.since.as_secs())
    }
}

impl QueryLock {
    /// Takes it. `None` when another process has it for longer than `within`.
    pub async fn take(client: &Client, name: &'static str, within: Duration) -> Result<Option<Self>, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            let lock = Self::ask(client, name);
            while !lock.is_lost() && Instant::now() < deadline {
                if lock.is_listed().await? {
                    return Ok(Some(lock));
                }
                sleep(POLL).await;
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    fn ask(client: &Client, name: &'static str) -> Self {
        let mine = format!(
            "SELECT 'process {}, {}', repeat(' ', {ROW_BYTES}), sleepEachRow(1) FROM numbers(1000000) FORMAT TSV",
            std::process::id(),
            unique()
        );
        let query = client
            .query_raw(&mine)
            .with_setting("query_id", name)
            // Only a read-only query ends with its connection.
            .with_setting("readonly", "2")
            .with_setting("cancel_http_readonly_queries_on_client_close", "1")
            .with_setting("max_execution_time", "0")
            .with_setting("max_result_rows", "0")
            .with_setting("max_result_bytes", "0")
            .with_setting("max_block_size", "1")
            .with_setting("function_sleep_max_microseconds_per_block", "0");
        let held = tokio::spawn(async move { drop(query.execute().await) });
        Self { client: client.clone(), name, mine, held }
    }

    /// Whether this process knows that somebody else may have it by now. ClickHouse may know earlier: see
    /// [`QueryLock::check_with`].
    pub fn is_lost(&self) -> bool {
        self.held.is_finished()
    }

    /// Asks ClickHouse whether it is still ours, and another one with it.
    pub async fn check_with(&self, other: &Self) -> Result<bool, StoreError> {
        let sql = "SELECT count() FROM system.processes WHERE (query_id, query) \
                   IN (({name:String}, {mine:String}), ({other_name:String}, {other_mine:String}))";
        let query = self.client.query(sql).param("name", self.name).param("mine", &self.mine);
        let query = query.param("other_name", other.name).param("other_mine", &other.mine);
        let held = within(ANSWER_WITHIN, query.fetch_all::<u64>()).await?;
        Ok(!self.is_lost() && !other.is_lost() && held.first() == Some(&2))
    }

    async fn is_listed(&self) -> Result<bool, StoreError> {
        let sql = "SELECT count() FROM system.processes WHERE query_id = {name:String} AND query = {mine:String}";
        let query = self.client.query(sql).param("name", self.name).param("mine", &self.mine);
        Ok(within(ANSWER_WITHIN, query.fetch_all::<u64>()).await?.first().is_some_and(|count| *count > 0))
    }
}

impl Drop for QueryLock {
    fn drop(&mut self) {
        self.held.abort();
    }
}

/// Who has the lock. `None`: nobody.
pub async fn holder(client: &Client, name: &str) -> Result<Option<Holder>, StoreError> {
    #[derive(Row, Deserialize)]
    struct Found {
        process: String,
        address: String,
        seconds: u64,
    }
    let sql = "SELECT extract(query, '\\'([^,]*), ') AS process, replaceOne(toString(address), '::ffff:', '') AS address, \
               toUInt64(elapsed) AS seconds FROM system.processes WHERE query_id = {name:String} LIMIT 1";
    let found =
        within(ANSWER_WITHIN, client.query(sql).param("name", name).fetch_all::<Found>()).await?.into_iter().next();
    Ok(found.map(|Found { process, address, seconds }| Holder {
        process,
        address,
        since: Duration::from_secs(seconds),
    }))
}

/// Something that no other process says.
fn unique() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(std::process::id()))
}
