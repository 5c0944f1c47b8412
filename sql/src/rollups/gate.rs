//! Blocks inserts while a partition is swapped, and allows one rebuild at a time.
//!
//! **The gate** is a column of `events_in` that cannot be computed: an insert that comes now is refused before anything of
//! it is written, and its writer repeats it with the same token. One that came earlier has the table's columns as they
//! were; it is waited for. Nothing that affects the views can be the gate: renaming `events_in` under an insert stores it in
//! some tables and not in others, because a view looks its source up by name for every block.
//!
//! **The lock** is that of [`crate::lock`]: it goes with the process that holds it, however that ends.
//! A gate that is closed while nobody holds the lock was left behind: whoever takes the lock opens it.

use std::time::Duration;

use clickhouse::Client;
use tokio::time::{Instant, sleep};

use super::{RollupsError, STATEMENT_DEADLINE, execute, number};
use crate::deadline::within;
use crate::error::StoreError;
use crate::lock::QueryLock;

/// The name of the lock, which is the id of a query.
pub(crate) const LOCK: &str = "tallyhouse-rollups-rebuild";
const BAR: &str = "closed_for_rebuild";
const POLL: Duration = Duration::from_millis(20);

/// How long a connection takes to be ours, or a dead holder's to be noticed.
const LOCK_WITHIN: Duration = Duration::from_secs(3);

/// How long opening is tried before it is given up: longer than ClickHouse takes to start again.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// The right to change rollups, as long as the value lives.
pub struct Lock(QueryLock);

impl Lock {
    /// Takes it. [`RollupsError::Busy`] when another process has it.
    pub async fn take(client: &Client) -> Result<Self, RollupsError> {
        QueryLock::take(client, LOCK, LOCK_WITHIN).await?.map(Self).ok_or(RollupsError::Busy)
    }

    /// Whether somebody else may have it by now.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// [`RollupsError::LockLost`] when somebody else may have it by now.
    pub fn check(&self) -> Result<(), RollupsError> {
        if self.is_lost() { Err(RollupsError::LockLost) } else { Ok(()) }
    }
}

/// Closes the gate. Not to be dropped before it is done: ClickHouse would go on and close it behind our back.
pub async fn close(client: &Client) -> Result<(), StoreError> {
    // Materialized, so `SELECT *` does not see it; of a row, or it would be computed here.
    let bar = format!(
        "ALTER TABLE tallyhouse.events_in ADD COLUMN {BAR} UInt8 MATERIALIZED \
         throwIf(length(project_id) >= 0, 'a rebuild of rollups holds inserts back for a moment')"
    );
    execute(client, &bar).await
}

/// Waits for the inserts that had come before the gate was closed.
pub(super) async fn drain(client: &Client, until: Instant) -> Result<(), StoreError> {
    // An insert is listed before it looks its table up, so one that is not listed now is refused.
    let listed = "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%events_in%'";
    let mut inside = within(STATEMENT_DEADLINE, client.query_raw(listed).fetch_all::<String>()).await?;
    while !inside.is_empty() {
        if Instant::now() >= until {
            return Err(StoreError::TimedOut);
        }
        sleep(POLL).await;
        let now = within(STATEMENT_DEADLINE, client.query_raw(listed).fetch_all::<String>()).await?;
        inside.retain(|id| now.contains(id));
    }
    Ok(())
}

/// Opens the gate that this process closed.
pub(super) async fn reopen(client: &Client, lock: &Lock) -> Result<(), RollupsError> {
    if lock.is_lost() {
        // Whoever has the lock by now answers for the gate.
        open_left_behind(client).await?;
    } else {
        open(client).await?;
    }
    Ok(())
}

/// Opens the gate, when no swap runs any more: one that was sent by a process that is gone may.
/// Only for whoever holds the lock. Says whether it was closed.
pub(super) async fn open(client: &Client) -> Result<bool, StoreError> {
    let until = Instant::now() + OPEN_WITHIN;
    loop {
        match try_open(client).await {
            Err(error) if Instant::now() >= until => return Err(error),
            Err(error) => tracing::warn!(%error, "the gate could not be opened yet"),
            Ok(was_closed) => return Ok(was_closed),
        }
        sleep(POLL * 10).await;
    }
}

async fn is_closed(client: &Client) -> Result<bool, StoreError> {
    let bars = format!(
        "SELECT count() FROM system.columns WHERE database = 'tallyhouse' AND table = 'events_in' AND name = '{BAR}'"
    );
    Ok(number(client, &bars).await? > 0)
}

async fn try_open(client: &Client) -> Result<bool, StoreError> {
    let busy = "SELECT count() FROM system.processes WHERE query LIKE 'ALTER TABLE tallyhouse.rollup_%REPLACE PARTITION%' \
                OR query LIKE 'ALTER TABLE tallyhouse.events_in ADD COLUMN%'";
    if number(client, busy).await? > 0 {
        return Err(StoreError::TimedOut);
    }
    if !is_closed(client).await? {
        return Ok(false);
    }
    execute(client, &format!("ALTER TABLE tallyhouse.events_in DROP COLUMN {BAR}")).await?;
    Ok(true)
}

/// Opens a gate that a rebuild left closed when it was killed. Says whether there was one; while a rebuild runs, none is.
pub async fn open_left_behind(client: &Client) -> Result<bool, RollupsError> {
    if !is_closed(client).await? {
        return Ok(false);
    }
    match Lock::take(client).await {
        Err(RollupsError::Busy) => Ok(false),
        Err(error) => Err(error),
        Ok(_lock) => {
            let was_closed = open(client).await?;
            if was_closed {
                tracing::warn!("a rebuild of rollups was killed and had left inserts shut out; they are let in again");
            }
            Ok(was_closed)
        }
    }
}
