//! Rebuilds a rollup from raw events while events arrive.
//!
//! ```text
//! drift -> cells -> stamp raw -> recompute into staging                                (inserts go on)
//!       -> close the gate -> recompute what changed since its stamp -> shadow -> REPLACE PARTITION -> open the gate
//!       -> verify again, and once more where it still differs
//! ```
//!
//! The shadow is the partition's own parts (linked, not copied) without the cells, and the staged cells. So everything
//! else stays as it is, whatever raw still holds of it. The swap is one statement; a kill before it changes nothing, and a
//! gate left closed is opened by the next that looks ([`super::gate`]).
//!
//! After each swap `changed` gets the changed days, to invalidate caches; also those of a killed rebuild, from its list of cells.
//!
//! `REPLACE PARTITION` fires no view and keeps the deduplication log: a token that was applied before stays applied. What
//! the gate cannot see is an insert that reached only some of its tables and waits for its next attempt: raw then speaks
//! for a rollup whose log disagrees. So drift must be stable before it is rebuilt, and is verified again afterwards; what
//! is not stable because events keep arriving is compared behind the gate (`stable`).

use std::collections::BTreeSet;
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tokio::time::{Instant, timeout_at};

use super::gate::{self, Lock};
use super::stable;
use super::verify::{self, Drift, days, only, raw_horizon};
use super::{RollupsError, STATEMENT_DEADLINE, Selection, execute, exists, number, quoted, refuse_replicated, unit_of};
use crate::deadline::within;
use crate::error::StoreError;
use crate::migrations::ALL;

/// Rounds of rebuilding and verifying.
const ROUNDS: u32 = 3;

/// What is being rebuilt.
const CELLS: &str = "rebuild_cells";

/// Tables of a rebuild in progress; what a killed one left is dropped by the next.
const SCRATCH: [&str; 5] = [CELLS, "rebuild_stamps", "rebuild_changed", "rebuild_staging", "rebuild_shadow"];

/// What to rebuild and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is looked at.
    pub selection: Selection,
    /// Every hour of it, not only those that differ.
    pub is_everything: bool,
    /// Inserts are kept away no longer than this, for one partition.
    pub gate: Duration,
    /// Between two looks of a verification.
    pub pause: Duration,
}

/// A UTC day of a project whose rollups were changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Row, Deserialize)]
pub struct ChangedDay {
    /// The project.
    pub project_id: String,
    /// Days since 1970.
    pub day: i32,
}

/// What was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Partitions that were swapped.
    pub partitions: u64,
    /// Hours and days of projects in them that were recomputed.
    pub cells: u64,
    /// The longest time that inserts were kept away.
    pub longest_gate: Duration,
}

/// Rebuilds what differs, until nothing does. `changed` gets days right after they were changed, also when the rebuild then fails.
pub async fn rebuild(
    client: &Client,
    options: &Options,
    mut changed: impl AsyncFnMut(Vec<ChangedDay>),
) -> Result<Rebuilt, RollupsError> {
    let lock = begin(client, &mut changed).await?;
    rebuild_locked(client, &lock, options, &mut changed).await
}

/// Takes the lock, opens a gate that a killed rebuild left closed, and reports the days that it may have swapped.
pub async fn begin(client: &Client, changed: &mut impl AsyncFnMut(Vec<ChangedDay>)) -> Result<Lock, RollupsError> {
    refuse_replicated(client).await?;
    let lock = Lock::take(client).await?;
    if gate::open(client).await? {
        tracing::warn!("an earlier rebuild was killed and had left inserts shut out; they are let in again");
    }
    if exists(client, CELLS).await? {
        changed(changed_days(client, "1").await?).await;
    }
    Ok(lock)
}

/// As [`rebuild`], under a lock that [`begin`] took.
pub async fn rebuild_locked(
    client: &Client,
    lock: &Lock,
    options: &Options,
    changed: &mut impl AsyncFnMut(Vec<ChangedDay>),
) -> Result<Rebuilt, RollupsError> {
    let mut rebuilt = Rebuilt::default();
    let (mut drifts, mut differing) = (Vec::new(), 0);
    for round in 0..=ROUNDS {
        if round > 0 || !options.is_everything {
            let verify::Compared { drifts: still, moving, .. } =
                verify::compare(client, &options.selection, options.pause).await?;
            let stable = stable::stable_drifts(client, lock, options, moving).await?;
            drifts = still;
            drifts.extend(stable.drifts);
            differing = drifts.len() + stable.unstable;
            if differing == 0 {
                return Ok(rebuilt);
            }
        }
        if round == ROUNDS {
            break;
        }
        for &rollup in &options.selection.tables {
            let job = Job { client, lock, options, rollup };
            let is_everything = options.is_everything && round == 0;
            job.table(&drifts, is_everything, &mut rebuilt, changed).await?;
        }
    }
    Err(RollupsError::NotConverged(differing))
}

/// One rollup of one round.
struct Job<'a> {
    client: &'a Client,
    lock: &'a Lock,
    options: &'a Options,
    rollup: Rollup,
}

/// A partition with cells to rebuild; bounds in seconds since the epoch.
#[derive(Debug, Row, Deserialize)]
struct Partition {
    id: String,
    from: u32,
    to: u32,
    cells: u64,
}

impl Job<'_> {
    async fn table(
        &self,
        drifts: &[Drift],
        is_everything: bool,
        rebuilt: &mut Rebuilt,
        changed: &mut impl AsyncFnMut(Vec<ChangedDay>),
    ) -> Result<(), RollupsError> {
        self.clean_up().await?;
        self.list_cells(drifts, is_everything).await?;
        for partition in self.partitions().await? {
            let held = self.partition(&partition).await;
            // A swap whose answer did not come may have been carried out.
            let Partition { from, to, .. } = partition;
            let cells = format!("unit >= toDateTime({from}, 'UTC') AND unit < toDateTime({to}, 'UTC')");
            let days = changed_days(self.client, &cells).await;
            if let Ok(days) = &days {
                changed(days.clone()).await;
            }
            let held = held?;
            days?;
            rebuilt.partitions += 1;
            rebuilt.cells += partition.cells;
            rebuilt.longest_gate = rebuilt.longest_gate.max(held);
            let (table, partition) = (self.rollup.table(), partition.id);
            tracing::info!(table, partition, held_ms = held.as_millis(), "rebuilt a partition");
        }
        Ok(self.clean_up().await?)
    }

    async fn clean_up(&self) -> Result<(), StoreError> {
        for table in SCRATCH {
            execute(self.client, &format!("DROP TABLE IF EXISTS tallyhouse.{table} SYNC")).await?;
        }
        Ok(())
    }

    /// Writes down which hours (days) of which projects are rebuilt.
    async fn list_cells(&self, drifts: &[Drift], is_everything: bool) -> Result<(), RollupsError> {
        for table in ["rebuild_cells", "rebuild_changed"] {
            self.run(&format!(
                "CREATE TABLE tallyhouse.{table} (project_id String, unit DateTime('UTC')) \
                 ENGINE = MergeTree ORDER BY (project_id, unit)"
            ))
            .await?;
        }
        if is_everything {
            let (table, unit) = (self.rollup.table(), unit_of(self.rollup));
            let selection = &self.options.selection;
            let (from, to) = days(selection, self.rollup, raw_horizon(self.client, selection).await?);
            let (project, raw_days) = (only(selection), selection.on_days("ts"));
            let rollup_days = selection.on_days("bucket");
            return self
                .fill(&format!(
                    "INSERT INTO tallyhouse.rebuild_cells SELECT DISTINCT project_id, u FROM ( \
                       SELECT project_id, {unit}(toDateTime(ts, 'UTC')) AS u FROM tallyhouse.events \
                       WHERE ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC'){project}{raw_days} \
                       UNION ALL SELECT project_id, {unit}(bucket) AS u FROM tallyhouse.{table} \
                       WHERE bucket >= toDateTime({from}, 'UTC') AND bucket < toDateTime({to}, 'UTC'){project}{rollup_days})"
                ))
                .await;
        }
        let cells: BTreeSet<String> = drifts
            .iter()
            .filter(|drift| drift.table == self.rollup.table())
            .map(|drift| format!("({}, {})", quoted(&drift.cell.project_id), drift.cell.unit))
            .collect();
        if cells.is_empty() {
            return Ok(());
        }
        let values = cells.into_iter().collect::<Vec<_>>().join(", ");
        self.fill(&format!("INSERT INTO tallyhouse.rebuild_cells VALUES {values}")).await
    }

    async fn partitions(&self) -> Result<Vec<Partition>, RollupsError> {
        // As in the PARTITION BY of the table.
        let (start, next) = match self.rollup {
            Rollup::Minute => ("toMonday", "addWeeks"),
            Rollup::Quarter | Rollup::Hour | Rollup::Day => ("toStartOfMonth", "addMonths"),
        };
        let seconds = |date: &str| format!("toUInt32(toUnixTimestamp(toDateTime({date}, 'UTC')))");
        let sql = format!(
            "SELECT toString(toYYYYMMDD(p)) AS id, {} AS `from`, {} AS `to`, count() AS cells \
             FROM (SELECT {start}(unit) AS p FROM tallyhouse.rebuild_cells) GROUP BY p ORDER BY p",
            seconds("p"),
            seconds(&format!("{next}(p, 1)"))
        );
        Ok(within(STATEMENT_DEADLINE, self.client.query_raw(&sql).fetch_all::<Partition>()).await?)
    }

    /// Rebuilds the cells of one partition. Returns how long inserts were kept away.
    async fn partition(&self, partition: &Partition) -> Result<Duration, RollupsError> {
        let table = self.rollup.table();
        for scratch in ["rebuild_stamps", "rebuild_staging", "rebuild_shadow"] {
            self.run(&format!("DROP TABLE IF EXISTS tallyhouse.{scratch} SYNC")).await?;
        }
        self.run(
            "CREATE TABLE tallyhouse.rebuild_stamps (project_id String, unit DateTime('UTC'), rows UInt64, stamp UInt64) \
             ENGINE = MergeTree ORDER BY (project_id, unit)",
        )
        .await?;
        for scratch in ["rebuild_staging", "rebuild_shadow"] {
            self.run(&format!("CREATE TABLE tallyhouse.{scratch} AS tallyhouse.{table}")).await?;
        }
        // Before the rows are read: what comes in between is a change.
        self.fill(&format!("INSERT INTO tallyhouse.rebuild_stamps {}", self.stamps(partition))).await?;
        self.recompute(partition, "rebuild_cells").await?;

        let started = Instant::now();
        let until = started + self.options.gate;
        let swapped = self.behind_the_gate(partition, until).await;
        gate::reopen(self.client, self.lock).await?;
        swapped.map(|()| started.elapsed())
    }

    async fn behind_the_gate(&self, partition: &Partition, until: Instant) -> Result<(), RollupsError> {
        gate::close(self.client).await?;
        let prepare = async {
            gate::drain(self.client, until).await?;
            self.catch_up(partition).await?;
            self.make_shadow(partition).await
        };
        match timeout_at(until, prepare).await {
            Err(_) | Ok(Err(RollupsError::Store(StoreError::TimedOut))) => {
                return Err(RollupsError::GateTimedOut(self.options.gate));
            }
            Ok(prepared) => prepared?,
        }
        self.lock.check()?;
        // Not under the deadline: a swap that was sent is waited for, here or when the gate is opened.
        let swap = format!(
            "ALTER TABLE tallyhouse.{} REPLACE PARTITION ID '{}' FROM tallyhouse.rebuild_shadow \
             SETTINGS allow_replace_partition_from_empty_source = 1",
            self.rollup.table(),
            partition.id
        );
        self.run(&swap).await
    }

    /// Recomputes the cells whose raw rows are not those that were staged.
    async fn catch_up(&self, partition: &Partition) -> Result<(), RollupsError> {
        let unit = unit_of(self.rollup);
        self.run("TRUNCATE TABLE tallyhouse.rebuild_changed").await?;
        self.fill(&format!(
            "INSERT INTO tallyhouse.rebuild_changed SELECT project_id, unit FROM ( \
               SELECT project_id, unit, rows, stamp FROM tallyhouse.rebuild_stamps UNION ALL {}) \
             GROUP BY project_id, unit HAVING count() != 2 OR min(rows) != max(rows) OR min(stamp) != max(stamp)",
            self.stamps(partition)
        ))
        .await?;
        if number(self.client, "SELECT count() FROM tallyhouse.rebuild_changed").await? == 0 {
            return Ok(());
        }
        self.run(&format!(
            "DELETE FROM tallyhouse.rebuild_staging WHERE (project_id, {unit}(bucket)) IN \
             (SELECT project_id, unit FROM tallyhouse.rebuild_changed)"
        ))
        .await?;
        self.recompute(partition, "rebuild_changed").await
    }

    /// The partition as it is, with the staged cells in place of its own.
    async fn make_shadow(&self, Partition { id, from, to, .. }: &Partition) -> Result<(), RollupsError> {
        let (table, unit) = (self.rollup.table(), unit_of(self.rollup));
        let own = format!("(project_id, {unit}(bucket)) IN (SELECT project_id, unit FROM tallyhouse.rebuild_cells)");
        let attach = |source: &str| {
            format!("ALTER TABLE tallyhouse.rebuild_shadow ATTACH PARTITION ID '{id}' FROM tallyhouse.{source}")
        };
        self.run(&attach(table)).await?;
        self.run(&format!("DELETE FROM tallyhouse.rebuild_shadow WHERE {own}")).await?;
        // Everything that is not rebuilt must be in the copy: it may be all that is left of it.
        let rest = |table: &str| {
            format!(
                "SELECT sum(events * cityHash64(project_id, event_type, dim_set, dim_value, bucket)) FROM tallyhouse.{table} \
                 WHERE bucket >= toDateTime({from}, 'UTC') AND bucket < toDateTime({to}, 'UTC') AND NOT ({own})"
            )
        };
        if number(self.client, &rest(table)).await? != number(self.client, &rest("rebuild_shadow")).await? {
            return Err(RollupsError::BadCopy { table, partition: id.clone() });
        }
        self.run(&attach("rebuild_staging")).await
    }

    /// Puts the cells listed in a table into staging, as the view would have.
    async fn recompute(&self, partition: &Partition, cells: &str) -> Result<(), RollupsError> {
        let select = recomputing(self.rollup, &self.raw_rows(partition, cells));
        self.fill(&format!("INSERT INTO tallyhouse.rebuild_staging {select}")).await
    }

    /// Number and checksum of the raw rows of each cell.
    fn stamps(&self, partition: &Partition) -> String {
        let (unit, rows) = (unit_of(self.rollup), self.raw_rows(partition, "rebuild_cells"));
        format!(
            "SELECT project_id, {unit}(toDateTime(ts, 'UTC')) AS unit, count() AS rows, \
               sum(cityHash64(event_type, user_hash, ts, event_id, received_at)) AS stamp \
             FROM tallyhouse.events FINAL WHERE {rows} GROUP BY project_id, unit"
        )
    }

    fn raw_rows(&self, Partition { from, to, .. }: &Partition, cells: &str) -> String {
        let unit = unit_of(self.rollup);
        format!(
            "ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC') \
             AND (project_id, {unit}(toDateTime(ts, 'UTC'))) IN (SELECT project_id, unit FROM tallyhouse.{cells})"
        )
    }

    async fn run(&self, sql: &str) -> Result<(), RollupsError> {
        Ok(execute(self.client, sql).await?)
    }

    /// An `INSERT` of what was there before, on purpose: never to be taken for a repeat.
    async fn fill(&self, sql: &str) -> Result<(), RollupsError> {
        let query = self
            .client
            .query_raw(sql)
            .with_setting("wait_end_of_query", "1")
            .with_setting("async_insert", "0")
            .with_setting("deduplicate_insert", "disable")
            .with_setting("deduplicate_insert_select", "disable")
            .with_setting("max_partitions_per_insert_block", "0")
            .with_setting("max_bytes_before_external_group_by", "500000000");
        Ok(within(STATEMENT_DEADLINE, query.execute()).await?)
    }
}

/// The days of the cells for which a condition holds.
async fn changed_days(client: &Client, condition: &str) -> Result<Vec<ChangedDay>, StoreError> {
    let sql = format!(
        "SELECT DISTINCT project_id, toInt32(toDate(unit, 'UTC')) AS day FROM tallyhouse.{CELLS} WHERE {condition} \
         ORDER BY project_id, day"
    );
    within(STATEMENT_DEADLINE, client.query_raw(&sql).fetch_all::<ChangedDay>()).await
}

/// The view's own SELECT, from raw instead of from what is inserted, so that there is one definition.
fn recomputing(rollup: Rollup, condition: &str) -> String {
    let name = format!("_{}_view", rollup.table());
    // The newest file that says what the view is.
    let text =
        ALL.iter().rev().find(|migration| migration.name.ends_with(&name)).map_or("", |migration| migration.text);
    let select = text.split_once("SELECT").map_or("", |(_, select)| select);
    let from_raw = select
        .replace("FROM tallyhouse.events_in AS e\n", "FROM tallyhouse.events AS e FINAL\n")
        .replace("FROM tallyhouse.events_in\n", "FROM tallyhouse.events FINAL\n");
    format!("SELECT{}", from_raw.replace(" AS dim\n", &format!(" AS dim\nWHERE {condition}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_views_are_read_from_raw() {
        for rollup in Rollup::OF_EACH_TABLE {
            let sql = recomputing(rollup, "1 = 1");
            assert!(sql.starts_with("SELECT\n    project_id"), "{sql}");
            let inner: Vec<&str> =
                sql.lines().map(str::trim).skip_while(|line| !line.starts_with("FROM tally")).collect();
            let is_minute = rollup == Rollup::Minute;
            assert_eq!(
                inner[0],
                if is_minute { "FROM tallyhouse.events AS e FINAL" } else { "FROM tallyhouse.events FINAL" }
            );
            assert!(inner[1].starts_with("ARRAY JOIN ") && inner[1].ends_with(" AS dim"), "{sql}");
            assert!(inner[2] == "WHERE 1 = 1" && inner[3].starts_with("GROUP BY"), "{sql}");
            assert!(!sql.contains("events_in"));
        }
    }
}
