//! Prepares the tables of ClickHouse: migrated, synced as configured, and open for inserts.

use std::convert::Infallible;
use std::time::Duration;

use tallyhouse_sql::durability::{self, Fsync};
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::preconditions::{self, UnsuitableError};
use tallyhouse_sql::rollups::{RollupsError, gate};
use tallyhouse_sql::runner::{self, MigrateError};
use tallyhouse_sql::shards::MisplacedError;
use tallyhouse_sql::tiers::{self, Tiers};
use tallyhouse_sql::{Class, Connection, Shards, StoreError};
use tokio::task::JoinSet;

/// How long a rebuild that was killed can shut inserts out.
const LOOK_AT_THE_GATE_EVERY: Duration = Duration::from_secs(5);

/// What an installation sets of its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableSettings {
    /// `CLICKHOUSE_FSYNC`
    pub fsync: Fsync,
    /// `CLICKHOUSE_WARM_DAYS`, `CLICKHOUSE_COLD_DAYS`
    pub tiers: Tiers,
}

/// Why they are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The server is too old, or does not know the user.
    #[error(transparent)]
    Unsuitable(#[from] UnsuitableError),
    /// What is pending could not be applied.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A gate that could not be opened.
    #[error("rollups: {0}")]
    Rollups(#[from] RollupsError),
    /// A server of a cluster is not where the list has it.
    #[error(transparent)]
    Misplaced(#[from] MisplacedError),
    /// Several servers of a shard hold the same only in replicated tables.
    #[error(
        "{0} is one of several servers of its shard, and has no macros `shard` and `replica` for replicated tables; set them in its configuration"
    )]
    NoMacros(String),
    /// When inserts reach the disk could not be set.
    #[error("CLICKHOUSE_FSYNC: {0}")]
    Fsync(#[source] StoreError),
    /// Where raw events are moved to could not be set.
    #[error("the volumes of raw events (CLICKHOUSE_WARM_DAYS, CLICKHOUSE_COLD_DAYS): {0}")]
    Tiers(#[source] StoreError),
}

impl TablesError {
    /// Whether ClickHouse may answer otherwise in a moment.
    pub fn is_passing(&self) -> bool {
        if let Self::Migrate(MigrateError::LockLost { .. } | MigrateError::Busy { .. }) = self {
            return true;
        }
        let (Self::Migrate(
            MigrateError::Statement { source: error, .. }
            | MigrateError::Record(error)
            | MigrateError::Policies(error)
            | MigrateError::Lock(error),
        )
        | Self::Rollups(RollupsError::Store(error))
        | Self::Misplaced(MisplacedError::Store(error))
        | Self::Tiers(error)
        | Self::Unsuitable(UnsuitableError::Store(error))
        | Self::Fsync(error)) = self
        else {
            return false;
        };
        error.class() != Class::Permanent
    }
}

/// Sets tiers and fsync, as this installation says, of tables that are there. For whoever serves, or was asked to: a command has the settings of a
/// shell, and parts that were moved by another setting do not come back.
pub async fn configure(writer: &Connection, settings: TableSettings) -> Result<(), TablesError> {
    tiers::apply(writer, settings.tiers).await.map_err(TablesError::Tiers)?;
    durability::apply(writer, settings.fsync).await.map_err(TablesError::Fsync)
}

/// Makes those that are missing, and opens them for inserts.
pub async fn migrate(writer: &Connection, topology: &Topology) -> Result<(), TablesError> {
    preconditions::examine(writer).await?;
    // Before anything is migrated: that may concern the table that the gate takes away. Code 81: there is no database yet.
    match gate::open_left_behind(&writer.client()).await {
        Ok(_) | Err(RollupsError::Store(StoreError::Refused { code: 81, .. })) => {}
        Err(error) => return Err(error.into()),
    }
    runner::up(writer, topology).await?;
    Ok(())
}

/// As [`keep_open`], on every server.
pub async fn keep_open_everywhere(writer: &Shards) -> Infallible {
    let servers = writer.servers();
    let mut kept = JoinSet::new();
    for (_, server) in servers {
        kept.spawn(async move { match keep_open(&server).await {} });
    }
    while kept.join_next().await.is_some() {}
    std::future::pending().await
}

/// Opens the gate again when a rebuild is killed while it is closed: nothing could be inserted until somebody looks.
pub async fn keep_open(writer: &Connection) -> Infallible {
    let client = writer.client();
    loop {
        tokio::time::sleep(LOOK_AT_THE_GATE_EVERY).await;
        // ClickHouse away is told by those who need it.
        if let Err(error) = gate::open_left_behind(&client).await {
            tracing::debug!(%error, "the gate could not be looked at");
        }
    }
}
