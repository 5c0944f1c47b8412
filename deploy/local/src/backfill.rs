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

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tallyhouse_ingest::guard::Guard;
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_schema::event::{Dim, Flags};
use tallyhouse_schema::normalise::counted_under;
use tallyhouse_schema::raw::{Property, PropertyValue};
use tallyhouse_schema::{Catalogue, DimSet, Event, Rollup};
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::rebuild::{self, ChangedDay, Options};
use tallyhouse_sql::rollups::{RollupsError, Selection};

const DAY: i64 = 86_400;

/// Raw rows that are completed by one statement.
const AT_ONCE: usize = 50_000;

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

/// Raw events of one type that are not counted under a set that it declares.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Uncounted {
    /// Whose.
    pub project_id: String,
    /// Of which type.
    pub event_type: String,
    /// Under which set.
    pub dim_set: String,
    /// How many.
    pub events: u64,
    /// UTC date of the first.
    pub first: String,
    /// UTC date of the last.
    pub last: String,
}

#[derive(Debug, Row, Deserialize)]
struct Unit {
    project: String,
    day: i64,
}

/// The part of a raw row that decides, and what makes it that row.
#[derive(Debug, Row, Deserialize)]
struct Stored {
    ts: i64,
    user_hash: u64,
    event_id: String,
    country: String,
    device: String,
    os: String,
    browser: String,
    locale: String,
    page: String,
    texts: Vec<(String, String)>,
    numbers: Vec<(String, f64)>,
    sets: Vec<String>,
}

#[derive(Debug, Row, Serialize)]
struct Completed<'a> {
    ts: i64,
    user_hash: u64,
    event_id: &'a str,
    added: Vec<(&'a str, &'a str)>,
}

#[derive(Debug, Row, Deserialize)]
struct Known {
    hour: i64,
    set: String,
    value: String,
}

/// Raw events of a selection that lack a set which their type declares.
pub async fn uncounted(
    client: &Client,
    catalogue: &Catalogue,
    selection: &Selection,
) -> Result<Vec<Uncounted>, StoreError> {
    let mut found = Vec::new();
    for event_type in catalogue.declared() {
        let sets: Vec<&str> = catalogue.event_type(event_type).sets.iter().map(DimSet::key).collect();
        let sql = format!(
            "SELECT toString(project_id) AS project_id, toString(event_type) AS event_type, arrayJoin(arrayFilter(s -> NOT \
             arrayExists(d -> d.1 = s, dims), {{sets:Array(String)}})) AS dim_set, count() AS events, \
             toString(toDate(min(ts), 'UTC')) AS first, toString(toDate(max(ts), 'UTC')) AS last \
             FROM tallyhouse.events FINAL WHERE {} GROUP BY project_id, event_type, dim_set ORDER BY project_id, dim_set",
            of(selection)
        );
        let query =
            client.query(&sql).param("sets", sets).param("type", event_type).param("project", project(selection));
        found.extend(query.fetch_all::<Uncounted>().await?);
    }
    Ok(found)
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

/// One type's events on one day of a project.
struct Work<'a> {
    backfill: &'a Backfill<'a>,
    event_type: &'a str,
    sets: &'a [&'a DimSet],
    unit: &'a Unit,
    guard: Guard,
}

impl Work<'_> {
    async fn run(&self) -> Result<u64, RollupsError> {
        self.learn().await?;
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(ts) AS ts, user_hash, event_id, toString(country) AS country, toString(device) AS device, \
             toString(os) AS os, toString(browser) AS browser, toString(locale) AS locale, page, \
             arrayMap((k, v) -> (toString(k), v), mapKeys(props), mapValues(props)) AS texts, \
             arrayMap((k, v) -> (toString(k), v), mapKeys(num_props), mapValues(num_props)) AS numbers, \
             arrayMap(d -> toString(d.1), dims) AS sets \
             FROM tallyhouse.events FINAL WHERE {} \
             AND arrayExists(s -> NOT arrayExists(d -> d.1 = s, dims), {{sets:Array(String)}})",
            self.rows()
        );
        let names: Vec<&str> = self.sets.iter().map(|set| set.key()).collect();
        let query =
            self.bound(self.backfill.client.query(&sql)).param("sets", names).with_setting("max_execution_time", "0");
        let mut rows = query.fetch::<Stored>().map_err(StoreError::from)?;
        let (mut batch, mut events) = (Vec::new(), 0);
        while let Some(row) = rows.next().await.map_err(StoreError::from)? {
            batch.push(row);
            if batch.len() == AT_ONCE {
                events += self.complete(&std::mem::take(&mut batch)).await?;
            }
        }
        Ok(events + self.complete(&batch).await?)
    }

    fn rows(&self) -> String {
        let (from, to) = (self.unit.day, self.unit.day + DAY);
        format!(
            "events.event_type = {{type:String}} AND events.project_id = {{project:String}} \
             AND events.ts >= toDateTime64({from}, 3, 'UTC') AND events.ts < toDateTime64({to}, 3, 'UTC')"
        )
    }

    fn bound(&self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        query.param("type", self.event_type).param("project", &self.unit.project)
    }

    /// What the day's events are counted under already, of whatever type.
    async fn learn(&self) -> Result<(), RollupsError> {
        let names: BTreeSet<&str> =
            self.sets.iter().flat_map(|set| set.names().iter().map(String::as_str).chain([set.key()])).collect();
        let (from, to) = (self.unit.day, self.unit.day + DAY);
        let known = self
            .backfill
            .client
            .query(&format!(
                "SELECT DISTINCT intDiv(toInt64(toUnixTimestamp(ts)), 3600) AS hour, toString(d.1) AS set, d.2 AS value \
                 FROM tallyhouse.events FINAL ARRAY JOIN dims AS d WHERE project_id = {{project:String}} \
                 AND ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC') AND has({{sets:Array(String)}}, d.1)"
            ))
            .param("project", &self.unit.project)
            .param("sets", names.into_iter().collect::<Vec<_>>())
            .fetch_all::<Known>()
            .await
            .map_err(StoreError::from)?;
        for Known { hour, set, value } in known.iter().filter(|known| !known.value.contains(OTHER)) {
            self.guard.remember(&self.unit.project, set, value, *hour);
        }
        Ok(())
    }

    /// Inserts rows once more with what they lack.
    async fn complete(&self, rows: &[Stored]) -> Result<u64, RollupsError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let mut events: Vec<Event<'_>> = rows.iter().map(|row| self.event(row)).collect();
        let project = &self.unit.project;
        self.guard.apply(project, (self.backfill.most_values)(project), &mut events, |_| ());
        self.backfill.execute("DROP TABLE IF EXISTS tallyhouse.backfill_rows SYNC").await?;
        self.backfill
            .execute(
                "CREATE TABLE tallyhouse.backfill_rows (ts Int64, user_hash UInt64, event_id String, \
                 added Array(Tuple(String, String))) ENGINE = MergeTree ORDER BY (ts, user_hash, event_id)",
            )
            .await?;
        let client = self.backfill.client;
        let mut insert = client.insert::<Completed<'_>>("backfill_rows").await.map_err(StoreError::from)?;
        for event in &events {
            let added = event.dims.iter().map(|dim| (dim.set, dim.value.as_ref())).collect();
            let row = Completed { ts: event.ts, user_hash: event.user_hash, event_id: &event.event_id, added };
            insert.write(&row).await.map_err(StoreError::from)?;
        }
        insert.end().await.map_err(StoreError::from)?;
        self.replace().await?;
        self.backfill.execute("DROP TABLE IF EXISTS tallyhouse.backfill_rows SYNC").await?;
        Ok(rows.len() as u64)
    }

    async fn replace(&self) -> Result<(), RollupsError> {
        let client = self.backfill.client;
        let columns = client
            .query(
                "SELECT name FROM system.columns WHERE database = 'tallyhouse' AND table = 'events' AND default_kind NOT IN \
                 ('MATERIALIZED', 'ALIAS') ORDER BY position",
            )
            .fetch_all::<String>()
            .await
            .map_err(StoreError::from)?;
        let selected: Vec<String> = columns
            .iter()
            .map(|name| match name.as_str() {
                "dims" => "arrayConcat(events.dims, arrayFilter(a -> NOT arrayExists(d -> d.1 = a.1, events.dims), \
                           CAST(r.added, 'Array(Tuple(LowCardinality(String), String))')))"
                    .to_owned(),
                name => format!("events.{name}"),
            })
            .collect();
        let sql = format!(
            "INSERT INTO tallyhouse.events ({}) SELECT {} FROM tallyhouse.events AS events FINAL \
             INNER JOIN tallyhouse.backfill_rows AS r \
             ON toUnixTimestamp64Milli(events.ts) = r.ts AND events.user_hash = r.user_hash AND events.event_id = r.event_id WHERE {}",
            columns.join(", "),
            selected.join(", "),
            self.rows()
        );
        let query = self
            .bound(client.query(&sql))
            .with_setting("wait_end_of_query", "1")
            .with_setting("async_insert", "0")
            .with_setting("deduplicate_insert", "disable")
            .with_setting("deduplicate_insert_select", "disable")
            .with_setting("max_execution_time", "0");
        Ok(query.execute().await.map_err(StoreError::from)?)
    }

    /// The event that a row is, with what it is counted under for the sets that it lacks.
    fn event<'r>(&'r self, row: &'r Stored) -> Event<'r> {
        let texts = row.texts.iter().map(|(name, text)| (name, PropertyValue::Text(Cow::Borrowed(text))));
        let numbers = row.numbers.iter().map(|(name, number)| (name, PropertyValue::Number(*number)));
        let properties =
            texts.chain(numbers).map(|(name, value)| Property { name: Cow::Borrowed(name), value }).collect();
        let mut event = Event {
            event_id: Cow::Borrowed(&row.event_id),
            event_type: Cow::Borrowed(self.event_type),
            ts: row.ts,
            original_ts: row.ts,
            received_at: row.ts,
            value: None,
            user_id: Cow::Borrowed(""),
            anonymous_id: Cow::Borrowed(""),
            user_hash: row.user_hash,
            session_id: Cow::Borrowed(""),
            country: Cow::Borrowed(&row.country),
            device: Cow::Borrowed(&row.device),
            os: row.os.as_str().into(),
            browser: row.browser.as_str().into(),
            locale: Cow::Borrowed(&row.locale),
            page: Cow::Borrowed(&row.page),
            ip: String::new(),
            properties,
            dims: Vec::new(),
            flags: Flags::default(),
            retention_days: 0,
        };
        let lacking = self.sets.iter().filter(|set| row.sets.iter().all(|has| has != set.key()));
        event.dims = lacking.map(|set| Dim { set: set.key(), value: counted_under(set, &event) }).collect();
        event
    }
}
