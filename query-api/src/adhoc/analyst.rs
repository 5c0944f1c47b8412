//! The ClickHouse client of analysts: the user `analyst`, bound to one project for each statement.

use bytes::Bytes;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::clickhouse::query::BytesCursor;
use tallyhouse_sql::connection::EVERYTHING;
use tallyhouse_sql::{Connection, StoreError};

use super::DEADLINE;
use super::PROJECT_HEADER;
use super::sql_api::SqlRequest;
use crate::authorize::Scope;

/// Stands for the project in the user's name, where a cluster has a user for each project.
pub const PROJECT: &str = "{project}";

/// The longest that a statement may take: ClickHouse's own limit, and a little for it to say so.
const TIMEOUT: std::time::Duration = DEADLINE.saturating_add(std::time::Duration::from_secs(2));

/// The user for SQL of others. Clones share its connections.
#[derive(Clone)]
pub struct Analyst {
    client: Client,
    user: String,
}

/// That user, bound to a project.
pub struct Bound {
    client: Client,
    project: String,
}

/// A complete answer that waits in ClickHouse.
pub struct Complete {
    /// Its first bytes.
    pub first: Option<Bytes>,
    pub cursor: BytesCursor,
}

impl Analyst {
    /// `connection.user` may contain `{project}`.
    pub fn new(connection: &Connection, is_cluster: bool) -> Self {
        let client = if is_cluster { connection.server().with_database(EVERYTHING) } else { connection.client() };
        Self { client, user: connection.user.clone() }
    }

    /// The user for one project; `None` when the project cannot be compared as it is: a header loses spaces at its ends and
    /// cannot hold everything.
    pub fn bound(&self, scope: &Scope) -> Option<Bound> {
        let project = scope.project();
        if !ProjectName::is_valid(project) {
            tracing::error!(project, "the project's name cannot be a header");
            return None;
        }
        let client = self.client.clone().with_user(self.user.replace(PROJECT, project));
        Some(Bound { client: client.with_header(PROJECT_HEADER, project), project: project.to_owned() })
    }
}

impl Bound {
    /// What a statement is sent, and stopped, with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a statement. `wait_end_of_query`: nothing comes before everything is there, so an error is never half an answer,
    /// and a client that reads slowly holds no query.
    pub async fn ask(&self, ask: &SqlRequest, query_id: &str) -> Result<Complete, StoreError> {
        let query = self
            .client
            // `query_raw`: a question mark in the statement is the caller's.
            .query_raw(&ask.sql)
            .with_setting("quota_key", &self.project)
            .with_setting("query_id", query_id)
            .with_setting("wait_end_of_query", "1");
        let query = ask.params.iter().fold(query, |query, (name, value)| query.param(name, value));
        let settings = ask.int64.unwrap_or_default().settings(ask.format);
        let query = settings.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value));
        let mut cursor = query.fetch_bytes(ask.format.clickhouse())?;
        let first = tokio::time::timeout(TIMEOUT, cursor.next()).await.map_err(|_| StoreError::TimedOut)??;
        Ok(Complete { first, cursor })
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_testkit::project_names::{NAMES, NO_NAMES};

    use super::*;

    #[test]
    fn only_a_plain_project_is_bound() {
        let connection = Connection { url: String::new(), user: "analyst".into(), password: String::new(), tls: None };
        let is_bound = |project| Analyst::new(&connection, false).bound(&Scope::for_test(project)).is_some();
        for name in NAMES {
            assert!(is_bound(name), "{name:?}");
        }
        for bad in NO_NAMES {
            assert!(!is_bound(bad), "{bad:?}");
        }
    }
}
