//! What a caller should know of a question that was answered all the same: `meta.warnings`.
//!
//! Warnings are collected for each request and are never part of a remembered answer: what is unknown now may be known in a second.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::request::error::did_you_mean;

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
}

impl Warning {
    /// Stable, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownEventType { .. } => "unknown_event_type",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEventType { event_type, nearest } => {
                write!(f, "no event of type `{event_type}` was ever counted{}", did_you_mean(nearest))
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
