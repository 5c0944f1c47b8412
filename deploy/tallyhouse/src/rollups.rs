//! Runs `tallyhouse rollups`, and prints the result as a table or as JSON.

use std::fmt;

use serde_json::json;
use tallyhouse_control::schemas::Catalogues;
use tallyhouse_schema::Rollup;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::rollups::rebuild::ChangedDay;
use tallyhouse_sql::rollups::stats::{self, Stats, by_row};
use tallyhouse_sql::rollups::verify::{self, Audit, PAUSE, Report};
use tallyhouse_sql::rollups::{RollupsError, Selection, gate};

use crate::backfill::{self, Uncounted};
use crate::dlq::printable;
use crate::invalidation::Invalidator;

const DAY: i64 = 86_400;

/// The last seven days and what is dated ahead of them, unless something else is asked for.
pub fn selection(project: Option<String>, from: Option<i64>, to: Option<i64>, table: Option<&str>) -> Selection {
    let now = now_ms().div_euclid(1_000);
    let tables = match table {
        Some("1m") => vec![Rollup::Minute],
        Some("1h") => vec![Rollup::Hour],
        Some("1d") => vec![Rollup::Day],
        _ => vec![Rollup::Minute, Rollup::Hour, Rollup::Day],
    };
    Selection { project, from: from.unwrap_or(now - 7 * DAY), to: to.unwrap_or(now + DAY), tables, days: None }
}

/// Invalidates the days that a rebuild changed.
pub async fn invalidate(invalidator: &mut Invalidator, days: Vec<ChangedDay>) {
    let changes = |ChangedDay { project_id: project, day }| DayChange::day(project, day);
    invalidator.invalidate_all(days.into_iter().map(changes)).await;
}

/// What a verification found, of which some is printed.
#[derive(Debug)]
pub struct Findings {
    report: Report,
    audit: Audit,
    uncounted: Vec<Uncounted>,
    limit: usize,
}

/// Compares the rollups with raw, and looks for what raw holds twice and for what is not counted under a set that its type declares.
pub async fn verify(
    client: &Client,
    catalogues: &Catalogues,
    selection: &Selection,
    limit: usize,
) -> Result<Findings, RollupsError> {
    gate::open_left_behind(client).await?;
    let report = verify::verify(client, selection, PAUSE).await?;
    let audit = verify::audit(client, selection, limit).await?;
    let uncounted = backfill::uncounted(client, catalogues, selection).await?;
    Ok(Findings { report, audit, uncounted, limit })
}

impl Findings {
    /// Whether everything is counted once, as far as it stands still.
    pub fn is_equal(&self) -> bool {
        self.report.drifts.is_empty() && self.audit.is_clean() && self.uncounted.is_empty()
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        let shown: Vec<_> = self.report.drifts.iter().take(self.limit).collect();
        let value = json!({
            "equal": self.is_equal(), "drifting": self.report.drifts.len(), "moving": self.report.moving,
            "truncated": self.report.is_truncated, "drifts": shown, "audit": self.audit, "uncounted": self.uncounted,
        });
        format!("{value}\n")
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, audit, uncounted, limit } = self;
        if !report.drifts.is_empty() {
            writeln!(
                f,
                "{:<20} {:<10} {:<12} {:<20} {:>28} {:>28}",
                "project", "table", "dimensions", "from", "expected events/values/sum", "found"
            )?;
        }
        for drift in report.drifts.iter().take(*limit) {
            let cell = &drift.cell;
            let expected =
                format!("{}/{}/{}", cell.expected_events, cell.expected_value_count, cell.expected_value_sum);
            let mut found = format!("{}/{}/{}", cell.found_events, cell.found_value_count, cell.found_value_sum);
            if found == expected {
                found.push_str(" (counted under other keys, or other extremes)");
            }
            let set = if cell.dim_set.is_empty() { "(total)" } else { &cell.dim_set };
            writeln!(
                f,
                "{:<20} {:<10} {set:<12} {:<20} {expected:>28} {found:>28}",
                cell.project_id, drift.table, cell.starts
            )?;
        }
        let more = if report.is_truncated { ", and there may be more" } else { "" };
        writeln!(f, "{} cells differ{more}; {} are still moving", report.drifts.len(), report.moving)?;
        for Uncounted { project_id, event_type, dim_set, events, first, last } in uncounted {
            writeln!(
                f,
                "{project_id}: {events} {event_type} events from {first} to {last} are not counted under {dim_set}, which was declared \
                 after them: `tallyhouse rollups backfill`"
            )?;
        }
        for source in &audit.sources {
            writeln!(
                f,
                "{} partition {}: {} offsets, {} repeated; {} between them are not in raw here (duplicates, dead letters, other projects, other days)",
                source.project_id, source.partition, source.offsets, source.repeated, source.missing
            )?;
        }
        writeln!(f, "{} ids are in raw more than once within a day", audit.repeated_ids)?;
        audit.examples.iter().try_for_each(|example| writeln!(f, "  {}", printable(example)))
    }
}

/// Series that save little, the largest of each table.
const WEAK_SERIES: usize = 5;

/// How much smaller rollups are than what they count.
#[derive(Debug)]
pub struct Reduction(Stats);

/// Looks at one project, or at all.
pub async fn stats(client: &Client, project: Option<&str>) -> Result<Reduction, RollupsError> {
    Ok(Reduction(stats::stats(client, project, WEAK_SERIES).await?))
}

impl Reduction {
    /// One object on one line.
    pub fn json(&self) -> String {
        let Stats { rollups, tables, weak } = &self.0;
        let rollups: Vec<_> = rollups
            .iter()
            .map(|size| {
                json!({
                    "project_id": size.project_id, "rollup": size.rollup, "events": size.events, "rows": size.rows,
                    "events_by_row": size.reduction(), "total_rows": size.total_rows,
                    "events_by_total_row": size.reduction_of_totals(),
                })
            })
            .collect();
        format!("{}\n", json!({ "rollups": rollups, "tables": tables, "weak": weak }))
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { rollups, tables, weak } = &self.0;
        writeln!(
            f,
            "{:<20} {:<20} {:>14} {:>14} {:>12} {:>24}",
            "project", "rollup", "events", "rows", "events/row", "without dimensions"
        )?;
        for size in rollups {
            writeln!(
                f,
                "{:<20} {:<20} {:>14} {:>14} {:>12.1} {:>24.1}",
                size.project_id,
                size.rollup,
                size.events,
                size.rows,
                size.reduction(),
                size.reduction_of_totals()
            )?;
        }
        writeln!(f, "\n{:<41} {:>14} {:>14} {:>12}", "table (all projects)", "bytes", "rows", "bytes/row")?;
        for table in tables {
            let a_row = by_row(table.bytes, table.rows);
            writeln!(f, "{:<41} {:>14} {:>14} {a_row:>12.1}", table.name, table.bytes, table.rows)?;
        }
        if !weak.is_empty() {
            writeln!(
                f,
                "\nseries that make little smaller: those of at least 1,000 rows and less than 10 events a row"
            )?;
        }
        for series in weak {
            let kind = if series.event_type.is_empty() { "(every type)" } else { &series.event_type };
            let set = if series.dim_set.is_empty() { "(total)" } else { &series.dim_set };
            writeln!(
                f,
                "{:<20} {:<20} {:>14} {:>14} {:>12.1}   {kind} by {set}",
                series.project_id,
                series.rollup,
                series.events,
                series.rows,
                by_row(series.events, series.rows)
            )?;
        }
        Ok(())
    }
}
