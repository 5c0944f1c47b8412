//! Compares moving cells behind the gate, while nothing is written: a stable difference is drift.
//!
//! A cell that inserts are always under way to never shows the same difference twice, whether it has drifted or not.
//! Behind the gate nothing is under way: what differs there has drifted, or waits for the next attempt of an insert that
//! reached only some of its tables. So the gate is closed twice with a pause between, longer than a writer waits between
//! two attempts, and only a difference that is the same both times is drift.

use clickhouse::Client;
use tallyhouse_schema::Rollup;
use tokio::time::{Instant, sleep, timeout_at};

use super::RollupsError;
use super::gate::{self, Lock};
use super::rebuild::Options;
use super::verify::{Drift, look_at};
use crate::error::StoreError;

/// Moving cells, compared behind the gate.
#[derive(Debug, Default)]
pub(super) struct Stable {
    /// Cells whose difference is stable.
    pub drifts: Vec<Drift>,
    /// Cells whose difference was another one the second time: an attempt came in between, and is to be looked at again.
    pub unstable: usize,
}

/// The cells among `moving` that have drifted.
pub(super) async fn stable_drifts(
    client: &Client,
    lock: &Lock,
    options: &Options,
    moving: Vec<Drift>,
) -> Result<Stable, RollupsError> {
    let first = look_behind_the_gate(client, lock, options, &moving).await?;
    if first.is_empty() {
        return Ok(Stable::default());
    }
    sleep(options.pause).await;
    let mut stable = Stable::default();
    for drift in look_behind_the_gate(client, lock, options, &first).await? {
        let is_same = |before: &Drift| before.key() == drift.key() && before.difference() == drift.difference();
        if first.iter().any(is_same) {
            stable.drifts.push(drift);
        } else {
            stable.unstable += 1;
        }
    }
    Ok(stable)
}

async fn look_behind_the_gate(
    client: &Client,
    lock: &Lock,
    options: &Options,
    cells: &[Drift],
) -> Result<Vec<Drift>, RollupsError> {
    if cells.is_empty() {
        return Ok(Vec::new());
    }
    let until = Instant::now() + options.gate;
    let looked = async {
        gate::close(client).await?;
        let look = async {
            gate::drain(client, until).await?;
            let mut found = Vec::new();
            for rollup in Rollup::OF_EACH_TABLE {
                let of_table: Vec<_> = cells.iter().filter(|drift| drift.table == rollup.table()).cloned().collect();
                found.extend(look_at(client, &options.selection, rollup, &of_table).await?);
            }
            Ok(found)
        };
        match timeout_at(until, look).await {
            Err(_) | Ok(Err(RollupsError::Store(StoreError::TimedOut))) => {
                Err(RollupsError::GateTimedOut(options.gate))
            }
            Ok(found) => found,
        }
    };
    let found = looked.await;
    gate::reopen(client, lock).await?;
    found
}
