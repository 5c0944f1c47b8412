//! `tallyhouse rollups backfill`: counts events under dimensions that were declared after they came.
//!
//! ```text
//! raw rows that lack a set -> note their day -> what they are counted under, as ingest decides it -> raw rows with it
//!                          -> each noted day: rebuilt from raw, told, crossed out
//! ```
//!
//! A raw row says under what it is counted (`dims`), and rollups are rebuilt from that: so it is the raw row that is completed, by
//! inserting it once more with more `dims`. It has the same sorting key and `received_at`, so it takes the place of the other, at once
//! for who reads with `FINAL` and for all when the parts are merged, which is asked for. Nothing is counted meanwhile: the views read
//! `events_in`.
//!
//! Killed at any moment and run again, it goes on: completed rows lack nothing any more, and the days that are noted are rebuilt.
//! Memory is bounded by `AT_ONCE` rows and the values of one day.
//!
//! The bound on distinct values holds as it did for what came later: values that the hour already counts stay, new ones are taken
//! while there is room, the rest is `__other__`.

mod complete;
mod uncounted;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use tallyhouse_ingest::guard::Guard;
use tallyhouse_schema::{Catalogue, DimSet, Rollup};
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options};
use tallyhouse_sql::rollups::{RollupsError, Selection};

use complete::Work;
pub use uncounted::{Uncounted, uncounted};

const DAY: i64 = 86_400;

/// What is done with a selection of raw events.
pub struct Backfill<'a> {
    /// ClickHouse, as the writer.
    pub client: &'a Client,
    /// What event types declare.
    pub catalogue: &'a Catalogue,
    /// The most values of a dimension, by project.
    pub most_values: &'a dyn Fn(&str) -> u32,
    /// Which raw events; its tables are not looked at.
    pub selection: Selection,
    /// One set, or all that are declared.
    pub set: Option<DimSet>,
    /// Inserts are kept away no longer than this, for one partition.
    pub gate: Duration,
    /// Between two looks of a verification.
    pub pause: Duration,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Raw events that are counted under more than before.
    pub events: u64,
    /// Days of projects whose rollups were rebuilt.
    pub days: u64,
}

#[derive(Debug, Row, Deserialize)]
struct Unit {
    project: String,
    day: i64,
}

fn project(selection: &Selection) -> &str {
    selection.project.as_deref().unwrap_or_default()
}

/// The raw rows of a selection of one type, as a condition with parameters.
fn of(Selection { from, to, .. }: &Selection) -> String {
    format!(
        "events.event_type = {{type:String}} AND ({{project:String}} = '' OR events.project_id = {{project:String}}) \
         AND events.ts >= toDateTime64({from}, 3, 'UTC') AND events.ts < toDateTime64({to}, 3, 'UTC')"
    )
}

impl Backfill<'_> {
    /// Counts what is not, and rebuilds. `changed` is told of days right after they were.
    pub async fn run(&self, mut changed: impl AsyncFnMut(Vec<ChangedDay>)) -> Result<Backfilled, RollupsError> {
        let lock = Lock::take(self.client).await?;
        self.execute(
            "CREATE TABLE IF NOT EXISTS tallyhouse.backfill_days (project_id String, day Int64) \
             ENGINE = MergeTree ORDER BY (project_id, day)",
        )
        .await?;
        let mut done = Backfilled::default();
        for event_type in self.catalogue.declared() {
            let sets: Vec<&DimSet> =
                self.catalogue.event_type(event_type).sets.iter().filter(|set| self.is_asked(set)).collect();
            done.events += self.event_type(event_type, &sets).await?;
        }
        drop(lock);
        done.days = self.rebuild(&mut changed).await?;
        self.execute("DROP TABLE IF EXISTS tallyhouse.backfill_days SYNC").await?;
        Ok(done)
    }

    fn is_asked(&self, set: &DimSet) -> bool {
        self.set.as_ref().is_none_or(|asked| asked == set)
    }

    /// Completes the raw events of one type. Returns how many.
    async fn event_type(&self, event_type: &str, sets: &[&DimSet]) -> Result<u64, RollupsError> {
        let names: Vec<&str> = sets.iter().map(|set| set.key()).collect();
        let units = self
            .client
            .query(&format!(
                "SELECT toString(project_id) AS project, toInt64(toUnixTimestamp(toStartOfDay(ts))) AS day FROM tallyhouse.events FINAL \
                 WHERE {} AND arrayExists(s -> NOT arrayExists(d -> d.1 = s, dims), {{sets:Array(String)}}) \
                 GROUP BY project, day ORDER BY project, day",
                of(&self.selection)
            ))
            .param("sets", &names)
            .param("type", event_type)
            .param("project", project(&self.selection))
            .fetch_all::<Unit>()
            .await
            .map_err(StoreError::from)?;
        let mut events = 0;
        for unit in &units {
            let note = self.client.query("INSERT INTO tallyhouse.backfill_days VALUES ({project:String}, {day:Int64})");
            let note = note.param("project", &unit.project).param("day", unit.day).with_setting("async_insert", "0");
            note.execute().await.map_err(StoreError::from)?;
            let work = Work { backfill: self, event_type, sets, unit, guard: Guard::default() };
            events += work.run().await?;
        }
        if !units.is_empty() {
            self.merge(event_type, &units).await?;
        }
        Ok(events)
    }

    /// Leaves one row of each that was completed, for who reads without `FINAL`.
    async fn merge(&self, event_type: &str, units: &[Unit]) -> Result<(), RollupsError> {
        let days: BTreeSet<i64> = units.iter().map(|unit| unit.day).collect();
        let partitions = self
            .client
            .query(
                "SELECT DISTINCT _partition_id FROM tallyhouse.events WHERE event_type = {type:String} \
                 AND has({days:Array(Int64)}, toInt64(toUnixTimestamp(toStartOfDay(ts))))",
            )
            .param("type", event_type)
            .param("days", days.into_iter().collect::<Vec<_>>())
            .fetch_all::<String>()
            .await
            .map_err(StoreError::from)?;
        for partition in partitions {
            self.execute(&format!("OPTIMIZE TABLE tallyhouse.events PARTITION ID '{partition}' FINAL")).await?;
        }
        Ok(())
    }

    /// Rebuilds the noted days, a project and month at a time, and crosses them out.
    async fn rebuild(&self, changed: &mut impl AsyncFnMut(Vec<ChangedDay>)) -> Result<u64, RollupsError> {
        let mut rebuilt = 0;
        loop {
            let noted = self
                .client
                .query(
                    "SELECT project_id AS project, day FROM tallyhouse.backfill_days \
                     GROUP BY project, day ORDER BY project, day LIMIT 1",
                )
                .fetch_optional::<Unit>()
                .await
                .map_err(StoreError::from)?;
            let Some(Unit { project, day }) = noted else { return Ok(rebuilt) };
            // The days of one month, which is a partition, from the first on.
            let last = "SELECT max(day) FROM tallyhouse.backfill_days WHERE project_id = {project:String} \
                        AND toStartOfMonth(toDateTime(day, 'UTC')) = toStartOfMonth(toDateTime({day:Int64}, 'UTC'))";
            let query = self.client.query(last).param("project", &project).param("day", day);
            let last = query.fetch_one::<i64>().await.map_err(StoreError::from)?;
            let tables = Rollup::OF_EACH_TABLE.to_vec();
            let selection = Selection { project: Some(project.clone()), from: day, to: last + DAY, tables };
            let options = Options { selection, is_everything: true, gate: self.gate, pause: self.pause };
            rebuild::rebuild(self.client, &options, &mut *changed).await?;
            rebuilt += u64::try_from((last - day) / DAY + 1).unwrap_or_default();
            let done = self
                .client
                .query("DELETE FROM tallyhouse.backfill_days WHERE project_id = {project:String} AND day BETWEEN {day:Int64} AND {last:Int64}")
                .param("project", &project)
                .param("day", day)
                .param("last", last);
            done.execute().await.map_err(StoreError::from)?;
        }
    }

    async fn execute(&self, sql: &str) -> Result<(), RollupsError> {
        let call =
            self.client.query_raw(sql).with_setting("wait_end_of_query", "1").with_setting("max_execution_time", "0");
        Ok(call.execute().await.map_err(StoreError::from)?)
    }
}
