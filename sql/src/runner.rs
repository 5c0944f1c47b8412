//! Applies migrations and reports the state of a database.

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::Connection;
use crate::error::StoreError;
use crate::migrations::{ALL, Migration, Rendering};

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

/// How long a file whose `throwIf` says "not yet" is run again, and how long after.
const NOT_YET: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(50));

/// `FUNCTION_THROW_IF_VALUE_IS_NON_ZERO`.
const THROWN: u32 = 395;

/// Brings the database to this version. Returns the names of what was applied; nothing when all was there.
pub async fn up(connection: &Connection, rendering: &Rendering) -> Result<Vec<&'static str>, MigrateError> {
    let mut applied = Vec::new();
    for (migration, standing) in status(connection, rendering).await? {
        match standing {
            Standing::Applied => {}
            Standing::Changed => return Err(MigrateError::Changed { name: migration.name.to_owned() }),
            Standing::Pending => {
                apply(connection, rendering, migration).await?;
                applied.push(migration.name);
            }
        }
    }
    Ok(applied)
}

/// Every migration of this topology and where it stands.
pub async fn status(
    connection: &Connection,
    rendering: &Rendering,
) -> Result<Vec<(&'static Migration, Standing)>, MigrateError> {
    let mut recorded = recorded(connection).await.map_err(MigrateError::Record)?;
    let standings = ALL
        .iter()
        .filter(|migration| migration.applies_to(&rendering.topology))
        .map(|migration| {
            let standing = match recorded.remove(&migration.version()) {
                None => Standing::Pending,
                Some(row) if row.checksum == migration.checksum() => Standing::Applied,
                Some(_) => Standing::Changed,
            };
            (migration, standing)
        })
        .collect();
    match recorded.into_values().find(|row| ALL.iter().all(|known| known.version() != row.version)) {
        Some(Recorded { version, name, .. }) => Err(MigrateError::Newer { version, name }),
        None => Ok(standings),
    }
}

async fn recorded(connection: &Connection) -> Result<BTreeMap<u32, Recorded>, StoreError> {
    let exists = "SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND name = 'migrations'";
    if within(connection.server().query(exists).fetch_one::<u64>()).await? == 0 {
        return Ok(BTreeMap::new());
    }
    let all = "SELECT version, name, checksum FROM tallyhouse.migrations FINAL ORDER BY version";
    let rows = within(connection.server().query(all).fetch_all::<Recorded>()).await?;
    Ok(rows.into_iter().map(|row| (row.version, row)).collect())
}

async fn apply(connection: &Connection, rendering: &Rendering, migration: &Migration) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Statement { name: migration.name.to_owned(), source };
    let server = connection.server();
    // `query_raw`: a question mark in DDL is a question mark, not a parameter of the client.
    awaited(&server, &migration.render(rendering)).await.map_err(failed)?;
    if migration.version() < 2 {
        return Ok(()); // The record is the second file: it records the first one too.
    }
    for done in ALL.iter().take(2).filter(|_| migration.version() == 2).chain([migration]) {
        let record = server
            .query("INSERT INTO tallyhouse.migrations (version, name, checksum) VALUES ({version:UInt32}, {name:String}, {checksum:String})")
            .param("version", done.version())
            .param("name", done.name)
            .param("checksum", done.checksum())
            .with_setting("async_insert", "0");
        within(record.execute()).await.map_err(failed)?;
    }
    tracing::info!(migration = migration.name, "applied");
    Ok(())
}

/// Runs a statement, again while it says "not yet".
async fn awaited(server: &Client, sql: &str) -> Result<(), StoreError> {
    let deadline = if is_fill(sql) { FILL_DEADLINE } else { STATEMENT_DEADLINE };
    let (until, pause) = (Instant::now() + NOT_YET.0, NOT_YET.1);
    loop {
        let call = server.query_raw(sql).with_setting("wait_end_of_query", "1").with_setting("max_execution_time", "0");
        match timeout(deadline, call.execute()).await.map_err(|_| StoreError::TimedOut)?.map_err(StoreError::from) {
            Err(StoreError::Refused { code: THROWN, .. }) if Instant::now() < until => sleep(pause).await,
            done => return done,
        }
    }
}

fn is_fill(sql: &str) -> bool {
    sql.lines().find(|line| !line.starts_with("--")).is_some_and(|line| line.starts_with("INSERT"))
}

async fn within<T>(call: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, StoreError> {
    match timeout(STATEMENT_DEADLINE, call).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut),
    }
}
