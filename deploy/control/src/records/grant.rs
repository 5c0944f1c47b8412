//! Accounts of people's tools in ClickHouse. Of a password only SHA-256 is kept.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tallyhouse_service::access::rights::UnknownName;

use super::Document;
use crate::kind::Kind;

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// Grafana's ClickHouse datasource.
    Grafana,
    /// Tools that only read: Metabase, Superset, Cube, and the like.
    Bi,
    /// dbt, which has a database of its own.
    Dbt,
}

impl Tool {
    pub const ALL: [Self; 3] = [Self::Grafana, Self::Bi, Self::Dbt];

    /// As commands and documents spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grafana => "grafana",
            Self::Bi => "bi",
            Self::Dbt => "dbt",
        }
    }
}

impl FromStr for Tool {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = || UnknownName { found: text.to_owned(), known: "grafana, bi, dbt" };
        Self::ALL.into_iter().find(|tool| tool.name() == text).ok_or_else(found)
    }
}

/// An account. Its name is that of the user in ClickHouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantDocument {
    pub tool: Tool,
    /// 64 hexadecimal digits.
    pub password_sha256: String,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// When it got another password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_ms: Option<i64>,
    /// Since when nobody comes in with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_ms: Option<i64>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Document for GrantDocument {
    const KIND: Kind = Kind::Grant;
}
