//! Definitions in ClickHouse. A version is inserted with a token of its own (`claim`) and then read back: the writer that finds
//! its own token has won.

use std::time::Duration;

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::{Connection, StoreError};
use ulid::Ulid;

use super::document::Proposal;
use crate::sql;

/// The longest that ClickHouse may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where definitions are kept.
#[derive(Clone)]
pub struct Definitions {
    reader: Client,
    /// `None` where the service was given no user that may write: then metrics cannot be registered here.
    writer: Option<Client>,
}

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

/// A definition as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
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
        Self { reader: reader.client(), writer: writer.map(Connection::client) }
    }

    /// The versions in force, of all projects.
    pub async fn read(&self) -> Result<Vec<Stored>, RegisterError> {
        within(self.reader.query(sql::METRICS).fetch_all::<Stored>()).await
    }

    /// Writes the next version. Returns its number.
    pub async fn register(&self, project: &str, key_id: &str, proposal: &Proposal) -> Result<u32, RegisterError> {
        let writer = self.writer.as_ref().ok_or(RegisterError::NotConfigured)?;
        let in_force = self.in_force(writer, project, &proposal.name).await?;
        if in_force != proposal.replaces {
            return Err(RegisterError::Conflict { in_force });
        }
        let (version, claim) = (in_force + 1, Ulid::generate().to_string());
        let insert = writer
            .query(sql::REGISTER)
            .param("project", project)
            .param("name", &proposal.name)
            .param("version", version)
            .param("document", proposal.document.to_string())
            .param("claim", &claim)
            .param("created_by", key_id)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("deduplicate_insert", "enable")
            // By itself a SELECT is not taken for the same as another one, whatever its token.
            .with_setting("deduplicate_insert_select", "force_enable")
            .with_setting("insert_deduplication_token", format!("metric/{project}/{}/{version}", proposal.name));
        within(insert.execute()).await?;
        let winner = writer
            .query(sql::WINNER)
            .param("project", project)
            .param("name", &proposal.name)
            .param("version", version)
            .fetch_one::<String>();
        if within(winner).await? == claim { Ok(version) } else { Err(RegisterError::Conflict { in_force: version }) }
    }

    async fn in_force(&self, writer: &Client, project: &str, name: &str) -> Result<u32, RegisterError> {
        within(writer.query(sql::IN_FORCE).param("project", project).param("name", name).fetch_one::<u32>()).await
    }
}

async fn within<T>(call: impl Future<Output = Result<T, clickhouse::error::Error>>) -> Result<T, RegisterError> {
    let error = match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => StoreError::from(error),
        Err(_) => StoreError::TimedOut,
    };
    tracing::warn!(%error, "metric definitions");
    Err(RegisterError::Unavailable)
}
