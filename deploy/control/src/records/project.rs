//! Projects.

use serde::{Deserialize, Serialize};
use tallyhouse_schema::project::Priority;
use tallyhouse_service::rate_limit::{self, LimitsOf};
use tallyhouse_sql::{hex, unhex};

use super::Document;
use crate::kind::Kind;

/// How much a project may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Free,
    #[default]
    Standard,
    Enterprise,
}

/// A project. What is left out is as its file in `TALLYHOUSE_PROJECTS` says, else as the installation says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectDocument {
    /// It takes and answers nothing any more.
    #[serde(skip_serializing_if = "is_false")]
    pub deleted: bool,
    pub tier: Tier,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_window_days: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimension_values: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<bool>,
    /// Events a day, instead of the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_day: Option<u64>,
    /// Events at once, instead of the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_burst: Option<u64>,
    /// Questions a minute of each key or person, instead of the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries_per_minute: Option<u64>,
    /// The random part of the key under which its people are hashed, in hexadecimal: [`crate::privacy::hash_key`]. None: a project from
    /// before, which uses the installation's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key_part: Option<String>,
}

impl ProjectDocument {
    /// What its keys and people may do.
    pub fn limits(&self) -> LimitsOf {
        let tier = match self.tier {
            Tier::Free => rate_limit::Tier::Free,
            Tier::Standard => rate_limit::Tier::Standard,
            Tier::Enterprise => rate_limit::Tier::Enterprise,
        };
        let priority = limits_priority(self.priority.unwrap_or_default());
        LimitsOf::tier(tier)
            .with_events(self.events_per_day, self.events_burst)
            .with_queries(self.queries_per_minute)
            .with_priority(priority)
    }

    /// [`ProjectDocument::hash_key_part`] of a new project.
    pub fn new_hash_key_part() -> String {
        hex(&rand::random::<[u8; 16]>()).to_lowercase()
    }

    /// As bytes.
    pub fn key_part(&self) -> Option<Vec<u8>> {
        self.hash_key_part.as_deref().and_then(unhex)
    }
}

/// As limits know it.
pub const fn limits_priority(priority: Priority) -> rate_limit::Priority {
    match priority {
        Priority::Low => rate_limit::Priority::Low,
        Priority::Normal => rate_limit::Priority::Normal,
        Priority::High => rate_limit::Priority::High,
    }
}

impl Document for ProjectDocument {
    const KIND: Kind = Kind::Project;
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !*value
}
