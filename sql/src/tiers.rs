//! Where raw events are, by age: on a server that has the storage policy [`POLICY`], they are moved to its volume `warm` and from there to
//! `cold`, as far as it has them.
//!
//! ```text
//! volumes of the policy -> none of both: nothing is changed
//!   -> is the table on the policy? if not, and the policy holds the disks that it is on: it is now
//!   -> do its TTLs say the same? if not: MODIFY TTL, which looks at the parts that are there as well
//! ```
//!
//! Not a migration: the volumes and the days are settings of an installation, and may change. Looked at by whoever makes the tables, at each
//! start. ClickHouse moves whole parts, so a row is moved up to a week later, with the last of its part. It merges, deletes and expires rows on
//! every volume alike. Rollups stay where they are: they are small, and rebuilding one replaces partitions.

use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;

use crate::connection::Connection;
use crate::deadline::within;
use crate::error::StoreError;

/// The storage policy of raw events.
pub const POLICY: &str = "tiered";

/// After how many days raw events are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiers {
    /// To the volume `warm`.
    pub warm_days: u32,
    /// To the volume `cold`; more than [`Self::warm_days`].
    pub cold_days: u32,
}

impl Default for Tiers {
    fn default() -> Self {
        Self { warm_days: 7, cold_days: 30 }
    }
}

/// Longer than a table is locked by anything but a hung statement.
const WITHIN: Duration = Duration::from_secs(180);

#[derive(Row, Deserialize)]
struct Table {
    storage_policy: String,
    /// `warm 7,cold 30`.
    moves: String,
}

/// The policy that the table of raw events is to be made with, if the server has it.
pub(crate) async fn policy(connection: &Connection) -> Result<Option<&'static str>, StoreError> {
    Ok(if volumes(connection).await?.is_empty() { None } else { Some(POLICY) })
}

/// Has raw events moved after so many days. Changes nothing when they are, or where there is nowhere to move them.
pub async fn apply(connection: &Connection, tiers: Tiers) -> Result<(), StoreError> {
    let volumes = volumes(connection).await?;
    if volumes.is_empty() {
        return Ok(());
    }
    let Some(table) = table(connection).await? else { return Ok(()) };
    let wanted = moves(&volumes, tiers);
    let said = wanted.iter().map(|(volume, days)| format!("{volume} {days}")).collect::<Vec<_>>().join(",");
    if table.storage_policy == POLICY && table.moves == said {
        return Ok(());
    }
    // Of parts that are there only the times are computed again: they need not be written anew.
    let on_policy = format!("MODIFY SETTING storage_policy = '{POLICY}', materialize_ttl_recalculate_only = 1");
    match alter(connection, &on_policy).await {
        Err(error @ StoreError::Refused { .. }) if table.storage_policy != POLICY => {
            tracing::warn!(
                %error,
                is_on = table.storage_policy,
                "raw events stay where they are: the first volume of the storage policy `{POLICY}` has to have the name and the disks of the one that they are on (`default`)"
            );
            return Ok(());
        }
        done => done?,
    }
    let to_volumes: String = wanted
        .iter()
        .map(|(volume, days)| format!("toDateTime(ts) + toIntervalDay({days}) TO VOLUME '{volume}', "))
        .collect();
    alter(connection, &format!("MODIFY TTL {to_volumes}toDateTime(ts) + toIntervalDay(retention_days) DELETE")).await?;
    tracing::info!(moves = said, "changed after how many days raw events are moved");
    Ok(())
}

/// Where raw events are and are moved to, in words.
pub async fn status(connection: &Connection) -> Result<String, StoreError> {
    let Some(Table { storage_policy, moves }) = table(connection).await? else { return Ok("none".to_owned()) };
    if moves.is_empty() {
        return Ok(format!("none (storage policy `{storage_policy}`)"));
    }
    let moves: Vec<_> = moves.split(',').map(|one| one.replace(' ', " after ")).collect();
    Ok(format!("{} days (storage policy `{storage_policy}`)", moves.join(", ")))
}

fn moves(volumes: &[String], tiers: Tiers) -> Vec<(&str, u32)> {
    let all = [("warm", tiers.warm_days), ("cold", tiers.cold_days)];
    all.into_iter().filter(|(volume, _)| volumes.iter().any(|there| there == volume)).collect()
}

async fn volumes(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "SELECT volume_name FROM system.storage_policies WHERE policy_name = '{POLICY}' AND volume_name IN ('warm', 'cold')"
    );
    within(WITHIN, connection.server().query_raw(&sql).fetch_all::<String>()).await
}

async fn table(connection: &Connection) -> Result<Option<Table>, StoreError> {
    let sql = "SELECT storage_policy, arrayStringConcat(arrayMap(g -> concat(g[2], ' ', g[1]), \
               extractAllGroupsVertical(engine_full, 'toIntervalDay\\\\((\\\\d+)\\\\) TO VOLUME \\'(\\\\w+)\\'')), ',') AS moves \
               FROM system.tables WHERE database = 'tallyhouse' AND name = 'events'";
    within(WITHIN, connection.server().query_raw(sql).fetch_optional::<Table>()).await
}

async fn alter(connection: &Connection, what: &str) -> Result<(), StoreError> {
    let server = connection.server();
    within(WITHIN, server.query_raw(&format!("ALTER TABLE tallyhouse.events {what}")).execute()).await
}
