//! Measures the reduction of rollups.
//!
//! The *reduction* of a rollup is the events that it counts by each of its rows. Events are those of its totals (`dim_set` empty), not the
//! rows of `events`: raw events expire sooner than hours and days, and later than minutes. Rows are counted as they lie in the
//! table: a key has one in each part that merges have left.

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use tallyhouse_schema::Rollup;
use tallyhouse_schema::rollup::{EVERY_TYPE, QUARTER};

use super::{RollupsError, STATEMENT_DEADLINE, quoted};
use crate::deadline::within;

/// A series of fewer rows is not worth a line.
const LEAST_ROWS: u64 = 1_000;

/// What the rollups hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// By project, then coarsest first.
    pub rollups: Vec<Size>,
    /// Rows and bytes of raw events and of each rollup table, of all projects.
    pub tables: Vec<Table>,
    /// Series with the most rows of those that are less than ten times smaller than what they count.
    pub weak: Vec<Series>,
}

/// One rollup of one project.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Size {
    /// The project.
    pub project_id: String,
    /// `days`, `hours`, `quarters` or `minutes`, `of every type` behind it for rows that are of no type by themselves.
    pub rollup: String,
    /// Events that its totals count.
    pub events: u64,
    /// Rows of totals.
    pub total_rows: u64,
    /// All rows: totals, dimensions and combinations.
    pub rows: u64,
}

/// A table on the disk.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its rows, of all projects.
    pub rows: u64,
    /// Their bytes, compressed.
    pub bytes: u64,
}

/// What one type of event is counted under.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Series {
    /// The project.
    pub project_id: String,
    /// As in [`Size`].
    pub rollup: String,
    /// The type of event; empty in rows of every type.
    pub event_type: String,
    /// Dimensions, comma between.
    pub dim_set: String,
    /// Events that it counts.
    pub events: u64,
    /// Its rows.
    pub rows: u64,
}

impl Size {
    /// Events by row of all sets of dimensions.
    pub fn reduction(&self) -> f64 {
        by_row(self.events, self.rows)
    }

    /// Events by row of the totals.
    pub fn reduction_of_totals(&self) -> f64 {
        by_row(self.events, self.total_rows)
    }
}

/// Events by row, 0 without rows.
pub fn by_row(events: u64, rows: u64) -> f64 {
    if rows == 0 { 0.0 } else { events as f64 / rows as f64 }
}

/// Looks at one project, or at all. `weak` bounds the series of each table.
pub async fn stats(client: &Client, project: Option<&str>, weak: usize) -> Result<Stats, RollupsError> {
    let mut found = Stats { tables: tables(client).await?, ..Stats::default() };
    let only = project.map_or_else(|| "1".to_owned(), |project| format!("t.project_id = {}", quoted(project)));
    for rollup in Rollup::OF_EACH_TABLE {
        let (table, name) = (rollup.table(), name_of(rollup));
        let is_total = format!("t.dim_set IN ('', '{EVERY_TYPE}', '{QUARTER}')");
        let sizes = format!(
            "SELECT toString(t.project_id) AS project_id, {name} AS rollup, sumIf(t.events, {is_total}) AS events, \
               countIf({is_total}) AS total_rows, count() AS rows \
             FROM tallyhouse.{table} AS t WHERE {only} GROUP BY project_id, rollup ORDER BY project_id, rollup"
        );
        found.rollups.extend(within(STATEMENT_DEADLINE, client.query_raw(&sizes).fetch_all::<Size>()).await?);
        let series = format!(
            "SELECT toString(t.project_id) AS project_id, {name} AS rollup, toString(t.event_type) AS event_type, \
               trimLeft(t.dim_set, '{EVERY_TYPE}{QUARTER}') AS dim_set, sum(t.events) AS events, count() AS rows \
             FROM tallyhouse.{table} AS t WHERE {only} GROUP BY project_id, rollup, event_type, dim_set \
             HAVING rows >= {LEAST_ROWS} AND events < 10 * rows ORDER BY rows DESC LIMIT {weak}"
        );
        found.weak.extend(within(STATEMENT_DEADLINE, client.query_raw(&series).fetch_all::<Series>()).await?);
    }
    found.rollups.sort_by(|one, other| one.project_id.cmp(&other.project_id));
    Ok(found)
}

async fn tables(client: &Client) -> Result<Vec<Table>, RollupsError> {
    let sql = "SELECT p.table AS name, sum(p.rows) AS rows, sum(p.bytes_on_disk) AS bytes FROM system.parts AS p \
               WHERE active AND database = 'tallyhouse' AND table IN ('events', 'rollup_1m', 'rollup_1h', 'rollup_1d') \
               GROUP BY name ORDER BY name";
    Ok(within(STATEMENT_DEADLINE, client.query_raw(sql).fetch_all::<Table>()).await?)
}

/// The expression that names the rollup of a row.
fn name_of(rollup: Rollup) -> String {
    match rollup {
        Rollup::Minute => format!("if(startsWith(t.dim_set, '{EVERY_TYPE}'), 'minutes of every type', 'minutes')"),
        Rollup::Quarter | Rollup::Hour => format!(
            "multiIf(startsWith(t.dim_set, '{EVERY_TYPE}'), 'hours of every type', startsWith(t.dim_set, '{QUARTER}'), 'quarters', 'hours')"
        ),
        Rollup::Day => format!("if(startsWith(t.dim_set, '{EVERY_TYPE}'), 'days of every type', 'days')"),
    }
}
