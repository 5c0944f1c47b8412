//! Warnings about a question that is answered all the same: `meta.warnings`.
//!
//! Warnings are collected for each request and are never part of a cached answer: what is unknown now may be known a second later.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::request::error::{did_you_mean, quoted};

/// Warnings about numbers in one answer at most.
const MOST_NUMBERS: usize = 10;

/// Something in the question that was understood but is probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The project never had an event of this type.
    UnknownEventType {
        /// The name in the question, cut to what a message repeats.
        event_type: String,
        /// Known types that it may have been meant to be, best first.
        nearest: Vec<String>,
    },
    /// A filter's text is a number, but not written as a number is counted.
    NumberAsText {
        /// The text in the filter, cut to what a message repeats.
        given: String,
        /// How that number is counted.
        counted: String,
    },
    /// Events of the range that the rows which answered do not hold: a dimension was declared after them.
    NotRolledUpThen {
        /// The set of dimensions; `None` for quarters of an hour.
        dimensions: Option<String>,
        /// The types whose events are missing; empty for all.
        event_types: Vec<String>,
        /// Events of the UTC days of the range that are not in the answer.
        missing_events: u64,
        /// From a UTC date to before another.
        gaps: Vec<(String, String)>,
    },
    /// It could not be told whether there are such events.
    CoverageUnknown {
        /// The set of dimensions; `None` for quarters of an hour.
        dimensions: Option<String>,
        /// The types asked about; empty for all.
        event_types: Vec<String>,
    },
}

/// What a coverage is about, in words.
fn rows(dimensions: Option<&str>, event_types: &[String]) -> String {
    match dimensions {
        Some(dimensions) => format!("`{}` events by {dimensions}", event_types.join("`, `")),
        None => "quarters of an hour".to_owned(),
    }
}

impl Warning {
    /// Those about numbers in filters.
    pub fn of_numbers(numbers: BTreeMap<String, String>) -> impl Iterator<Item = Self> {
        let warning = |(given, counted): (String, _)| Self::NumberAsText { given: quoted(&given), counted };
        numbers.into_iter().take(MOST_NUMBERS).map(warning)
    }

    /// The `code` in `meta.warnings`: programs compare it, so it never changes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownEventType { .. } => "unknown_event_type",
            Self::NumberAsText { .. } => "number_as_text",
            Self::NotRolledUpThen { .. } => "not_rolled_up_then",
            Self::CoverageUnknown { .. } => "coverage_unknown",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEventType { event_type, nearest } => {
                write!(f, "no event of type `{event_type}` was ever counted{}", did_you_mean(nearest))
            }
            Self::NumberAsText { given, counted } => {
                write!(f, "the filter finds only the text `{given}`; the number is counted as `{counted}`")
            }
            Self::NotRolledUpThen { dimensions, event_types, missing_events, gaps } => {
                let gaps: Vec<_> = gaps.iter().map(|(from, to)| format!("{from} to {to}")).collect();
                write!(
                    f,
                    "{missing_events} events on UTC days of this range are not in the answer: {} were not rolled up then ({}; the \
                     second day not included); `tallyhouse rollups backfill` counts what raw events still hold",
                    rows(dimensions.as_deref(), event_types),
                    gaps.join(", ")
                )
            }
            Self::CoverageUnknown { dimensions, event_types } => write!(
                f,
                "it could not be looked up since when {} are rolled up: events before may be missing",
                rows(dimensions.as_deref(), event_types)
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", self.code())?;
        map.serialize_entry("message", &self.to_string())?;
        match self {
            Self::UnknownEventType { event_type, nearest } => {
                map.serialize_entry("event_type", event_type)?;
                map.serialize_entry("nearest", nearest)?;
            }
            Self::NumberAsText { given, counted } => {
                map.serialize_entry("given", given)?;
                map.serialize_entry("counted", counted)?;
            }
            Self::NotRolledUpThen { dimensions, event_types, missing_events, gaps } => {
                map.serialize_entry("dimensions", dimensions)?;
                map.serialize_entry("event_types", event_types)?;
                map.serialize_entry("missing_events", missing_events)?;
                map.serialize_entry("gaps", gaps)?;
            }
            Self::CoverageUnknown { dimensions, event_types } => {
                map.serialize_entry("dimensions", dimensions)?;
                map.serialize_entry("event_types", event_types)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_has_a_code_a_message_and_what_it_is_about() {
        let warning = Warning::UnknownEventType { event_type: "sgnup".into(), nearest: vec!["signup".into()] };
        assert_eq!(
            serde_json::to_value(warning).unwrap(),
            serde_json::json!({"code": "unknown_event_type", "event_type": "sgnup", "nearest": ["signup"],
                "message": "no event of type `sgnup` was ever counted; did you mean signup?"})
        );
    }
}
