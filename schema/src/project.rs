//! The name of a project, and its settings.
//!
//! One JSON document per project; whatever is left out has the default of the installation:
//!
//! ```json
//! {"project": "shop", "lateWindowDays": 30, "retentionDays": 365, "dimensionValues": 5000,
//!  "priority": "high", "deadLetters": true, "ownTopic": true}
//! ```

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a project: 1 to [`MAX_NAME`] letters, digits, `_`, `.` and `-`, of ASCII, beginning with a letter or a digit. Names are
/// compared exactly: `Shop` and `shop` are two projects.
///
/// Such a name can stand in a path, a header, a Kafka topic, a Redis message and a quoted SQL text as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(Arc<str>);

/// The longest name of a project: what it is part of, such as a topic, has room for more.
pub const MAX_NAME: usize = 64;

/// A text that is no project's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is not the name of a project: 1 to 64 letters, digits, `_`, `.` or `-`, of which the first is a letter or a digit"
)]
pub struct BadProjectName {
    /// What it is, shortened.
    pub found: String,
}

impl ProjectName {
    /// Whether a text is one.
    pub fn is_valid(text: &str) -> bool {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        (1..=MAX_NAME).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(is_inside)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, shared.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = BadProjectName;

    fn from_str(text: &str) -> Result<Self, BadProjectName> {
        let found = || text.chars().take(MAX_NAME).flat_map(char::escape_debug).collect();
        if Self::is_valid(text) { Ok(Self(text.into())) } else { Err(BadProjectName { found: found() }) }
    }
}

impl TryFrom<String> for ProjectName {
    type Error = BadProjectName;

    fn try_from(text: String) -> Result<Self, BadProjectName> {
        text.parse()
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> Self {
        name.as_str().to_owned()
    }
}

/// As a text: it is one with a promise.
impl Deref for ProjectName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ProjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is refused first when more arrives than can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// First.
    Low,
    /// After those with a low one.
    #[default]
    Normal,
    /// Last.
    High,
}

/// A project's settings, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSettings {
    /// Older events are refused without the scope `import`. Days.
    pub late_window_days: u16,
    /// How long raw events are kept. Days.
    pub retention_days: u16,
    /// Distinct values that a dimension may have within an hour; the rest is counted as [`crate::dimension::OTHER`].
    pub dimension_values: u32,
    /// Who is refused first.
    pub priority: Priority,
    /// Whether rejected events are kept, to be looked at and sent again.
    pub dead_letters: bool,
    /// Whether its events have a Kafka topic of their own.
    pub own_topic: bool,
}

/// A document, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    project: String,
    late_window_days: Option<u16>,
    retention_days: Option<u16>,
    dimension_values: Option<u32>,
    priority: Option<Priority>,
    dead_letters: Option<bool>,
    own_topic: Option<bool>,
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not JSON, or not of this shape.
    #[error("{0}")]
    Malformed(String),
    /// No project's name.
    #[error("`project`: {0}")]
    Name(#[from] BadProjectName),
    /// Outside its bounds.
    #[error("`{field}` is {found}, and must be within {least} to {most}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// What it is.
        found: u32,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
}

/// Weeks that events of a retention may lie in, the running ones at both ends included.
pub fn retention_weeks(retention_days: u16) -> u32 {
    u32::from(retention_days).div_ceil(7) + 2
}

/// The most distinct values that a project may ask for: beyond, rollups are no smaller than the events.
pub const MAX_DIMENSION_VALUES: u32 = 100_000;

impl ProjectSettings {
    /// Reads a document; what it leaves out is as in `defaults`. Gives the project's name too.
    pub fn read(text: &str, defaults: &Self, max_retention_days: u32) -> Result<(ProjectName, Self), SettingsError> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| SettingsError::Malformed(error.to_string()))?;
        let settings = Self {
            late_window_days: document.late_window_days.unwrap_or(defaults.late_window_days),
            retention_days: document.retention_days.unwrap_or(defaults.retention_days),
            dimension_values: document.dimension_values.unwrap_or(defaults.dimension_values),
            priority: document.priority.unwrap_or(defaults.priority),
            dead_letters: document.dead_letters.unwrap_or(defaults.dead_letters),
            own_topic: document.own_topic.unwrap_or(defaults.own_topic),
        };
        within("lateWindowDays", settings.late_window_days.into(), max_retention_days)?;
        within("retentionDays", settings.retention_days.into(), max_retention_days)?;
        within("dimensionValues", settings.dimension_values, MAX_DIMENSION_VALUES)?;
        Ok((document.project.parse()?, settings))
    }
}

fn within(field: &'static str, found: u32, most: u32) -> Result<(), SettingsError> {
    if (1..=most).contains(&found) { Ok(()) } else { Err(SettingsError::OutOfBounds { field, found, least: 1, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: ProjectSettings = ProjectSettings {
        late_window_days: 7,
        retention_days: 730,
        dimension_values: 1_000,
        priority: Priority::Normal,
        dead_letters: false,
        own_topic: false,
    };

    #[test]
    fn what_is_left_out_is_the_default() {
        let read = |text| ProjectSettings::read(text, &DEFAULTS, 1_470).unwrap();
        assert_eq!(read(r#"{"project":"shop"}"#), ("shop".parse().unwrap(), DEFAULTS));
        let all = r#"{"project":"shop","lateWindowDays":30,"retentionDays":365,"dimensionValues":5000,
            "priority":"high","deadLetters":true,"ownTopic":true}"#;
        let expected = ProjectSettings {
            late_window_days: 30,
            retention_days: 365,
            dimension_values: 5_000,
            priority: Priority::High,
            dead_letters: true,
            own_topic: true,
        };
        assert_eq!(read(all).1, expected);
    }

    #[test]
    fn faults_are_named() {
        for (text, expected) in [
            (r#"{"project":"a","retention":5}"#, "unknown field `retention`"),
            (r#"{"project":"a","priority":"urgent"}"#, "unknown variant `urgent`"),
            (r#"{"retentionDays":5}"#, "missing field `project`"),
            (r#"{"project":"a b"}"#, "`project`: `a b` is not the name of a project"),
            (r#"{"project":"a","retentionDays":1471}"#, "`retentionDays` is 1471, and must be within 1 to 1470"),
            (r#"{"project":"a","dimensionValues":0}"#, "`dimensionValues` is 0"),
        ] {
            let error = ProjectSettings::read(text, &DEFAULTS, 1_470).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    mod project_names {
        #![allow(dead_code, unreachable_pub, reason = "a part of another crate too")]
        include!("../../deploy/testkit/src/project_names.rs");
    }

    #[test]
    fn a_name_is_what_stands_anywhere_as_it_is() {
        for name in project_names::NAMES {
            assert_eq!(name.parse::<ProjectName>().unwrap().as_str(), name);
        }
        let distinct: std::collections::BTreeSet<ProjectName> =
            project_names::NAMES.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(distinct.len(), project_names::NAMES.len(), "upper and lower case are two projects");
        for name in project_names::NO_NAMES {
            let refused = name.parse::<ProjectName>().unwrap_err().to_string();
            assert!(!refused.contains(['\n', '\r', '\0', '\u{200b}']), "{refused:?}");
            assert!(serde_json::from_value::<ProjectName>(name.into()).is_err(), "{name:?}");
        }
    }
}
