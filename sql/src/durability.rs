//! Whether an insert is on the disk, not only in the kernel's cache, when it is acknowledged.

use crate::connection::Connection;
use crate::error::StoreError;

/// Tables that an insert of events writes.
const TABLES: [&str; 5] = ["events", "rollup_1m", "rollup_1h", "rollup_1d", "dead_letters"];

/// When the parts of an insert reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// When the kernel likes: a kill loses nothing, a power cut may.
    #[default]
    Off,
    /// Before the insert is answered.
    On,
}

impl std::fmt::Display for Fsync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

/// Makes the tables as they are to be. Changes nothing when they are.
pub async fn apply(connection: &Connection, fsync: Fsync) -> Result<(), StoreError> {
    let client = connection.client();
    for table in TABLES {
        if of(connection, table).await? != fsync {
            let change = match fsync {
                Fsync::On => "MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1",
                Fsync::Off => "RESET SETTING fsync_after_insert, fsync_part_directory",
            };
            client.query_raw(&format!("ALTER TABLE tallyhouse.{table} {change}")).execute().await?;
            tracing::info!(table, ?fsync, "changed when inserts reach the disk");
        }
    }
    Ok(())
}

/// [`Fsync::On`] when every table is.
pub async fn status(connection: &Connection) -> Result<Fsync, StoreError> {
    for table in TABLES {
        if of(connection, table).await? == Fsync::Off {
            return Ok(Fsync::Off);
        }
    }
    Ok(Fsync::On)
}

async fn of(connection: &Connection, table: &str) -> Result<Fsync, StoreError> {
    let sql = format!(
        "SELECT countIf(engine_full LIKE '%fsync_after_insert = 1%' AND engine_full LIKE '%fsync_part_directory = 1%') \
         FROM system.tables WHERE database = 'tallyhouse' AND name = '{table}'"
    );
    let on = connection.client().query_raw(&sql).fetch_one::<u64>().await?;
    Ok(if on == 1 { Fsync::On } else { Fsync::Off })
}
