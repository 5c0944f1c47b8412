//! Verifies that each poison event has become a dead letter, and the rest is exact.

use std::collections::BTreeMap;

use super::Verification;
use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::development::PROJECT;
use crate::ledger::{Ledger, TABLES};
use crate::poison::{POISON, WHY};

const OPEN_DEAD_LETTERS: &str = "tallyhouse.dead_letters FINAL WHERE code = 'refused_by_store' AND state = 'open'";

/// Whether each poison event has its dead letter and nothing is left to be repaired.
pub(super) async fn is_complete(clickhouse: &ClickHouse, ledger: &Ledger) -> bool {
    let dead_letters = format!("SELECT uniqExact(event_id) FROM {OPEN_DEAD_LETTERS}");
    let repairs = "SELECT count() FROM tallyhouse.repairs FINAL WHERE state != 'done'";
    clickhouse.number(&dead_letters).await.is_ok_and(|dead_letters| dead_letters >= ledger.poison().len() as u64)
        && clickhouse.number(repairs).await.is_ok_and(|open| open == 0)
}

/// Merges every table to its end: a state that cannot be merged would fail it.
pub(super) async fn optimize(clickhouse: &ClickHouse, verification: &mut Verification) {
    for table in TABLES.into_iter().chain(["events"]) {
        if let Err(error) = clickhouse.raw(&format!("OPTIMIZE TABLE tallyhouse.{table} FINAL")).await {
            verification.differs(|| format!("{table} cannot be merged: {error}"));
        }
    }
}

/// Each poison event has one open dead letter with its reason, and is counted nowhere.
pub(super) async fn compare(
    clickhouse: &ClickHouse,
    ledger: &Ledger,
    verification: &mut Verification,
) -> Result<(), ClickHouseError> {
    let select =
        format!("SELECT event_id, count(), countIf(reason LIKE '%{WHY}%') FROM {OPEN_DEAD_LETTERS} GROUP BY event_id");
    let rows: Vec<(String, u64, u64)> = clickhouse.rows(&select).await?;
    let dead_letters = rows.into_iter().map(|(id, dead_letters, reasons)| (id, (dead_letters, reasons))).collect();
    compare_dead_letters(verification, ledger, &dead_letters);
    let stored = clickhouse
        .number(&format!(
            "SELECT count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_type = '{POISON}'"
        ))
        .await?;
    if stored > 0 {
        verification.differs(|| format!("{stored} poison events are stored"));
    }
    for table in TABLES {
        let sum = |what: &str| {
            format!("SELECT sum(events) FROM tallyhouse.{table} WHERE project_id = '{PROJECT}' AND {what}")
        };
        let poison = clickhouse.number(&sum(&format!("event_type = '{POISON}'"))).await?;
        if poison > 0 {
            verification.differs(|| format!("{table} counts poison events {poison} times"));
        }
        // Events of every type, which minutes are not summed by.
        let every = clickhouse.number(&sum("event_type = '' AND dim_set = '*'")).await?;
        let expected = ledger.ids().len() as u64;
        if table != "rollup_1m" && every != expected {
            verification.differs(|| format!("{table} has {every} events of every type, expected {expected}"));
        }
    }
    Ok(())
}

fn compare_dead_letters(verification: &mut Verification, ledger: &Ledger, dead_letters: &BTreeMap<String, (u64, u64)>) {
    for id in ledger.poison() {
        match dead_letters.get(id) {
            Some((1, 1)) => verification.dead_letters += 1,
            Some((dead_letters, reasons)) => {
                verification
                    .differs(|| format!("{id} has {dead_letters} open dead letters, {reasons} with its reason"));
            }
            None => verification.differs(|| format!("{id} was acknowledged, is poison and has no dead letter")),
        }
    }
    for id in dead_letters.keys().filter(|id| !ledger.poison().contains(*id)) {
        verification.differs(|| format!("{id} has a dead letter and is no poison that was acknowledged"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Facts;

    #[test]
    fn a_missing_a_doubled_and_a_good_event_s_dead_letter_are_differences() {
        let mut ledger = Ledger::default();
        for id in ["a", "b"] {
            let facts = Facts { event_type: POISON, ts_millis: 0, country: "DE", device: "mobile", value: Some(1.0) };
            ledger.enter(id.to_owned(), &facts);
        }
        assert!(ledger.ids().is_empty() && ledger.cells().is_empty(), "it is counted nowhere");
        let differences = |dead_letters: &[(&str, (u64, u64))]| {
            let mut verification = Verification::default();
            let dead_letters = dead_letters.iter().map(|(id, counts)| ((*id).to_owned(), *counts)).collect();
            compare_dead_letters(&mut verification, &ledger, &dead_letters);
            verification.differences
        };
        assert_eq!(differences(&[("a", (1, 1)), ("b", (1, 1))]), 0);
        assert_eq!(differences(&[("a", (1, 1))]), 1);
        assert_eq!(differences(&[("a", (1, 1)), ("b", (2, 2))]), 1);
        assert_eq!(differences(&[("a", (1, 1)), ("b", (1, 0))]), 1);
        assert_eq!(differences(&[("a", (1, 1)), ("b", (1, 1)), ("c", (1, 1))]), 1);
    }
}
