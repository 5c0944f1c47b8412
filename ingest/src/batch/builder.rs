//! Builds the columns of `events_in` from events.

use std::collections::HashSet;

use bytes::Bytes;
use tallyhouse_schema::Event;
use tallyhouse_schema::event::TEXTS;
use tallyhouse_schema::limits::DAY_MS;
use tallyhouse_schema::raw::PropertyValue;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_sql::migrations::MAX_PARTITIONS_PER_BATCH;
use tallyhouse_sql::native::{self, Column, Ends, Field};

use super::cells::Cells;
use crate::limits::BatchLimits;

const HOUR_MS: i64 = 3_600_000;

const WEEK_MS: i64 = 7 * DAY_MS;

/// 1970 began on a Thursday: so long after a Monday.
const MONDAY_MS: i64 = 3 * DAY_MS;

/// Where in Kafka an event was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

/// Cells of a batch, as they are counted: about 302,000. Of 850,000 ClickHouse made an insert of 5 GB.
const MAX_CELLS: usize = 262_144;

/// Rows of a batch before they are summed up: one for the total of each event and one for each set of dimensions.
const MAX_COUNTED: usize = 1 << 20;

/// A batch being filled. The columns are those of `sql/migrations/0107_events_in.sql`; the two of Kafka are left to their
/// defaults when no event has a source.
#[derive(Debug, Default)]
pub struct Builder {
    rows: usize,
    project_id: Column,
    texts: [Column; TEXTS],
    ts: Column,
    value_is_null: Column,
    value: Column,
    user_hash: Column,
    props_ends: Ends,
    props_names: Column,
    props_values: Column,
    num_props_ends: Ends,
    num_props_names: Column,
    num_props_values: Column,
    dims_ends: Ends,
    dims_sets: Column,
    dims_values: Column,
    original_ts: Column,
    received_at: Column,
    flags: Column,
    retention_days: Column,
    source_partition: Column,
    source_offset: Column,
    counted: usize,
    cells: Cells,
    days: HashSet<DayChange>,
    /// The day that changed last, and its hour.
    latest: Option<(i64, DayChange)>,
    /// Of `events`: week, counted from 1970, and retention.
    partitions: HashSet<(i64, u16)>,
    latest_partition: Option<(i64, u16)>,
    /// When the first of its events was received.
    oldest_ms: Option<i64>,
    bytes: usize,
}

/// Events that were encoded, and what has to be known of them.
#[derive(Debug)]
pub struct Encoded {
    pub rows: usize,
    /// One Native block.
    pub chunks: Vec<Bytes>,
    /// The days that they fall on, and the hours of the newest ones.
    pub days: Vec<DayChange>,
    /// When the first of them was received, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

impl Builder {
    /// Appends an event.
    pub fn push(&mut self, project: &str, event: &Event<'_>) {
        self.rows += 1;
        self.oldest_ms = Some(self.oldest_ms.map_or(event.received_at, |oldest| oldest.min(event.received_at)));
        self.touch(project, event);
        self.touch_partition(event);
        self.counted += 1 + event.dims.len();
        self.cells.add(project, event);
        self.project_id.text(project);
        for (column, (_, text)) in self.texts.iter_mut().zip(event.texts()) {
            column.text(text);
        }
        self.ts.i64(event.ts);
        self.value_is_null.byte(u8::from(event.value.is_none()));
        self.value.f64(event.value.unwrap_or_default());
        self.user_hash.u64(event.user_hash);
        let (texts, numbers) = self.push_properties(event);
        self.push_dims(event);
        self.original_ts.i64(event.original_ts);
        self.received_at.i64(event.received_at);
        self.flags.u16(event.flags.bits());
        self.retention_days.u16(event.retention_days);
        self.bytes += approximate_bytes(project, event) + texts * 2 + numbers * 9;
    }

    /// Appends an event that was read from Kafka. A batch holds either such events or others.
    pub fn push_from(&mut self, source: Source, project: &str, event: &Event<'_>) {
        self.push(project, event);
        self.source_partition.i32(source.partition);
        self.source_offset.i64(source.offset);
        self.bytes += 12;
    }

    fn push_properties(&mut self, event: &Event<'_>) -> (usize, usize) {
        let (mut texts, mut numbers) = (0, 0);
        for property in &event.properties {
            match &property.value {
                PropertyValue::Text(text) => {
                    self.props_names.text(&property.name);
                    self.props_values.text(text);
                    self.bytes += property.name.len() + text.len();
                    texts += 1;
                }
                PropertyValue::Number(number) => {
                    self.num_props_names.text(&property.name);
                    self.num_props_values.f64(*number);
                    self.bytes += property.name.len();
                    numbers += 1;
                }
            }
        }
        self.props_ends.push(texts);
        self.num_props_ends.push(numbers);
        (texts, numbers)
    }

    fn push_dims(&mut self, event: &Event<'_>) {
        for dim in &event.dims {
            self.dims_sets.text(dim.set);
            self.dims_values.text(&dim.value);
            self.bytes += dim.set.len() + dim.value.len() + 2;
        }
        self.dims_ends.push(event.dims.len());
    }

    /// Most events fall on the hour of the one before.
    fn touch(&mut self, project: &str, event: &Event<'_>) {
        let hour = event.ts.div_euclid(HOUR_MS);
        if self.latest.as_ref().is_some_and(|latest| latest.0 == hour && latest.1.project == project) {
            return;
        }
        let changed = DayChange::of_event(project, event.ts, event.received_at);
        self.days.insert(changed.clone());
        self.latest = Some((hour, changed));
    }

    /// `PARTITION BY` of `sql/migrations/0103_events.sql`. The rollups have no more partitions.
    fn touch_partition(&mut self, event: &Event<'_>) {
        let partition = ((event.ts + MONDAY_MS).div_euclid(WEEK_MS), event.retention_days);
        if self.latest_partition.replace(partition) != Some(partition) {
            self.partitions.insert(partition);
        }
    }

    /// Whether it must be closed before another event. ClickHouse refuses a block of too many partitions for ever, and needs memory
    /// for each cell.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.rows >= limits.rows
            || self.counted >= MAX_COUNTED
            || self.cells.len() >= MAX_CELLS
            || self.bytes >= limits.bytes
            || self.partitions.len() >= MAX_PARTITIONS_PER_BATCH as usize
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Encoded size so far, within a few per cent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the events came to.
    pub fn finish(self) -> Encoded {
        let one = |name, kind, column| Field { name, kind, parts: vec![column] };
        let text = |name, column| one(name, "String", column);
        let time = |name, column| one(name, "DateTime64(3, 'UTC')", column);
        // The ids stand first, where whoever reads only them finds them.
        let mut fields = vec![text("project_id", self.project_id)];
        fields.extend(Event::TEXT_COLUMNS.into_iter().zip(self.texts).map(|(name, column)| text(name, column)));
        fields.extend([
            time("ts", self.ts),
            Field { name: "value", kind: "Nullable(Float64)", parts: vec![self.value_is_null, self.value] },
            one("user_hash", "UInt64", self.user_hash),
            Field {
                name: "props",
                kind: "Map(String, String)",
                parts: vec![self.props_ends.into_column(), self.props_names, self.props_values],
            },
            Field {
                name: "num_props",
                kind: "Map(String, Float64)",
                parts: vec![self.num_props_ends.into_column(), self.num_props_names, self.num_props_values],
            },
            Field {
                name: "dims",
                kind: "Array(Tuple(String, String))",
                parts: vec![self.dims_ends.into_column(), self.dims_sets, self.dims_values],
            },
            time("original_ts", self.original_ts),
            time("received_at", self.received_at),
            one("flags", "UInt16", self.flags),
            one("retention_days", "UInt16", self.retention_days),
        ]);
        if !self.source_offset.is_empty() {
            fields.push(one("source_partition", "Int32", self.source_partition));
            fields.push(one("source_offset", "Int64", self.source_offset));
        }
        Encoded {
            rows: self.rows,
            chunks: native::block(self.rows, fields),
            days: self.days.into_iter().collect(),
            oldest_ms: self.oldest_ms,
        }
    }
}

/// Encoded size of the columns that every event has: fixed ones, one length byte a text, and the texts.
fn approximate_bytes(project: &str, event: &Event<'_>) -> usize {
    const FIXED: usize = 3 * 8 + 9 + 8 + 2 + 2 + 3 * 8;
    FIXED + 1 + project.len() + event.texts().iter().map(|(_, text)| 1 + text.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallyhouse_schema::event::Dim;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        rows: 1_000_000,
        bytes: 1 << 30,
        linger: Duration::ZERO,
        inserts: 1,
        insert_timeout: Duration::ZERO,
        refused_grace: Duration::ZERO,
    };

    /// 1970-01-05
    const MONDAY: i64 = 4 * DAY_MS;

    fn push(builder: &mut Builder, ts: i64, retention_days: u16) {
        builder.push("p", &Event { ts, retention_days, ..Event::default() });
    }

    #[test]
    fn a_batch_is_full_of_partitions() {
        let mut builder = Builder::default();
        for retention in 1..MAX_PARTITIONS_PER_BATCH as u16 {
            // One week, and its first and last instant.
            for ts in [MONDAY, MONDAY + WEEK_MS - 1, MONDAY] {
                push(&mut builder, ts, retention);
            }
        }
        assert!(!builder.is_full(LIMITS), "{:?}", builder.partitions.len());
        push(&mut builder, MONDAY - 1, 1);
        assert!(builder.is_full(LIMITS), "another week");
    }

    #[test]
    fn a_batch_of_many_dimensions_has_fewer_events() {
        let rows = |value: fn(usize) -> String| {
            let mut builder = Builder::default();
            while !builder.is_full(BatchLimits { rows: usize::MAX, ..LIMITS }) {
                let dims = ["a", "b", "c"].map(|set| Dim { set, value: value(builder.rows()).into() }).into();
                builder.push("p", &Event { retention_days: 1, dims, ..Event::default() });
            }
            builder.rows()
        };
        assert_eq!(rows(|_| "v".to_owned()), MAX_COUNTED / 4);
        let of_many_values = rows(|row| row.to_string());
        assert!((99_000..103_000).contains(&of_many_values), "{of_many_values}");
    }

    #[test]
    fn a_batch_is_full_of_rows_or_bytes() {
        let mut builder = Builder::default();
        push(&mut builder, 1, 1);
        assert!(!builder.is_full(LIMITS));
        assert!(builder.is_full(BatchLimits { rows: 1, ..LIMITS }));
        assert!(builder.is_full(BatchLimits { bytes: 10, ..LIMITS }));
    }
}
