//! The event types of a project as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use tallyhouse_schema::Rollup;

use crate::cache::Rendered;
use crate::plan::event_types::{Declared, EventTypesPlan, SAMPLED_TYPES};
use crate::plan::newest::Newest;
use crate::render::meta::About;
use crate::render::{assemble, json as piece};
use crate::sql::{EventTypeRow, SampledKind, SampledRow};

/// A type as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    event_type: &'a str,
    events: u64,
    first_seen: String,
    last_seen: String,
    #[serde(flatten)]
    declared: &'a Declared,
    sampled_events: Option<u64>,
    properties: Option<Vec<Property<'a>>>,
}

/// A property of the events of a sample.
#[derive(Debug, Serialize)]
struct Property<'a> {
    name: &'a str,
    kind: Kind,
    events: u64,
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    Number,
    Mixed,
}

/// The rows that an answer is made of.
#[derive(Debug, Default)]
pub struct EventTypeRows {
    /// The types, those with most events first; one more than the limit when there are more.
    pub types: Vec<EventTypeRow>,
    /// The properties of the first of them; `None` when none were asked for.
    pub sampled: Option<Vec<SampledRow>>,
    /// The newest event of any type.
    pub newest: Option<Newest>,
}

/// The answer as JSON; `generated_s` is the present in seconds.
pub fn render(plan: &EventTypesPlan, found: &EventTypeRows, generated_s: i64) -> Rendered {
    let limit = plan.limit as usize;
    let shown: Vec<Shown<'_>> =
        found.types.iter().take(limit).enumerate().map(|(place, row)| one(plan, found, place, row)).collect();
    let tables = [Some(Rollup::Hour.table()), found.sampled.as_ref().map(|_| "events")];
    let about = About {
        tables: tables.into_iter().flatten().collect(),
        zone: &plan.zone,
        from: plan.from,
        to: plan.to,
        newest: found.newest,
        errors: Vec::new(),
        overflowed: Vec::new(),
        generated_s,
    };
    // What was left out, and how much the properties are worth.
    let own = json!({
        "truncated": found.types.len() > limit,
        "sample": found.sampled.as_ref().map(|_| json!({
            "fields": ["properties", "sampled_events"],
            "events_per_type": plan.sampled,
            "types": SAMPLED_TYPES,
        })),
    });
    assemble(&piece::text(&json!({ "event_types": shown })), &about, &own)
}

fn one<'a>(plan: &'a EventTypesPlan, found: &'a EventTypeRows, place: usize, row: &'a EventTypeRow) -> Shown<'a> {
    let sampled = found.sampled.as_ref().filter(|_| place < SAMPLED_TYPES);
    let own = |rows: &'a Vec<SampledRow>| rows.iter().filter(move |row| row.place as usize == place);
    let is_event = |row: &&SampledRow| row.kind == SampledKind::EVENT;
    let events = sampled.map(|rows| own(rows).filter(is_event).map(|row| row.events).sum());
    Shown {
        event_type: &row.event_type,
        events: row.events,
        first_seen: plan.zone.rfc3339(row.first_day),
        last_seen: plan.zone.rfc3339(row.newest_day),
        declared: plan.declared.get(&row.event_type).unwrap_or(&plan.undeclared),
        sampled_events: events,
        properties: sampled.map(|rows| properties(own(rows).filter(|row| !is_event(row)), events.unwrap_or_default())),
    }
}

fn properties<'a>(rows: impl Iterator<Item = &'a SampledRow>, sampled: u64) -> Vec<Property<'a>> {
    let mut by_name: BTreeMap<&str, (Kind, u64)> = BTreeMap::new();
    for row in rows {
        let kind = if row.kind == SampledKind::NUMBER { Kind::Number } else { Kind::Text };
        let known = by_name.entry(&row.name).or_insert((kind, 0));
        *known = (if known.0 == kind { kind } else { Kind::Mixed }, known.1 + row.events);
    }
    let share = |events: u64| (events as f64 / sampled.max(1) as f64 * 1e4).round() / 1e4;
    let mut properties: Vec<_> = by_name
        .into_iter()
        .map(|(name, (kind, events))| Property { name, kind, events, share: share(events) })
        .collect();
    properties.sort_by(|one, other| other.events.cmp(&one.events).then(one.name.cmp(other.name)));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: u8, name: &str, events: u64) -> SampledRow {
        SampledRow { place: 0, kind, name: name.to_owned(), events }
    }

    #[test]
    fn a_property_of_both_kinds_is_mixed_and_the_frequent_ones_come_first() {
        let rows = [
            row(SampledKind::TEXT, "plan", 1),
            row(SampledKind::TEXT, "amount", 1),
            row(SampledKind::NUMBER, "amount", 2),
        ];
        let shown = serde_json::to_value(properties(rows.iter(), 3)).unwrap();
        assert_eq!(
            shown,
            json!([{"name": "amount", "kind": "mixed", "events": 3, "share": 1.0},
                   {"name": "plan", "kind": "text", "events": 1, "share": 0.3333}])
        );
    }
}
