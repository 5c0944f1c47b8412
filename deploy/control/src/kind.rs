//! What the control plane keeps.

use std::fmt;

/// The project of the canary: events that nobody's numbers hold. Nobody can make it.
pub const CANARY_PROJECT: &str = "tallyhouse-canary";

/// A kind of record. Each has a document of its own in [`crate::records`] or in the crate that works with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Project,
    Key,
    /// What events of a type look like.
    Schema,
    /// A metric that a project registered.
    Metric,
    /// An account of a person's tool in ClickHouse.
    Grant,
    /// Whose events are not taken any more.
    Suppression,
    /// Long work: erasures, exports, back-fills.
    Job,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Project, Self::Key, Self::Schema, Self::Metric, Self::Grant, Self::Suppression, Self::Job];

    /// As the table has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "key",
            Self::Schema => "schema",
            Self::Metric => "metric",
            Self::Grant => "grant",
            Self::Suppression => "suppression",
            Self::Job => "job",
        }
    }

    /// `None`: a newer version keeps something that this one does not know.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
