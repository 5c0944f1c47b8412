//! Retention: how many of the people who began in one day or week come back in those after it.
//!
//! ```json
//! {"kind": "retention", "date_range": "30d", "timezone": "Europe/Berlin", "unit": "week", "periods": 8,
//!  "cohort": {"event_type": "signup", "filters": [["is", "device", ["web"]]]}, "return": {"event_type": "purchase"}}
//! ```
//!
//! * **Cohort**: the day or week (Monday to Sunday) of the person's first cohort event *within the range*, on the calendar of
//!   the zone: days have 23 to 25 hours. Events before the range are not looked at
//!   (`"first_ever": false`). A range that reaches until now begins with the whole unit it begins in; of one that ends in the
//!   past, the first and the last unit may be cut, and their cohorts are marked `partial`.
//! * **Period** n is the n-th unit after the cohort's own, n from 0 to `periods`: period 0 is the rest of the cohort's own
//!   unit. Returns count also after the range, up to now.
//! * **Return**: a return event later than the person's cohort event, by at least a millisecond. Without `event_type` any
//!   event is one. A person counts once in a period.
//! * A period that has not begun is `null`, one that is not over is `partial`.
//! * **Average** of a period: returned people over all people, of the cohorts of which the period is over; `null` when there
//!   is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::body::JsonPart;
use super::filter_tree::{self, Tests, event_type_of};
use super::query::event_types_of;
use super::{BadRequest, Window, range, values};
use crate::condition::Condition;
use crate::time::{Granularity, Zone};

/// Units after a cohort's own that may be looked at: with weeks somewhat more than a year.
const PERIODS: std::ops::RangeInclusive<u64> = 1..=60;

const FIELDS: &[&str] = &["kind", "cohort", "return", "date_range", "timezone", "unit", "periods"];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// What makes a person part of a cohort.
    pub cohort: Condition,
    /// What counts as coming back.
    pub returns: Condition,
    /// The range that cohorts are of.
    pub range: Window,
    /// Whose calendar units follow.
    pub zone: Zone,
    /// How long a period is.
    pub unit: Unit,
    /// Periods after a cohort's own.
    pub periods: u32,
}

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A calendar day.
    Day,
    /// Monday to Sunday.
    Week,
}

impl Unit {
    const NAMES: [(&'static str, Self); 2] = [("day", Self::Day), ("week", Self::Week)];

    pub const fn granularity(self) -> Granularity {
        match self {
            Self::Day => Granularity::Day,
            Self::Week => Granularity::Week,
        }
    }
}

impl Retention {
    /// Reads a document whose `kind` is `retention`; `now_ms` is the present.
    pub fn parse(root: &JsonPart<'_>, now_ms: i64) -> Result<Self, BadRequest> {
        let fields = root.fields(FIELDS)?;
        let mut tests = Tests::of_document();
        let cohort = cohort(&fields.required("cohort")?, &mut tests)?;
        let returns = returns(&fields.required("return")?, &mut tests)?;
        let zone = values::zone_field(fields.get("timezone").as_ref())?;
        let periods = fields.required("periods")?.number(*PERIODS.start(), *PERIODS.end())?;
        Ok(Self {
            cohort,
            returns,
            range: range::parse(&fields.required("date_range")?, &zone, now_ms)?,
            zone,
            unit: unit(&fields.required("unit")?)?,
            periods: u32::try_from(periods).unwrap_or(u32::MAX),
        })
    }

    /// Every event type that the caller named.
    pub fn event_types(&self) -> BTreeSet<String> {
        event_types_of([&self.cohort, &self.returns])
    }

    /// Numbers among the values of filters that are not written as they are counted; and how they are.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        [&self.cohort, &self.returns].into_iter().flat_map(Condition::numbers_as_texts).collect()
    }
}

fn cohort(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let fields = part.fields(&["event_type", "filters"])?;
    let of_its_type = event_type_of(&fields.required("event_type")?, tests)?;
    Ok(of_its_type.and(filter_tree::parse_any(fields.get("filters").as_ref(), tests)?))
}

fn returns(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let fields = part.fields(&["event_type", "filters"])?;
    let of_its_type = fields.get("event_type").map(|part| event_type_of(&part, tests)).transpose()?;
    let filters = filter_tree::parse_any(fields.get("filters").as_ref(), tests)?;
    Ok(of_its_type.unwrap_or_else(Condition::always).and(filters))
}

fn unit(part: &JsonPart<'_>) -> Result<Unit, BadRequest> {
    let text = part.text()?;
    let found = Unit::NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, unit)| unit);
    found.ok_or_else(|| part.unknown("unit", Unit::NAMES.map(|(name, _)| name)))
}

/// A question of weeks, one field of which is written so.
#[cfg(test)]
pub(crate) fn with(field: &str, value: &str, now_ms: i64) -> Result<Retention, BadRequest> {
    let mut fields = BTreeMap::from([
        ("kind", r#""retention""#),
        ("cohort", r#"{"event_type":"a"}"#),
        ("return", "{}"),
        ("date_range", r#""7d""#),
        ("timezone", r#""Europe/Berlin""#),
        ("unit", r#""week""#),
        ("periods", "3"),
    ]);
    fields.insert(field, value);
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let document = super::body::parse(format!("{{{}}}", fields.join(",")).as_bytes())?;
    Retention::parse(&JsonPart::root(&document), now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:34:56.789Z, a Friday.
    const NOW: i64 = 1_795_178_096_789;

    #[test]
    fn tests_of_both_conditions_are_counted_together() {
        let list = |many: usize| format!(r#"["and",[{}]]"#, vec![r#"["is","a",["x"]]"#; many].join(","));
        let returns = |last| format!(r#"{{"filters":[{}]}}"#, [30, 30, 30, last].map(list).join(","));
        assert!(with("return", &returns(9), NOW).is_ok());
        let error = with("return", &returns(10), NOW).unwrap_err().to_string();
        assert!(error.starts_with("`return.filters[3][1][9]`: this test is one more than the 100"), "{error}");
    }

    #[test]
    fn errors_say_where_and_what_would_do() {
        for (field, value, expected) in [
            ("cohort", "{}", "`cohort.event_type`: it must be given"),
            ("cohort", r#"{"event_type":"a","filter":[]}"#, "`cohort.filter`: there is no such field"),
            ("return", "null", "`return`: it must be given"),
            ("return", r#"{"event_type":7}"#, "`return.event_type`: `7` is not a text"),
            ("unit", r#""month""#, "`unit`: there is no unit `month`; known: day, week"),
            ("periods", "0", "`periods`: `0` is not a whole number from 1 to 60"),
            ("periods", "61", "`periods`: `61` is not"),
            ("periods", "\"3\"", "`periods`: `3` is not a whole number"),
            ("window", "1", "`window`: there is no such field"),
        ] {
            let error = with(field, value, NOW).unwrap_err().to_string();
            assert!(error.contains(expected), "{field} {value}: {error}");
        }
    }
}
