//! The ledger of the clients: acknowledged events, and the expected rows of every rollup.

use std::collections::{BTreeMap, BTreeSet};

use crate::generate::Facts;
use crate::poison::POISON;

/// The tables of rollups.
pub const TABLES: [&str; 3] = ["rollup_1m", "rollup_1h", "rollup_1d"];

/// The rollups: table, width of a bucket in seconds, and what stands before their dimension sets. Written down again here, apart
/// from the product's own list.
const ROLLUPS: [(&str, i64, &str); 4] =
    [("rollup_1m", 60, ""), ("rollup_1h", 900, ":"), ("rollup_1h", 3_600, ""), ("rollup_1d", 86_400, "")];

/// One row of a rollup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellKey {
    pub table: &'static str,
    pub event_type: String,
    /// Names of the dimensions, empty for the total.
    pub dim_set: String,
    pub dim_value: String,
    /// Start of the bucket, Unix seconds.
    pub bucket: i64,
}

/// The exact measures of a row. `min` and `max` mean nothing while `value_count` is 0, and are 0 then.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cell {
    pub events: u64,
    /// Events with a value.
    pub value_count: u64,
    /// Sum of the values.
    pub value_sum: f64,
    pub value_min: f64,
    pub value_max: f64,
}

impl Cell {
    fn add(&mut self, value: Option<f64>) {
        self.events += 1;
        let Some(value) = value else { return };
        let first = self.value_count == 0;
        self.value_count += 1;
        self.value_sum += value;
        self.value_min = if first { value } else { self.value_min.min(value) };
        self.value_max = if first { value } else { self.value_max.max(value) };
    }

    fn merge(&mut self, other: Self) {
        if other.value_count > 0 {
            let first = self.value_count == 0;
            self.value_min = if first { other.value_min } else { self.value_min.min(other.value_min) };
            self.value_max = if first { other.value_max } else { self.value_max.max(other.value_max) };
        }
        self.events += other.events;
        self.value_count += other.value_count;
        self.value_sum += other.value_sum;
    }
}

/// Acknowledged events and their sums.
#[derive(Debug, Default)]
pub struct Ledger {
    ids: BTreeSet<String>,
    poison: BTreeSet<String>,
    cells: BTreeMap<CellKey, Cell>,
}

impl Ledger {
    /// Enters an event that was acknowledged.
    pub fn enter(&mut self, id: String, facts: &Facts) {
        if facts.event_type == POISON {
            self.poison.insert(id);
            return;
        }
        for (table, width, mark) in ROLLUPS {
            let bucket = facts.ts_millis.div_euclid(1_000).div_euclid(width) * width;
            for (dim_set, dim_value) in default_sets(facts) {
                let key = CellKey {
                    table,
                    event_type: facts.event_type.to_owned(),
                    dim_set: format!("{mark}{dim_set}"),
                    dim_value,
                    bucket,
                };
                self.cells.entry(key).or_default().add(facts.value);
            }
        }
        self.ids.insert(id);
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.ids.extend(other.ids);
        self.poison.extend(other.poison);
        for (key, cell) in other.cells {
            self.cells.entry(key).or_default().merge(cell);
        }
        self
    }

    /// Ids of all acknowledged events but poison.
    pub fn ids(&self) -> &BTreeSet<String> {
        &self.ids
    }

    /// Ids of acknowledged events that the store refuses.
    pub fn poison(&self) -> &BTreeSet<String> {
        &self.poison
    }

    /// What every row of every rollup must say.
    pub fn cells(&self) -> &BTreeMap<CellKey, Cell> {
        &self.cells
    }
}

fn default_sets(facts: &Facts) -> [(&'static str, String); 4] {
    [
        ("", String::new()),
        ("country", facts.country.to_owned()),
        ("device", facts.device.to_owned()),
        ("country,device", format!("{}\u{1f}{}", facts.country, facts.device)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_stands_in_sixteen_rows() {
        let facts = |value| Facts {
            event_type: "click",
            ts_millis: 86_400_000 + 3_661_500,
            country: "DE",
            device: "mobile",
            value,
        };
        let mut left = Ledger::default();
        left.enter("a".to_owned(), &facts(None));
        let mut right = Ledger::default();
        right.enter("b".to_owned(), &facts(Some(-2.5)));
        let ledger = left.plus(right);
        assert_eq!((ledger.ids().len(), ledger.cells().len()), (2, 16));
        let buckets: BTreeSet<i64> = ledger.cells().keys().map(|key| key.bucket).collect();
        assert_eq!(buckets, BTreeSet::from([86_400, 90_000, 90_060]));
        let expected = Cell { events: 2, value_count: 1, value_sum: -2.5, value_min: -2.5, value_max: -2.5 };
        assert!(ledger.cells().values().all(|cell| *cell == expected));
    }
}
