//! Definitions in the control plane: records of the kind `metric`, created by compare-and-set.

use tallyhouse_control::{Control, ControlError, Kind, New};

use super::document::Proposal;

/// Why a metric was not registered.
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

/// Writes the next version. Returns its number.
pub async fn register(control: &Control, project: &str, by: &str, proposal: &Proposal) -> Result<u32, RegisterError> {
    let store = control.store().ok_or(RegisterError::NotConfigured)?;
    let document = proposal.document.to_string();
    let (kind, replaces) = (Kind::Metric, proposal.replaces);
    let new = New { kind, project, name: &proposal.name, replaces, document: &document, by };
    Ok(store.create(&new).await?)
}
