//! What may be done, by scope of a key and by role of a person.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One thing that may be done. Every route asks for exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Right {
    /// Send events.
    SendEvents = 1,
    /// Send events older than the late window; only together with [`Right::SendEvents`].
    ImportHistory = 1 << 1,
    /// Read metrics, dashboards, reports, streams and anomalies.
    ReadMetrics = 1 << 2,
    /// Export raw events.
    Export = 1 << 3,
    /// Run SQL statements of one's own.
    Sql = 1 << 4,
    /// Register metrics.
    ManageMetrics = 1 << 5,
    /// Register schemas of events.
    ManageSchemas = 1 << 6,
    /// Keys, grants, settings, erasures and exports of people, jobs and the audit log of a project.
    ManageProject = 1 << 7,
    /// Create and delete projects.
    ManageInstallation = 1 << 8,
}

impl Right {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::SendEvents,
        Self::ImportHistory,
        Self::ReadMetrics,
        Self::Export,
        Self::Sql,
        Self::ManageMetrics,
        Self::ManageSchemas,
        Self::ManageProject,
        Self::ManageInstallation,
    ];

    /// As answers and documents spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendEvents => "send_events",
            Self::ImportHistory => "import_history",
            Self::ReadMetrics => "read_metrics",
            Self::Export => "export",
            Self::Sql => "sql",
            Self::ManageMetrics => "manage_metrics",
            Self::ManageSchemas => "manage_schemas",
            Self::ManageProject => "manage_project",
            Self::ManageInstallation => "manage_installation",
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights(u16);

impl Rights {
    pub const NONE: Self = Self(0);

    pub const fn of(rights: &[Right]) -> Self {
        let (mut bits, mut rest) = (0, rights);
        while let [right, others @ ..] = rest {
            bits |= *right as u16;
            rest = others;
        }
        Self(bits)
    }

    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u16 != 0
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Right::ALL.iter().filter(|right| self.has(**right))).finish()
    }
}

/// What a key is for. A key has any number of them, or [`Scope::Browser`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Ingest,
    Import,
    Query,
    Export,
    Sql,
    Admin,
    /// Sends events from web pages of listed origins. It is in those pages, so everybody knows it.
    Browser,
}

impl Scope {
    pub const ALL: [Self; 7] =
        [Self::Ingest, Self::Import, Self::Query, Self::Export, Self::Sql, Self::Admin, Self::Browser];

    /// As commands and documents spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Import => "import",
            Self::Query => "query",
            Self::Export => "export",
            Self::Sql => "sql",
            Self::Admin => "admin",
            Self::Browser => "browser",
        }
    }

    /// What it permits.
    pub const fn rights(self) -> Rights {
        match self {
            Self::Ingest | Self::Browser => Rights::of(&[Right::SendEvents]),
            Self::Import => Rights::of(&[Right::SendEvents, Right::ImportHistory]),
            Self::Query => Rights::of(&[Right::ReadMetrics]),
            Self::Export => Rights::of(&[Right::Export]),
            Self::Sql => Rights::of(&[Right::Sql]),
            Self::Admin => Rights::of(&[Right::ManageMetrics, Right::ManageSchemas, Right::ManageProject]),
        }
    }
}

/// A name that is no scope or no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is none of {known}")]
pub struct UnknownName {
    pub found: String,
    pub known: &'static str,
}

impl FromStr for Scope {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let known = "ingest, import, query, export, sql, admin, browser";
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| UnknownName { found: text.to_owned(), known })
    }
}

/// What a person is in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Developer,
    Analyst,
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Developer, Self::Analyst, Self::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Analyst => "analyst",
            Self::Admin => "admin",
        }
    }

    /// What it permits. No role sends events: programs do, with keys.
    pub const fn rights(self) -> Rights {
        match self {
            Self::Viewer => Rights::of(&[Right::ReadMetrics]),
            Self::Developer => Rights::of(&[Right::ReadMetrics, Right::ManageMetrics, Right::ManageSchemas]),
            Self::Analyst => Rights::of(&[Right::ReadMetrics, Right::Export, Right::Sql, Right::ManageMetrics]),
            Self::Admin => Rights::of(&[
                Right::ReadMetrics,
                Right::Export,
                Right::Sql,
                Right::ManageMetrics,
                Right::ManageSchemas,
                Right::ManageProject,
            ]),
        }
    }
}

impl FromStr for Role {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let known = "viewer, developer, analyst, admin";
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownName { found: text.to_owned(), known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_permitted_that_is_not_given() {
        assert!(Right::ALL.iter().all(|right| !Rights::NONE.has(*right)));
        let query = Scope::Query.rights();
        assert_eq!(Right::ALL.iter().filter(|right| query.has(**right)).count(), 1);
        assert!(Scope::ALL.iter().all(|scope| !scope.rights().has(Right::ManageInstallation)));
        assert!(Role::ALL.iter().all(|role| !role.rights().has(Right::SendEvents)));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert!(Scope::ALL.iter().all(|scope| scope.name().parse() == Ok(*scope)));
        assert!(Role::ALL.iter().all(|role| role.name().parse() == Ok(*role)));
        let error = "Query".parse::<Scope>().unwrap_err().to_string();
        assert_eq!(error, "`Query` is none of ingest, import, query, export, sql, admin, browser");
    }
}
