//! Applies migrations and reports the state of a database.
//!
//! ```text
//! status: all applied? -> done, without a lock
//! take the lock of migrations; while another process has it: say so, wait, and look at the status again -> all applied? -> done
//! take the lock of rollups: a rebuild that swaps partitions would throw away what a migration fills in
//! status again -> for each pending file: are both locks still ours? -> run it under the id of steps -> record it
//! ```
//!
//! The lock is that of [`crate::lock`], which lists how it can be lost. Two processes never run a file at once:
//!
//! * A process that has lost the lock learns it before its next file, and ends with [`MigrateError::LockLost`].
//! * Its file may still run in ClickHouse, which goes on when a client goes away. The statement of every file has the same query id
//!   ([`STEP`]), which ClickHouse refuses while one with it runs: whoever takes over waits for it. What it did without recording it is done
//!   again, which every file allows.
//! * A cluster: each server is migrated by itself, one after the other, as if it were the only one, and keeps a record of its own. So nothing
//!   depends on Keeper, a server that was away is migrated when it is back, and one that is added gets everything. See [`crate::shards`].

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::Connection;
use crate::deadline::within;
use crate::error::StoreError;
use crate::lock::{self, Holder, QueryLock};
use crate::migrations::{self, ALL, BEFORE_BASELINE, Migration, Rendering, Topology};
use crate::rollups::gate;
use crate::tiers;

/// Why migrations stopped.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A file differs from what was applied under its number.
    #[error("migration {name} was changed after it was applied; put the file back and write a new one")]
    Changed {
        /// The file.
        name: String,
    },
    /// The database knows a migration that this build does not: it was migrated by a newer version.
    #[error("the database has migration {version} ({name}), which this version does not know; run the newer version")]
    Newer {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
    },
    /// A statement failed.
    #[error("migration {name}: {source}")]
    Statement {
        /// The file.
        name: String,
        /// What ClickHouse said.
        source: StoreError,
    },
    /// The lock could not be taken or looked at.
    #[error("the lock of migrations: {0}")]
    Lock(#[source] StoreError),
    /// Somebody else may be migrating by now.
    #[error("the lock of migrations was lost before {name}, probably because ClickHouse was restarted; run it again")]
    LockLost {
        /// The file that was to be applied.
        name: String,
    },
    /// Another process did not finish.
    #[error(
        "another process works on the tables ({holder}) and did not finish within {} min; if it is gone without a trace, \
         `KILL QUERY WHERE query_id = '{lock}'` ends its lock", WAIT.as_secs() / 60
    )]
    Busy {
        /// Which one.
        holder: Holder,
        /// The lock that it has.
        lock: &'static str,
    },
    /// Where the tables may be could not be read.
    #[error("the storage policies could not be read: {0}")]
    Policies(#[source] StoreError),
    /// The record of migrations could not be read.
    #[error("the record of migrations could not be read: {0}")]
    Record(#[source] StoreError),
}

/// Where one migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Applied as it is.
    Applied,
    /// Not yet.
    Pending,
    /// Applied, and the file was changed since.
    Changed,
}

#[derive(Row, Deserialize)]
struct Recorded {
    version: u32,
    name: String,
    checksum: String,
}

/// A statement that takes longer than this has hung: DDL takes milliseconds.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(60);

/// The same for a file that fills a table from what is there, which takes as long as there is much.
const FILL_DEADLINE: Duration = Duration::from_secs(4 * 3_600);

/// The lock of migrations.
pub const LOCK: &str = "tallyhouse-migrate";

/// The query id of every file's statement.
pub const STEP: &str = "tallyhouse-migration-step";

/// How long another process is waited for: the longest file, and a bit.
const WAIT: Duration = Duration::from_secs(4 * 3_600 + 600);

/// How long one attempt to take a lock goes on, and how often a waiter says what it waits for.
const ATTEMPT: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(10);

/// `QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING`.
const SAME_ID: u32 = 216;

/// `QUERY_WAS_CANCELLED`.
const CANCELLED: u32 = 394;

/// How long a file whose `throwIf` says "not yet" is run again, and how long after.
const NOT_YET: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(50));

/// `FUNCTION_THROW_IF_VALUE_IS_NON_ZERO`.
const THROWN: u32 = 395;

/// Brings the database to this version. Returns the names of what was applied; nothing when all was there, or another process
/// did it meanwhile.
pub async fn up(connection: &Connection, topology: &Topology) -> Result<Vec<&'static str>, MigrateError> {
    if pending(connection, topology).await?.is_empty() {
        return Ok(Vec::new());
    }
    let Some(locks) = Locks::take(connection, topology).await? else { return Ok(Vec::new()) };
    let storage_policy = tiers::policy(connection).await.map_err(MigrateError::Policies)?;
    let rendering = Rendering { topology: topology.clone(), storage_policy };
    let mut applied = Vec::new();
    for migration in pending(connection, topology).await? {
        locks.check(migration).await?;
        apply(connection, &rendering, migration).await?;
        applied.push(migration.name);
    }
    Ok(applied)
}

/// What is to be applied, in its order.
async fn pending(connection: &Connection, topology: &Topology) -> Result<Vec<&'static Migration>, MigrateError> {
    let mut pending = Vec::new();
    for (migration, standing) in status(connection, topology).await? {
        match standing {
            Standing::Applied => {}
            Standing::Changed => return Err(MigrateError::Changed { name: migration.name.to_owned() }),
            Standing::Pending => pending.push(migration),
        }
    }
    Ok(pending)
}

/// The right to run files, as long as the value lives.
struct Locks {
    migrations: QueryLock,
    rollups: QueryLock,
}

impl Locks {
    /// Takes both. `None`: nothing is pending any more.
    async fn take(connection: &Connection, topology: &Topology) -> Result<Option<Self>, MigrateError> {
        let waiter = Waiter { connection, topology, began: Instant::now() };
        let Some(migrations) = waiter.take(LOCK).await? else { return Ok(None) };
        let rollups = waiter.take(gate::LOCK).await?;
        Ok(rollups.map(|rollups| Self { migrations, rollups }))
    }

    async fn check(&self, next: &Migration) -> Result<(), MigrateError> {
        match self.migrations.check_with(&self.rollups).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(MigrateError::LockLost { name: next.name.to_owned() }),
            Err(error) => Err(MigrateError::Lock(error)),
        }
    }
}

/// Waits for a lock.
struct Waiter<'a> {
    connection: &'a Connection,
    topology: &'a Topology,
    began: Instant,
}

impl Waiter<'_> {
    /// Takes a lock as soon as nobody has it. `None`: nothing is pending any more.
    async fn take(&self, lock: &'static str) -> Result<Option<QueryLock>, MigrateError> {
        let client = self.connection.server();
        let mut said: Option<Instant> = None;
        loop {
            if let Some(taken) = QueryLock::take(&client, lock, ATTEMPT).await.map_err(MigrateError::Lock)? {
                return Ok(Some(taken));
            }
            match lock::holder(&client, lock).await.map_err(MigrateError::Lock)? {
                None if self.began.elapsed() >= WAIT => return Err(MigrateError::Lock(StoreError::TimedOut)),
                None => {}
                Some(holder) if self.began.elapsed() >= WAIT => return Err(MigrateError::Busy { holder, lock }),
                Some(holder) => {
                    if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                        tracing::info!(%holder, lock, "waiting for another process that works on the tables");
                        said = Some(Instant::now());
                    }
                    sleep(ATTEMPT.mul_f64(pause_share())).await;
                }
            }
            if pending(self.connection, self.topology).await?.is_empty() {
                tracing::info!("another process has applied all migrations");
                return Ok(None);
            }
        }
    }
}

/// Between a quarter and the whole: two that wait for each other do not go on in step.
fn pause_share() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    0.25 + 0.75 * (RandomState::new().hash_one(0_u8) % 1_000) as f64 / 1_000.0
}

/// Every migration of this topology and where it stands.
pub async fn status(
    connection: &Connection,
    topology: &Topology,
) -> Result<Vec<(&'static Migration, Standing)>, MigrateError> {
    let mut recorded = recorded(connection).await.map_err(MigrateError::Record)?;
    let standings = migrations::of_recorded(recorded.keys().copied())
        .into_iter()
        .filter(|migration| migration.applies_to(topology))
        .map(|migration| {
            let standing = match recorded.remove(&migration.version()) {
                None => Standing::Pending,
                Some(row) if row.checksum == migration.checksum() => Standing::Applied,
                Some(_) => Standing::Changed,
            };
            (migration, standing)
        })
        .collect();
    let is_known = |row: &Recorded| BEFORE_BASELINE.iter().chain(ALL).any(|known| known.version() == row.version);
    match recorded.into_values().find(|row| !is_known(row)) {
        Some(Recorded { version, name, .. }) => Err(MigrateError::Newer { version, name }),
        None => Ok(standings),
    }
}

async fn recorded(connection: &Connection) -> Result<BTreeMap<u32, Recorded>, StoreError> {
    let exists = "SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND name = 'migrations'";
    if within(STATEMENT_DEADLINE, connection.server().query(exists).fetch_one::<u64>()).await? == 0 {
        return Ok(BTreeMap::new());
    }
    let all = "SELECT version, name, checksum FROM tallyhouse.migrations FINAL ORDER BY version";
    let rows = within(STATEMENT_DEADLINE, connection.server().query(all).fetch_all::<Recorded>()).await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

async fn apply(connection: &Connection, rendering: &Rendering, migration: &Migration) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Statement { name: migration.name.to_owned(), source };
    let server = connection.server();
    // `query_raw`: a question mark in DDL is a question mark, not a parameter of the client.
    awaited(&server, &migration.render(rendering)).await.map_err(failed)?;
    // The record is made by the second file, which records the first one too.
    let done = match ALL.iter().position(|first| first.name == migration.name) {
        Some(0) => &[],
        Some(1) => ALL.get(..2).unwrap_or_default(),
        _ => std::slice::from_ref(migration),
    };
    for done in done {
        let record = server
            .query("INSERT INTO tallyhouse.migrations (version, name, checksum) VALUES ({version:UInt32}, {name:String}, {checksum:String})")
            .param("version", done.version())
            .param("name", done.name)
            .param("checksum", done.checksum())
            .with_setting("async_insert", "0");
        within(STATEMENT_DEADLINE, record.execute()).await.map_err(failed)?;
    }
    tracing::info!(migration = migration.name, "applied");
    Ok(())
}

/// Runs a statement, again while it says "not yet", or while a process that is gone left one running.
async fn awaited(server: &Client, sql: &str) -> Result<(), StoreError> {
    let deadline = if is_fill(sql) { FILL_DEADLINE } else { STATEMENT_DEADLINE };
    let (began, pause) = (Instant::now(), NOT_YET.1);
    loop {
        let call = server
            .query_raw(sql)
            .with_setting("query_id", STEP)
            .with_setting("wait_end_of_query", "1")
            .with_setting("max_execution_time", "0");
        match timeout(deadline, call.execute()).await.map_err(|_| StoreError::TimedOut)?.map_err(StoreError::from) {
            Err(StoreError::Refused { code: THROWN, .. }) if began.elapsed() < NOT_YET.0 => sleep(pause).await,
            Err(error) if has_not_run(&error) && began.elapsed() < FILL_DEADLINE => sleep(pause).await,
            done => return done,
        }
    }
}

/// Whether a statement was refused for another one of its id, or ended with it before it began.
fn has_not_run(error: &StoreError) -> bool {
    match error {
        StoreError::Refused { code: SAME_ID, .. } => true,
        StoreError::Refused { code: CANCELLED, message } => message.contains("in pending state"),
        _ => false,
    }
}

fn is_fill(sql: &str) -> bool {
    sql.lines().find(|line| !line.starts_with("--")).is_some_and(|line| line.starts_with("INSERT"))
}
