//! Definitions in the control plane: records of the kind `metric`, created by compare-and-set.

use tallyhouse_control::{ControlError, ControlStore, Kind, New};
use tallyhouse_sql::Connection;

use super::document::Proposal;

/// Where definitions are kept.
#[derive(Clone)]
pub struct Definitions(ControlStore);

/// Why a metric was not registered or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// No user that may write is configured.
    #[error("metrics cannot be registered here: set CLICKHOUSE_WRITER_USER and CLICKHOUSE_WRITER_PASSWORD")]
    NotConfigured,
    /// Another version is in force than the caller thinks.
    #[error("{}", conflict(*.in_force))]
    Conflict {
        /// The one in force; 0 when there is none.
        in_force: u32,
    },
    /// With every metric that it refers to written out.
    #[error("the metric has {found} bytes with those that it refers to; refer to fewer")]
    TooLarge { found: usize },
    /// ClickHouse. Details are in the log.
    #[error("the data store is not available at the moment; try again")]
    Unavailable,
}

fn conflict(in_force: u32) -> String {
    match in_force {
        0 => "there is no such metric to replace: leave `replaces` out".to_owned(),
        version => format!("version {version} is in force: read it, and send `\"replaces\": {version}` to replace it"),
    }
}

impl From<ControlError> for RegisterError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotConfigured => Self::NotConfigured,
            ControlError::Conflict { in_force } => Self::Conflict { in_force },
            ControlError::TooLarge { found } => Self::TooLarge { found },
            ControlError::Unavailable => Self::Unavailable,
        }
    }
}

/// A definition as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub project_id: String,
    pub name: String,
    /// The version in force.
    pub version: u32,
    /// JSON.
    pub document: String,
}

impl Definitions {
    /// Definitions of this ClickHouse.
    pub fn new(reader: &Connection, writer: Option<&Connection>) -> Self {
        Self(ControlStore::new(reader, writer))
    }

    /// The versions in force, of all projects.
    pub async fn read(&self) -> Result<Vec<Stored>, RegisterError> {
        let records = self.0.read_kind(Kind::Metric).await?;
        let stored = records.into_iter().map(|record| Stored {
            project_id: record.project.to_string(),
            name: record.name.to_string(),
            version: record.version,
            document: record.document,
        });
        Ok(stored.collect())
    }

    /// Writes the next version. Returns its number.
    pub async fn register(&self, project: &str, by: &str, proposal: &Proposal) -> Result<u32, RegisterError> {
        let document = proposal.document.to_string();
        let (kind, replaces) = (Kind::Metric, proposal.replaces);
        let new = New { kind, project, name: &proposal.name, replaces, document: &document, by };
        Ok(self.0.create(&new).await?)
    }
}
