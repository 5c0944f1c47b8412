//! The settings of a project.
//!
//! One JSON document per project; whatever is left out has the default of the installation:
//!
//! ```json
//! {"project": "shop", "lateWindowDays": 30, "retentionDays": 365, "dimensionValues": 5000,
//!  "priority": "high", "deadLetters": true, "ownTopic": true}
//! ```

use serde::Deserialize;

/// Who is refused first when more arrives than can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
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
    #[error("`project` must be 1 to 64 letters, digits, `_`, `.` or `-`")]
    Name,
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

/// The most distinct values that a project may ask for: beyond, rollups are no smaller than the events.
pub const MAX_DIMENSION_VALUES: u32 = 100_000;

impl ProjectSettings {
    /// Reads a document; what it leaves out is as in `defaults`. Gives the project's name too.
    pub fn read(text: &str, defaults: &Self, max_retention_days: u32) -> Result<(String, Self), SettingsError> {
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
        if !is_valid_project(&document.project) {
            return Err(SettingsError::Name);
        }
        Ok((document.project, settings))
    }
}

fn within(field: &'static str, found: u32, most: u32) -> Result<(), SettingsError> {
    if (1..=most).contains(&found) { Ok(()) } else { Err(SettingsError::OutOfBounds { field, found, least: 1, most }) }
}

fn is_valid_project(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
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
        assert_eq!(read(r#"{"project":"shop"}"#), ("shop".to_owned(), DEFAULTS));
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
            (r#"{"project":"a b"}"#, "`project` must be"),
            (r#"{"project":"a","retentionDays":1471}"#, "`retentionDays` is 1471, and must be within 1 to 1470"),
            (r#"{"project":"a","dimensionValues":0}"#, "`dimensionValues` is 0"),
        ] {
            let error = ProjectSettings::read(text, &DEFAULTS, 1_470).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
