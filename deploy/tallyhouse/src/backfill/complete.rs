//! Completes raw rows: reads those that lack a set, assigns their dimension values, and inserts them once more.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use tallyhouse_ingest::cardinality::CardinalityLimiter;
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_schema::event::{Dim, Flags};
use tallyhouse_schema::normalise::counted_under;
use tallyhouse_schema::raw::{Property, PropertyValue};
use tallyhouse_schema::{DimSet, Event};
use tallyhouse_sql::clickhouse::{self, Row};
use tallyhouse_sql::rollups::gate::Lock;
use tallyhouse_sql::rollups::{RollupsError, backfill};
use tallyhouse_sql::{StoreError, hex};

use super::{Backfill, DAY, Scope, Unit, date, of};

const HOUR: i64 = 3_600;

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
struct CountedValue {
    hour: i64,
    set: String,
    value: String,
}

/// Completes the raw events of one type.
pub(super) struct Completing<'a> {
    pub(super) backfill: &'a Backfill<'a>,
    pub(super) scope: &'a Scope<'a>,
    pub(super) lock: &'a Lock,
    /// Of `events`.
    pub(super) columns: &'a [String],
    pub(super) event_type: &'a str,
    pub(super) sets: &'a [&'a DimSet],
}

impl Completing<'_> {
    /// Returns how many.
    pub(super) async fn run(&self) -> Result<u64, RollupsError> {
        let client = self.backfill.client;
        let units = self.units().await?;
        let mut events = 0;
        for (number, unit) in units.iter().enumerate() {
            self.lock.check()?;
            let note = client.query("INSERT INTO tallyhouse.backfill_days VALUES ({project:String}, {day:Int64})");
            let note = note.param("project", &unit.project).param("day", unit.day).with_setting("async_insert", "0");
            note.execute().await.map_err(StoreError::from)?;
            let completed = Work { completing: self, unit, cardinality: CardinalityLimiter::default() }.run().await?;
            events += completed;
            let (event_type, project, days) = (self.event_type, &unit.project, units.len());
            tracing::info!(
                event_type,
                project,
                date = date(unit.day),
                events = completed,
                "completed day {} of {days}",
                number + 1
            );
        }
        Ok(events)
    }

    /// The days of projects with such events.
    async fn units(&self) -> Result<Vec<Unit>, RollupsError> {
        let sql = format!(
            "SELECT toString(project_id) AS project, toInt64(toUnixTimestamp(toStartOfDay(ts))) AS day FROM tallyhouse.events FINAL \
             WHERE {} AND arrayExists(s -> NOT arrayExists(d -> d.1 = s, dims), {{sets:Array(String)}}) \
             GROUP BY project, day ORDER BY project, day",
            of(self.scope)
        );
        let query = self.backfill.client.query(&sql).param("sets", self.names());
        let query = query
            .param("type", self.event_type)
            .param("project", self.scope.project)
            .param("except", &self.scope.except);
        Ok(query.fetch_all::<Unit>().await.map_err(StoreError::from)?)
    }

    fn names(&self) -> Vec<&str> {
        self.sets.iter().map(|set| set.key()).collect()
    }
}

/// Of `events`, with a parameter.
const LACKS: &str = "arrayExists(s -> NOT arrayExists(d -> d.1 = s, dims), {sets:Array(String)})";

#[derive(Debug, Row, Deserialize)]
struct HourOfRows {
    /// Its start, in seconds since the epoch.
    hour: i64,
    rows: u64,
}

/// Hours that are read together, a batch of rows or one hour: a batch is read with all that its window holds.
fn windows(hours: &[HourOfRows], batch: usize) -> Vec<Range<i64>> {
    let (mut windows, mut together): (Vec<Range<i64>>, u64) = (Vec::new(), 0);
    for HourOfRows { hour, rows } in hours {
        together += rows;
        match windows.last_mut() {
            Some(window) if together <= batch as u64 => window.end = hour + HOUR,
            _ => {
                windows.push(*hour..hour + HOUR);
                together = *rows;
            }
        }
    }
    windows
}

/// The condition for rows that come after this one.
fn beyond(row: &Stored) -> String {
    let ts = format!("fromUnixTimestamp64Milli(toInt64({}), 'UTC')", row.ts);
    let id = hex(row.event_id.as_bytes());
    // The first part is what the primary key can use.
    format!(
        " AND toStartOfHour(events.ts) >= toStartOfHour({ts}) AND (toStartOfHour(events.ts), events.user_hash, events.ts, events.event_id) > \
         (toStartOfHour({ts}), toUInt64({}), {ts}, unhex('{id}'))",
        row.user_hash
    )
}

/// One type's events on one day of a project.
struct Work<'a> {
    completing: &'a Completing<'a>,
    unit: &'a Unit,
    cardinality: CardinalityLimiter,
}

impl Work<'_> {
    async fn run(&self) -> Result<u64, RollupsError> {
        self.learn().await?;
        let mut events = 0;
        for window in windows(&self.hours().await?, self.completing.backfill.batch) {
            let mut after = None;
            loop {
                let rows = self.lacking(&window, after.as_ref()).await?;
                events += self.complete(&rows).await?;
                if rows.len() < self.completing.backfill.batch {
                    break;
                }
                after = rows.into_iter().next_back();
            }
        }
        Ok(events)
    }

    /// The hours of the day with rows that lack a set.
    async fn hours(&self) -> Result<Vec<HourOfRows>, RollupsError> {
        let sql = format!(
            "SELECT toInt64(toUnixTimestamp(toStartOfHour(events.ts))) AS hour, count() AS rows FROM tallyhouse.events FINAL \
             WHERE {} AND {LACKS} GROUP BY hour ORDER BY hour",
            self.rows()
        );
        let query = self.bound(self.completing.backfill.client.query(&sql)).param("sets", self.completing.names());
        let hours = query.with_setting("max_execution_time", "0").fetch_all::<HourOfRows>().await;
        Ok(hours.map_err(StoreError::from)?)
    }

    /// The next batch of rows that lack a set, in the order of the table. A query of its own: ClickHouse gives a reader up that stands
    /// still for 30 s, which completing a batch may take.
    async fn lacking(&self, window: &Range<i64>, after: Option<&Stored>) -> Result<Vec<Stored>, RollupsError> {
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(ts) AS ts, user_hash, event_id, toString(country) AS country, toString(device) AS device, \
             toString(os) AS os, toString(browser) AS browser, toString(locale) AS locale, page, \
             arrayMap((k, v) -> (toString(k), v), mapKeys(props), mapValues(props)) AS texts, \
             arrayMap((k, v) -> (toString(k), v), mapKeys(num_props), mapValues(num_props)) AS numbers, \
             arrayMap(d -> toString(d.1), dims) AS sets \
             FROM tallyhouse.events FINAL WHERE {} AND toStartOfHour(events.ts) >= toDateTime({}, 'UTC') AND toStartOfHour(events.ts) < toDateTime({}, 'UTC'){} \
             AND {LACKS} ORDER BY toStartOfHour(events.ts), events.user_hash, events.ts, events.event_id LIMIT {}",
            self.rows(),
            window.start,
            window.end,
            after.map(beyond).unwrap_or_default(),
            self.completing.backfill.batch
        );
        let query = self.bound(self.completing.backfill.client.query(&sql)).param("sets", self.completing.names());
        let rows = query.with_setting("max_execution_time", "0").fetch_all::<Stored>().await;
        Ok(rows.map_err(StoreError::from)?)
    }

    fn rows(&self) -> String {
        let (from, to) = (self.unit.day, self.unit.day + DAY);
        format!(
            "events.event_type = {{type:String}} AND events.project_id = {{project:String}} \
             AND events.ts >= toDateTime64({from}, 3, 'UTC') AND events.ts < toDateTime64({to}, 3, 'UTC')"
        )
    }

    fn bound(&self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        query.param("type", self.completing.event_type).param("project", &self.unit.project)
    }

    /// What the day's events are counted under already, of whatever type.
    async fn learn(&self) -> Result<(), RollupsError> {
        let names: BTreeSet<&str> = self
            .completing
            .sets
            .iter()
            .flat_map(|set| set.names().iter().map(String::as_str).chain([set.key()]))
            .collect();
        let (from, to) = (self.unit.day, self.unit.day + DAY);
        let known = self
            .completing
            .backfill
            .client
            .query(&format!(
                "SELECT DISTINCT intDiv(toInt64(toUnixTimestamp(ts)), 3600) AS hour, toString(d.1) AS set, d.2 AS value \
                 FROM tallyhouse.events FINAL ARRAY JOIN dims AS d WHERE project_id = {{project:String}} \
                 AND ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC') AND has({{sets:Array(String)}}, d.1)"
            ))
            .param("project", &self.unit.project)
            .param("sets", names.into_iter().collect::<Vec<_>>())
            .fetch_all::<CountedValue>()
            .await
            .map_err(StoreError::from)?;
        for CountedValue { hour, set, value } in known.iter().filter(|known| !known.value.contains(OTHER)) {
            self.cardinality.remember(&self.unit.project, set, value, *hour);
        }
        Ok(())
    }

    /// Inserts rows once more with what they lack.
    async fn complete(&self, rows: &[Stored]) -> Result<u64, RollupsError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let mut events: Vec<Event<'_>> = rows.iter().map(|row| self.event(row)).collect();
        self.completing.lock.check()?;
        let project = &self.unit.project;
        // Types stay as they were stored.
        self.cardinality.apply(project, (self.completing.backfill.most_values)(project), |_| true, &mut events, |_| ());
        backfill::empty_rows(self.completing.backfill.client).await?;
        let client = self.completing.backfill.client;
        let mut insert = client.insert::<Completed<'_>>("backfill_rows").await.map_err(StoreError::from)?;
        for event in &events {
            let added = event.dims.iter().map(|dim| (dim.set, dim.value.as_ref())).collect();
            let row = Completed { ts: event.ts, user_hash: event.user_hash, event_id: &event.event_id, added };
            insert.write(&row).await.map_err(StoreError::from)?;
        }
        insert.end().await.map_err(StoreError::from)?;
        self.replace(rows).await?;
        Ok(rows.len() as u64)
    }

    async fn replace(&self, rows: &[Stored]) -> Result<(), RollupsError> {
        let client = self.completing.backfill.client;
        let columns = self.completing.columns;
        let selected: Vec<String> = columns
            .iter()
            .map(|name| match name.as_str() {
                "dims" => "arrayConcat(events.dims, arrayFilter(a -> NOT arrayExists(d -> d.1 = a.1, events.dims), \
                           CAST(r.added, 'Array(Tuple(LowCardinality(String), String))')))"
                    .to_owned(),
                name => format!("events.{name}"),
            })
            .collect();
        // Only these hours are read again. The primary key has the hour: a condition on `ts` itself prunes nothing.
        let first = rows.iter().map(|row| row.ts).min().unwrap_or_default();
        let last = rows.iter().map(|row| row.ts).max().unwrap_or_default();
        let sql = format!(
            "INSERT INTO tallyhouse.events ({}) SELECT {} FROM tallyhouse.events AS events FINAL \
             INNER JOIN tallyhouse.backfill_rows AS r \
             ON toUnixTimestamp64Milli(events.ts) = r.ts AND events.user_hash = r.user_hash AND events.event_id = r.event_id WHERE {} \
             AND toStartOfHour(events.ts) >= toStartOfHour(fromUnixTimestamp64Milli(toInt64({first}), 'UTC')) \
             AND toStartOfHour(events.ts) <= toStartOfHour(fromUnixTimestamp64Milli(toInt64({last}), 'UTC'))",
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
        let properties = texts.chain(numbers).map(|(name, value)| Property::new(name, value)).collect();
        let mut event = Event {
            event_id: Cow::Borrowed(&row.event_id),
            event_type: Cow::Borrowed(self.completing.event_type),
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
            ip: Cow::Borrowed(""),
            properties,
            dims: Vec::new(),
            flags: Flags::default(),
            retention_days: 0,
        };
        let lacking = self.completing.sets.iter().filter(|set| row.sets.iter().all(|has| has != set.key()));
        event.dims = lacking.map(|set| Dim { set: set.key(), value: counted_under(set, &event) }).collect();
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_read_together_up_to_a_batch() {
        let hours = [(0, 40), (1, 60), (2, 1), (5, 99), (6, 500), (7, 1)];
        let hours = hours.map(|(hour, rows)| HourOfRows { hour: hour * HOUR, rows });
        let found: Vec<_> = windows(&hours, 100).into_iter().map(|w| (w.start / HOUR, w.end / HOUR)).collect();
        assert_eq!(found, [(0, 2), (2, 6), (6, 7), (7, 8)]);
        assert!(windows(&[], 100).is_empty());
    }
}
