//! What a caller should know of a question that was answered all the same: `meta.warnings`.
//!
//! Warnings are collected for each request and are never part of a remembered answer: what is unknown now may be known in a second.

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
        /// As given, shortened.
        event_type: String,
        /// Known types that it may have been meant to be, best first.
        nearest: Vec<String>,
    },
    /// A filter's text is a number, but not written as a number is counted.
    NumberAsText {
        /// As given, shortened.
        given: String,
        /// How that number is counted.
        counted: String,
    },
}

impl Warning {
    /// Those about numbers in filters.
    pub fn of_numbers(numbers: BTreeMap<String, String>) -> impl Iterator<Item = Self> {
        let warning = |(given, counted): (String, _)| Self::NumberAsText { given: quoted(&given), counted };
        numbers.into_iter().take(MOST_NUMBERS).map(warning)
    }

    /// Stable, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownEventType { .. } => "unknown_event_type",
            Self::NumberAsText { .. } => "number_as_text",
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
