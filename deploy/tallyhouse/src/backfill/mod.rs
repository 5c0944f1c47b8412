//! `tallyhouse rollups backfill`: counts events under dimensions that were declared after they were stored.
//!
//! ```text
//! raw rows that lack a set -> note their day -> dimension values, assigned as in ingest -> raw rows with them
//!                          -> each noted day: rebuilt from raw, published as changed, crossed out
//! ```
//!
//! Rollups are rebuilt from the dimension values of raw rows (`dims`). So raw rows are completed: each is inserted once more with more
//! `dims`. It has the same sorting key and `received_at`, so it replaces the other, at once for reads with `FINAL` and for all reads
//! after a merge, which the run requests. The insert itself counts nothing: the views read `events_in`.
//!
//! Killed at any moment and run again, it continues: completed rows are skipped, and the noted days are rebuilt. A batch of the killed
//! run may still be executing: dropping its table waits for that. Two runs cannot overlap: the lock of rebuilds is held to the end.
//! Memory is bounded by a batch of rows and the values of one day.
//!
//! The bound on distinct values holds as at ingestion: values that the hour already counts stay, new ones are counted up to the
//! bound, the rest is `__other__`.

mod complete;
mod uncounted;

use std::time::Duration;

use serde::Deserialize;
use tallyhouse_control::schemas::Catalogues;
use tallyhouse_schema::{Catalogue, DimSet, Rollup};
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::rollups::backfill;
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options};
use tallyhouse_sql::rollups::{RollupsError, Selection, refuse_cluster};

use complete::Completing;
pub use uncounted::{Uncounted, uncounted};

/// Raw rows that are completed by one statement.
pub const BATCH: usize = 50_000;

const DAY: i64 = 86_400;

/// What is done with a selection of raw events.
pub struct Backfill<'a> {
    /// ClickHouse, as the writer.
    pub client: &'a Client,
    /// What event types declare.
    pub catalogues: &'a Catalogues,
    /// The most values of a dimension, by project.
    pub most_values: &'a dyn Fn(&str) -> u32,
    /// Which raw events; its tables are not looked at.
    pub selection: Selection,
    /// One set, or all that are declared.
    pub set: Option<DimSet>,
    /// Raw rows that are completed by one statement.
    pub batch: usize,
    /// Inserts are kept away no longer than this, for one partition.
    pub gate: Duration,
    /// Between two looks of a verification.
    pub pause: Duration,
}

/// What a run changed.
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

fn date(day: i64) -> String {
    jiff::Timestamp::from_second(day).map_or_else(|_| day.to_string(), |time| time.strftime("%F").to_string())
}

/// Projects that have one catalogue, and which of their raw events.
struct Scope<'a> {
    catalogue: &'a Catalogue,
    /// Empty: all but `except`.
    project: &'a str,
    /// Those with a catalogue of their own.
    except: Vec<&'a str>,
    selection: &'a Selection,
}

/// The scopes of a selection: each project of it is in one.
fn scopes<'a>(catalogues: &'a Catalogues, selection: &'a Selection) -> Vec<Scope<'a>> {
    let asked = selection.project.as_deref();
    let is_asked = |project: &&String| asked.is_none_or(|asked| asked == project.as_str());
    let own = catalogues.own.keys().filter(is_asked);
    let own = own.filter_map(|project| Some((project, catalogues.own.get(project)?)));
    let scope = |catalogue, project, except| Scope { catalogue, project, except, selection };
    let mut scopes: Vec<_> =
        own.map(|(project, catalogue)| scope(&**catalogue, project.as_str(), Vec::new())).collect();
    if asked.is_none_or(|asked| !catalogues.own.contains_key(asked)) {
        let except = catalogues.own.keys().map(String::as_str).collect();
        scopes.push(scope(&catalogues.others, asked.unwrap_or_default(), except));
    }
    scopes
}

/// The raw rows of a scope of one type, as a condition with parameters.
fn of(Scope { selection: Selection { from, to, .. }, .. }: &Scope<'_>) -> String {
    format!(
        "events.event_type = {{type:String}} AND ({{project:String}} = '' OR events.project_id = {{project:String}}) \
         AND NOT has({{except:Array(String)}}, toString(events.project_id)) AND events.ts >= toDateTime64({from}, 3, 'UTC') AND events.ts < toDateTime64({to}, 3, 'UTC')"
    )
}

impl Backfill<'_> {
    /// Counts what is not, and rebuilds. `changed` gets days right after they were changed.
    pub async fn run(&self, mut changed: impl AsyncFnMut(Vec<ChangedDay>)) -> Result<Backfilled, RollupsError> {
        // Held to the end: two runs would cross out each other's days.
        refuse_cluster(self.client).await?;
        let lock = rebuild::begin(self.client, &mut changed).await?;
        let columns = self.prepare().await?;
        let mut done = Backfilled::default();
        for scope in &scopes(self.catalogues, &self.selection) {
            for event_type in scope.catalogue.declared() {
                let sets: Vec<&DimSet> =
                    scope.catalogue.event_type(event_type).sets.iter().filter(|set| self.is_asked(set)).collect();
                let (lock, columns, sets) = (&lock, columns.as_slice(), sets.as_slice());
                done.events += Completing { backfill: self, scope, lock, columns, event_type, sets }.run().await?;
            }
        }
        backfill::drop_rows(self.client).await?;
        self.merge().await?;
        done.days = self.rebuild(&lock, &mut changed).await?;
        lock.check()?;
        backfill::drop_days(self.client).await?;
        Ok(done)
    }

    /// Makes the two tables of a run. Returns the columns of `events` that an insert gives.
    async fn prepare(&self) -> Result<Vec<String>, RollupsError> {
        backfill::create_tables(self.client).await?;
        let columns = "SELECT name FROM system.columns WHERE database = 'tallyhouse' AND table = 'events' AND default_kind NOT IN \
                       ('MATERIALIZED', 'ALIAS') ORDER BY position";
        Ok(self.client.query(columns).fetch_all::<String>().await.map_err(StoreError::from)?)
    }

    fn is_asked(&self, set: &DimSet) -> bool {
        self.set.as_ref().is_none_or(|asked| asked == set)
    }

    /// Leaves one row of each that was completed, by this run or by one that was killed, for who reads without `FINAL`.
    async fn merge(&self) -> Result<(), RollupsError> {
        let partitions = self
            .client
            .query(
                "SELECT DISTINCT _partition_id FROM tallyhouse.events WHERE toMonday(ts) IN \
                 (SELECT toMonday(toDateTime(day, 'UTC')) FROM tallyhouse.backfill_days)",
            )
            .fetch_all::<String>()
            .await
            .map_err(StoreError::from)?;
        for partition in partitions {
            // Rollups are rebuilt with FINAL, so a failed merge is no failure of the run.
            match backfill::merge(self.client, &partition).await {
                Ok(()) => tracing::info!(partition, "merged the raw events of a week"),
                Err(error) => {
                    tracing::warn!(partition, %error, "not merged: who reads raw events without FINAL sees some twice for now");
                }
            }
        }
        Ok(())
    }

    /// Rebuilds the noted days, a project and month at a time, and crosses them out.
    async fn rebuild(&self, lock: &Lock, changed: &mut impl AsyncFnMut(Vec<ChangedDay>)) -> Result<u64, RollupsError> {
        let mut rebuilt = 0;
        loop {
            let Some(Unit { project, day }) = self.noted().await? else { return Ok(rebuilt) };
            // The days of one month, which is a partition, from the first on.
            let last = "SELECT max(day) FROM tallyhouse.backfill_days WHERE project_id = {project:String} \
                        AND toStartOfMonth(toDateTime(day, 'UTC')) = toStartOfMonth(toDateTime({day:Int64}, 'UTC'))";
            let query = self.client.query(last).param("project", &project).param("day", day);
            let last = query.fetch_one::<i64>().await.map_err(StoreError::from)?;
            let tables = Rollup::OF_EACH_TABLE.to_vec();
            let selection = Selection { project: Some(project.clone()), from: day, to: last + DAY, tables, days: None };
            let options = Options { selection, is_everything: true, gate: self.gate, pause: self.pause };
            rebuild::rebuild_locked(self.client, lock, &options, changed).await?;
            lock.check()?;
            rebuilt += u64::try_from((last - day) / DAY + 1).unwrap_or_default();
            let done = self
                .client
                .query("DELETE FROM tallyhouse.backfill_days WHERE project_id = {project:String} AND day BETWEEN {day:Int64} AND {last:Int64}")
                .param("project", &project)
                .param("day", day)
                .param("last", last);
            done.execute().await.map_err(StoreError::from)?;
            tracing::info!(project, from = date(day), to = date(last), "rebuilt the rollups of completed days");
        }
    }

    /// The first of the noted days.
    async fn noted(&self) -> Result<Option<Unit>, StoreError> {
        let first = "SELECT project_id AS project, day FROM tallyhouse.backfill_days ORDER BY project, day LIMIT 1";
        Ok(self.client.query(first).fetch_optional::<Unit>().await?)
    }
}
