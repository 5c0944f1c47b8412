//! Compares what is stored with what was acknowledged: raw rows and every row of every rollup, exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::development::PROJECT;
use crate::ledger::{Cell, CellKey, Ledger, TABLES};
use crate::poison::POISON;

mod poison;

/// Differences that are spelled out; all are counted.
const SHOWN: usize = 10;

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub struct Verification {
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Rollup rows that were compared.
    pub rows: usize,
    /// Poison events that have their dead letter.
    pub dead_letters: usize,
    /// How many differences there are.
    pub differences: usize,
    shown: Vec<String>,
    kept: Option<PathBuf>,
}

impl Verification {
    /// Whether everything agrees, and there was something to compare.
    pub fn is_exact(&self) -> bool {
        self.differences == 0 && self.acknowledged > 0
    }

    /// Notes where the data can be looked into.
    pub fn keep(&mut self, path: &Path) {
        self.kept = Some(path.to_owned());
    }

    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.differences += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(what());
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, rows, differences, .. } = self;
        write!(f, "{acknowledged} acknowledged events and {rows} rollup rows compared: {differences} differences")?;
        if self.dead_letters > 0 {
            write!(f, "; {} poison events, each with its dead letter", self.dead_letters)?;
        }
        self.shown.iter().try_for_each(|what| write!(f, "\n  {what}"))?;
        self.kept.iter().try_for_each(|path| write!(f, "\n  the data is kept in {}", path.display()))
    }
}

/// Waits until as much is stored as was acknowledged, in raw rows and in every rollup, and what is poison has its dead letters and repairs:
/// what a log has may still be on its way. Gives up without an error: the comparison that follows says what is missing.
pub async fn until_complete(clickhouse: &ClickHouse, ledger: &Ledger, within: Duration) {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if is_stored(clickhouse, ledger).await.unwrap_or(false)
            && (ledger.poison().is_empty() || poison::is_complete(clickhouse, ledger).await)
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether raw rows and the rows of each rollup have as many events as were acknowledged. Raw rows may show before the rollups of one
/// insert.
async fn is_stored(clickhouse: &ClickHouse, ledger: &Ledger) -> Result<bool, ClickHouseError> {
    let sql = format!(
        "SELECT uniqExact(event_id) FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_type != '{POISON}'"
    );
    if clickhouse.number(&sql).await? < ledger.ids().len() as u64 {
        return Ok(false);
    }
    for table in TABLES {
        let of_table = ledger.cells().iter().filter(|(key, _)| key.table == table);
        let expected: u64 = of_table.map(|(_, cell)| cell.events).sum();
        let sum = format!(
            "SELECT sum(events) FROM tallyhouse.{table} WHERE project_id = '{PROJECT}' AND event_type IN ({})",
            types_of(ledger)
        );
        if clickhouse.number(&sum).await? < expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares everything that the ledger's event types have in the store with the ledger.
pub async fn compare(clickhouse: &ClickHouse, ledger: &Ledger) -> Result<Verification, ClickHouseError> {
    let mut verification = Verification { acknowledged: ledger.ids().len(), ..Verification::default() };
    if !ledger.poison().is_empty() {
        poison::optimize(clickhouse, &mut verification).await;
        poison::compare(clickhouse, ledger, &mut verification).await?;
    }
    compare_raw(&mut verification, ledger, &stored_ids(clickhouse, &types_of(ledger)).await?);
    for table in TABLES {
        let stored = stored_cells(clickhouse, table, &types_of(ledger)).await?;
        compare_rollup(&mut verification, table, ledger, stored);
    }
    Ok(verification)
}

/// How often each id stands in the raw table, for the event types given as an SQL list.
pub async fn stored_ids(clickhouse: &ClickHouse, types: &str) -> Result<BTreeMap<String, u64>, ClickHouseError> {
    let select = format!(
        "SELECT event_id, count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_type IN ({types}) GROUP BY event_id"
    );
    Ok(clickhouse.rows(&select).await?.into_iter().collect())
}

fn types_of(ledger: &Ledger) -> String {
    let types: BTreeSet<String> = ledger.cells().keys().map(|key| format!("'{}'", key.event_type)).collect();
    if types.is_empty() { "''".to_owned() } else { types.into_iter().collect::<Vec<_>>().join(", ") }
}

fn compare_raw(verification: &mut Verification, ledger: &Ledger, stored: &BTreeMap<String, u64>) {
    for id in ledger.ids() {
        match stored.get(id) {
            Some(1) => {}
            Some(times) => verification.differs(|| format!("{id} is stored {times} times")),
            None => verification.differs(|| format!("{id} was acknowledged and is not stored")),
        }
    }
    for id in stored.keys().filter(|id| !ledger.ids().contains(*id)) {
        verification.differs(|| format!("{id} is stored and nobody sent it"));
    }
}

type RollupRow = (String, String, String, i64, u64, u64, f64, f64, f64);

async fn stored_cells(
    clickhouse: &ClickHouse,
    table: &'static str,
    types: &str,
) -> Result<BTreeMap<CellKey, Cell>, ClickHouseError> {
    let select = format!(
        "SELECT event_type, dim_set, dim_value, toUnixTimestamp(bucket) AS start, sum(events), sum(value_count) AS valued,
            sum(value_sum), if(valued = 0, 0, min(value_min)), if(valued = 0, 0, max(value_max))
        FROM tallyhouse.{table} WHERE project_id = '{PROJECT}' AND event_type IN ({types})
        GROUP BY event_type, dim_set, dim_value, start"
    );
    let rows: Vec<RollupRow> = clickhouse.rows(&select).await?;
    let cell = |(event_type, dim_set, dim_value, bucket, events, value_count, value_sum, value_min, value_max)| {
        let key = CellKey { table, event_type, dim_set, dim_value, bucket };
        (key, Cell { events, value_count, value_sum, value_min, value_max })
    };
    Ok(rows.into_iter().map(cell).collect())
}

fn compare_rollup(verification: &mut Verification, table: &str, ledger: &Ledger, mut stored: BTreeMap<CellKey, Cell>) {
    for (key, expected) in ledger.cells().iter().filter(|(key, _)| key.table == table) {
        verification.rows += 1;
        let found = stored.remove(key).unwrap_or_default();
        if found != *expected {
            verification.differs(|| format!("{key:?}: expected {expected:?}, found {found:?}"));
        }
    }
    for (key, cell) in stored {
        verification.differs(|| format!("{key:?}: nothing expected, found {cell:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Facts;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for id in ["a", "b"] {
            let facts = Facts { event_type: "click", ts_millis: 0, country: "DE", device: "mobile", value: Some(1.0) };
            ledger.enter(id.to_owned(), &facts);
        }
        ledger
    }

    fn raw(stored: &[(&str, u64)]) -> Verification {
        let mut verification = Verification { acknowledged: 2, ..Verification::default() };
        let stored = stored.iter().map(|&(id, times)| (id.to_owned(), times)).collect();
        compare_raw(&mut verification, &ledger(), &stored);
        verification
    }

    #[test]
    fn a_lost_a_doubled_and_a_foreign_row_are_differences() {
        assert!(raw(&[("a", 1), ("b", 1)]).is_exact());
        assert!(!raw(&[("a", 1)]).is_exact());
        assert!(!raw(&[("a", 1), ("b", 2)]).is_exact());
        assert!(!raw(&[("a", 1), ("b", 1), ("c", 1)]).is_exact());
    }

    #[test]
    fn a_rollup_that_counts_one_too_many_is_a_difference() {
        let ledger = ledger();
        let mut stored: BTreeMap<CellKey, Cell> = ledger
            .cells()
            .iter()
            .filter(|(key, _)| key.table == "rollup_1h")
            .map(|(key, cell)| (key.clone(), *cell))
            .collect();
        let mut verification = Verification { acknowledged: 2, ..Verification::default() };
        compare_rollup(&mut verification, "rollup_1h", &ledger, stored.clone());
        assert!(verification.is_exact() && verification.rows == 8);
        stored.values_mut().next().unwrap().events += 1;
        compare_rollup(&mut verification, "rollup_1h", &ledger, stored);
        assert_eq!(verification.differences, 1);
    }
}
