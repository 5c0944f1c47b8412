//! Compares rollups with raw events, cell by cell; a cell is one project, dimension set and hour (a day in `rollup_1d`).
//!
//! ```text
//! weeks of the range -> compare in ClickHouse -> cells that differ -> compare again until they are stable -> drift
//! ```
//!
//! Raw is read with `FINAL`, which counts rows of one sorting key once whether they were merged or not, in bounded memory
//! because it reads in key order. An id that was stored again under another time is two events to raw and rollups alike,
//! so it is no drift; [`audit`] looks for those.
//!
//! An insert writes four tables one after the other, so a cell can differ for a moment. A cell is drift when its difference
//! was the same [`CONFIRMATIONS`] more times, a pause apart; longer together than a writer waits between two attempts.
//! One whose difference keeps changing is reported as moving, not as drift.
//!
//! Distinct users and quantiles are not compared: their states depend on the order of merges.
//! `keys` is a checksum of what each event was counted under, so a count under the wrong type, value or bucket shows.

use std::collections::BTreeMap;
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use tallyhouse_schema::Rollup;
use tallyhouse_schema::rollup::{EVERY_TYPE, QUARTER};

use super::{RollupsError, STATEMENT_DEADLINE, Selection, bucket_of, number, quoted, unit_of};
use crate::deadline::within;
use crate::error::StoreError;

pub(super) const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
const HOUR: i64 = 3_600;

/// How often a difference must be seen again, unchanged.
pub const CONFIRMATIONS: u32 = 2;

/// Looks at most, before a cell counts as moving.
const LOOKS: u32 = 6;

/// Differing cells that are held at most; what is beyond shows after these are mended.
const MOST_CELLS: usize = 10_000;

/// Between looks: two of them are longer than the longest pause of a writer between two attempts.
pub const PAUSE: Duration = Duration::from_secs(3);

/// A cell whose rollup is not what raw says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drift {
    /// The rollup table.
    pub table: &'static str,
    /// The cell and both sides.
    #[serde(flatten)]
    pub cell: Cell,
}

/// A cell with what raw says (`expected_…`) and what the rollup holds (`found_…`).
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of the rollups")]
pub struct Cell {
    pub project_id: String,
    pub dim_set: String,
    /// Start of the hour or day, seconds since the epoch.
    pub unit: u32,
    /// The same, to be read by people.
    pub starts: String,
    pub expected_events: u64,
    pub found_events: u64,
    pub expected_value_count: u64,
    pub found_value_count: u64,
    pub expected_value_sum: f64,
    pub found_value_sum: f64,
    pub expected_value_min: f64,
    pub found_value_min: f64,
    pub expected_value_max: f64,
    pub found_value_max: f64,
    pub expected_keys: u64,
    pub found_keys: u64,
}

pub(super) type Key = (&'static str, String, String, u32);

impl Drift {
    pub(super) fn key(&self) -> Key {
        (self.table, self.cell.project_id.clone(), self.cell.dim_set.clone(), self.cell.unit)
    }

    /// What stays the same while both sides grow by the same events.
    pub(super) const fn difference(&self) -> (u64, u64, u64) {
        let Cell { expected_events, found_events, expected_value_count, found_value_count, .. } = self.cell;
        (
            found_events.wrapping_sub(expected_events),
            found_value_count.wrapping_sub(expected_value_count),
            self.cell.found_keys.wrapping_sub(self.cell.expected_keys),
        )
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Cells whose difference is stable, by table and time.
    pub drifts: Vec<Drift>,
    /// Cells that differ and keep changing: look again when their hour is over.
    pub moving: usize,
    /// Whether there may be more than could be held.
    pub is_truncated: bool,
}

/// Compares every table of the selection with raw.
pub async fn verify(client: &Client, selection: &Selection, pause: Duration) -> Result<Report, RollupsError> {
    let Compared { drifts, moving, is_truncated } = compare(client, selection, pause).await?;
    Ok(Report { drifts, moving: moving.len(), is_truncated })
}

/// One hour of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hour<'a> {
    /// The project.
    pub project: &'a str,
    /// In seconds since the epoch.
    pub start: i64,
}

/// Compares one hour in the rollups that have hours, with the settings of the client. Raw must still hold all of it.
pub async fn verify_hour(client: &Client, hour: Hour<'_>, pause: Duration) -> Result<Report, RollupsError> {
    let window = (hour.start, hour.start + HOUR);
    let tables = vec![Rollup::Hour, Rollup::Minute];
    let project = Some(hour.project.to_owned());
    let selection = Selection { project, from: window.0, to: window.1, tables, days: None };
    let mut report = Compared::default();
    for &rollup in &selection.tables {
        compare_until_stable(client, &selection, rollup, window, pause, &mut report).await?;
    }
    let Compared { drifts, moving, is_truncated } = report;
    Ok(Report { drifts, moving: moving.len(), is_truncated })
}

/// What a comparison found, with the moving cells.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub drifts: Vec<Drift>,
    pub moving: Vec<Drift>,
    pub is_truncated: bool,
}

/// As [`verify`].
pub(super) async fn compare(client: &Client, selection: &Selection, pause: Duration) -> Result<Compared, RollupsError> {
    let horizon = raw_horizon(client, selection).await?;
    let mut report = Compared::default();
    for &rollup in &selection.tables {
        for window in windows(selection, days(selection, rollup, horizon)) {
            if report.drifts.len() >= MOST_CELLS {
                break;
            }
            compare_until_stable(client, selection, rollup, window, pause, &mut report).await?;
        }
    }
    report.is_truncated |= report.drifts.len() >= MOST_CELLS;
    Ok(report)
}

/// What is compared at a time, in seconds since the epoch: weeks, or days in a row of those that are named.
fn windows(selection: &Selection, (from, to): (i64, i64)) -> Vec<(i64, i64)> {
    let Some(days) = &selection.days else {
        let starts = std::iter::successors(Some(from), |start| Some(start + WEEK)).take_while(|start| *start < to);
        return starts.map(|start| (start, (start + WEEK).min(to))).collect();
    };
    let mut windows: Vec<(i64, i64)> = Vec::new();
    for start in days.iter().map(|day| i64::from(*day) * DAY).filter(|start| (from..to).contains(start)) {
        match windows.last_mut() {
            Some((first, end)) if *end == start && start - *first < WEEK => *end += DAY,
            _ => windows.push((start, start + DAY)),
        }
    }
    windows
}

/// Seconds since the epoch of the first whole day of which raw certainly still holds everything.
pub(super) async fn raw_horizon(client: &Client, selection: &Selection) -> Result<i64, RollupsError> {
    match selection.days {
        Some(_) => Ok(i64::MIN),
        None => Ok(horizon(client, &only(selection)).await?),
    }
}

/// The same of one project.
pub async fn horizon_of(client: &Client, project: &str) -> Result<i64, StoreError> {
    horizon(client, &format!(" AND project_id = {}", quoted(project))).await
}

async fn horizon(client: &Client, project: &str) -> Result<i64, StoreError> {
    // The shortest retention that any row has: older rows with it may be gone.
    let sql = format!(
        "SELECT toUInt64(if(count() = 0, 0, toUnixTimestamp(toStartOfDay(now('UTC'))) - (min(retention_days) - 1) * 86400)) \
         FROM tallyhouse.events WHERE 1 {project}"
    );
    Ok(i64::try_from(number(client, &sql).await?).unwrap_or(i64::MAX))
}

/// The whole UTC days of a selection that both raw and the rollup still hold.
pub(super) fn days(selection: &Selection, rollup: Rollup, horizon: i64) -> (i64, i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = i64::try_from(now).unwrap_or(i64::MAX).div_euclid(DAY) * DAY - (rollup.retention_days() - 1) * DAY;
    let from = selection.from.div_euclid(DAY) * DAY;
    (from.max(horizon).max(kept), -(-selection.to).div_euclid(DAY) * DAY)
}

/// ` AND project_id = …`, or nothing.
pub(super) fn only(selection: &Selection) -> String {
    selection.project.as_deref().map(|name| format!(" AND project_id = {}", quoted(name))).unwrap_or_default()
}

/// Compares a window until every difference in it is gone or stable, [`LOOKS`] times at most.
async fn compare_until_stable(
    client: &Client,
    selection: &Selection,
    rollup: Rollup,
    window: (i64, i64),
    pause: Duration,
    report: &mut Compared,
) -> Result<(), RollupsError> {
    let mut open: BTreeMap<Key, (Drift, u32)> = look(client, selection, rollup, window, &[])
        .await?
        .into_iter()
        .map(|drift| (drift.key(), (drift, 0)))
        .collect();
    report.is_truncated |= open.len() >= MOST_CELLS;
    for _ in 1..LOOKS {
        if open.values().all(|(_, seen)| *seen >= CONFIRMATIONS) {
            break;
        }
        tokio::time::sleep(pause).await;
        let now = look(client, selection, rollup, window, &[]).await?;
        let mut next = BTreeMap::new();
        for drift in now {
            // Not seen at first: it is being written.
            let Some((before, seen)) = open.get(&drift.key()) else { continue };
            let seen = if before.difference() == drift.difference() { seen + 1 } else { 0 };
            next.insert(drift.key(), (drift, seen));
        }
        open = next;
    }
    for (drift, seen) in open.into_values() {
        if seen >= CONFIRMATIONS {
            report.drifts.push(drift);
        } else {
            report.moving.push(drift);
        }
    }
    Ok(())
}

/// Compares moving cells of one rollup once more.
pub(super) async fn look_at(
    client: &Client,
    selection: &Selection,
    rollup: Rollup,
    cells: &[Drift],
) -> Result<Vec<Drift>, RollupsError> {
    let starts = || cells.iter().map(|drift| i64::from(drift.cell.unit));
    let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return Ok(Vec::new()) };
    // An hour or a day: the list of cells says which.
    look(client, selection, rollup, (first, last + DAY), cells).await
}

/// Compares once: everything of the window, or of the cells when any are named.
async fn look(
    client: &Client,
    selection: &Selection,
    rollup: Rollup,
    (from, to): (i64, i64),
    cells: &[Drift],
) -> Result<Vec<Drift>, RollupsError> {
    let (table, unit, project) = (rollup.table(), unit_of(rollup), only(selection));
    let among = |time: &str| {
        let cell = |drift: &Drift| format!("({}, {})", quoted(&drift.cell.project_id), drift.cell.unit);
        match cells {
            [] => String::new(),
            _ => {
                let list = cells.iter().map(cell).collect::<Vec<_>>().join(", ");
                format!(" AND (project_id, toUInt32({unit}({time}))) IN ({list})")
            }
        }
    };
    let (of_raw, of_rollup) = (among("toDateTime(ts, 'UTC')"), among("bucket"));
    let key =
        |kind: &str, set: &str, value: &str, at: &str| format!("cityHash64({kind}, {set}, {value}, toUInt32({at}))");
    let raw_key =
        |kind, set: &str, rollup| key(kind, set, "dim.2", &format!("{}(toDateTime(ts, 'UTC'))", bucket_of(rollup)));
    let marked = |mark: &str, set: &str| format!("concat('{mark}', {set})");
    let (of_its_type, of_every_type) =
        (raw_key("event_type", "dim.1", rollup), raw_key("''", &marked(EVERY_TYPE, "dim.1"), rollup));
    let of_quarters = raw_key("event_type", &marked(QUARTER, "dim.1"), Rollup::Quarter);
    let rollup_key = key("event_type", "dim_set", "dim_value", "bucket");
    // What a view counts an event under: its type, every type, and quarters of an hour beside the hours.
    let (every_type, quarters) =
        (format!("({}, k_every)", marked(EVERY_TYPE, "own")), format!("({}, k_quarters)", marked(QUARTER, "own")));
    let under = match rollup {
        Rollup::Minute => format!("arrayConcat([(own, k_own)], if(own = '', [{every_type}], []))"),
        Rollup::Quarter | Rollup::Hour => format!("[(own, k_own), {every_type}, {quarters}]"),
        Rollup::Day => format!("[(own, k_own), {every_type}]"),
    };
    // An absent minimum is +inf on both sides; `minIf` over no rows would say 0.
    let sql = format!(
        "SELECT toString(p) AS project_id, toString(set) AS dim_set, toUInt32(u) AS unit, \
           formatDateTime(u, '%Y-%m-%dT%H:00Z') AS starts, \
           sumIf(n, side = 0) AS expected_events, sumIf(n, side = 1) AS found_events, \
           sumIf(vc, side = 0) AS expected_value_count, sumIf(vc, side = 1) AS found_value_count, \
           sumIf(vs, side = 0) AS expected_value_sum, sumIf(vs, side = 1) AS found_value_sum, \
           min(if(side = 0, mn, inf)) AS expected_value_min, min(if(side = 1, mn, inf)) AS found_value_min, \
           max(if(side = 0, mx, -inf)) AS expected_value_max, max(if(side = 1, mx, -inf)) AS found_value_max, \
           sumIf(k, side = 0) AS expected_keys, sumIf(k, side = 1) AS found_keys \
         FROM ( \
           SELECT 0 AS side, p, under.1 AS set, u, n, vc, vs, va, mn, mx, under.2 AS k FROM ( \
             SELECT project_id AS p, toString(dim.1) AS own, {unit}(toDateTime(ts, 'UTC')) AS u, count() AS n, \
               count(value) AS vc, sum(ifNull(value, 0)) AS vs, sum(abs(ifNull(value, 0))) AS va, \
               min(ifNull(value, inf)) AS mn, max(ifNull(value, -inf)) AS mx, \
               sum({of_its_type}) AS k_own, sum({of_every_type}) AS k_every, sum({of_quarters}) AS k_quarters \
             FROM tallyhouse.events FINAL ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim \
             WHERE ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC'){project}{of_raw} \
             GROUP BY p, own, u \
           ) ARRAY JOIN {under} AS under \
           UNION ALL \
           SELECT 1 AS side, project_id AS p, dim_set AS set, {unit}(bucket) AS u, sum(r.events) AS n, \
             sum(r.value_count) AS vc, sum(r.value_sum) AS vs, 0. AS va, min(r.value_min) AS mn, max(r.value_max) AS mx, \
             sum(r.events * {rollup_key}) AS k \
           FROM tallyhouse.{table} AS r \
           WHERE bucket >= toDateTime({from}, 'UTC') AND bucket < toDateTime({to}, 'UTC'){project}{of_rollup} \
           GROUP BY p, set, u \
         ) GROUP BY p, set, u \
         HAVING expected_events != found_events OR expected_value_count != found_value_count \
           OR expected_keys != found_keys OR expected_value_min != found_value_min OR expected_value_max != found_value_max \
           OR abs(expected_value_sum - found_value_sum) > \
              1e-9 * greatest(sum(va), abs(expected_value_sum), abs(found_value_sum)) \
         ORDER BY u, p, set LIMIT {MOST_CELLS}"
    );
    let query = client
        .query_raw(&sql)
        .with_setting("max_bytes_before_external_group_by", "500000000")
        .with_setting("max_memory_usage", "4000000000");
    let cells = within(STATEMENT_DEADLINE, query.fetch_all::<Cell>()).await?;
    Ok(cells.into_iter().map(|cell| Drift { table, cell }).collect())
}

/// Ids that raw holds more than once, and what came twice from one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Partitions of the source, with Kafka.
    pub sources: Vec<Source>,
    /// Ids that were received twice within a day of each other, under different times or offsets: counted twice.
    pub repeated_ids: u64,
    /// Some of them, as `project event_id rows`.
    pub examples: Vec<String>,
}

/// One partition of the source.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Source {
    /// Project.
    pub project_id: String,
    /// Partition.
    pub partition: i32,
    /// Distinct offsets.
    pub offsets: u64,
    /// Rows beyond the first at one offset: stored twice.
    pub repeated: u64,
    /// Offsets between the first and the last that are not there: other projects, duplicates, dead letters. No error.
    pub missing: u64,
}

impl Audit {
    /// Whether anything was stored twice.
    pub fn is_clean(&self) -> bool {
        self.repeated_ids == 0 && self.sources.iter().all(|source| source.repeated == 0)
    }
}

/// Looks for what is stored twice in raw. `limit` bounds the examples and the sources.
pub async fn audit(client: &Client, selection: &Selection, limit: usize) -> Result<Audit, RollupsError> {
    let (from, to, project) = (selection.from, selection.to, only(selection));
    let range = format!("ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC'){project}");
    let spill = |sql: String| {
        client
            .query_raw(&sql)
            .with_setting("max_bytes_before_external_group_by", "500000000")
            .with_setting("max_memory_usage", "4000000000")
    };
    let sources = spill(format!(
        "SELECT toString(project_id) AS project_id, toInt32(source_partition) AS partition, count() AS offsets, \
           toUInt64(sum(n) - count()) AS repeated, toUInt64(max(source_offset) - min(source_offset) + 1 - count()) AS missing \
         FROM (SELECT project_id, source_partition, source_offset, count() AS n FROM tallyhouse.events FINAL \
               WHERE source_partition >= 0 AND {range} GROUP BY project_id, source_partition, source_offset) \
         GROUP BY project_id, partition ORDER BY repeated DESC, project_id, partition LIMIT {limit}"
    ));
    // By hash: an id may be long, and two that share 64 bits within one project are not to be expected.
    let repeated = format!(
        "SELECT project_id, any(event_id) AS id, count() AS n FROM tallyhouse.events FINAL WHERE {range} \
         GROUP BY project_id, cityHash64(event_id) HAVING n > 1 AND dateDiff('hour', min(received_at), max(received_at)) < 24"
    );
    let examples = spill(format!(
        "SELECT concat(toString(project_id), ' ', id, ' ', toString(n)) FROM ({repeated}) ORDER BY 1 LIMIT {limit}"
    ));
    Ok(Audit {
        sources: within(STATEMENT_DEADLINE, sources.fetch_all::<Source>()).await?,
        repeated_ids: within(STATEMENT_DEADLINE, spill(format!("SELECT count() FROM ({repeated})")).fetch_one::<u64>())
            .await?,
        examples: within(STATEMENT_DEADLINE, examples.fetch_all::<String>()).await?,
    })
}
