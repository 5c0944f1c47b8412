//! ClickHouse as an analyst may use it: the user `analyst`, bound to one project for each statement.

use bytes::Bytes;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::clickhouse::query::BytesCursor;
use tallyhouse_sql::{Connection, StoreError};

use super::DEADLINE;
use super::PROJECT_HEADER;
use super::sql_api::SqlAsk;
use crate::authorize::Scope;

/// Stands for the project in the user's name, where a cluster has a user for each project.
const PROJECT: &str = "{project}";

/// The longest that a statement may take: ClickHouse's own limit, and a little for it to say so.
const PATIENCE: std::time::Duration = DEADLINE.saturating_add(std::time::Duration::from_secs(2));

/// The user for SQL of others. Clones share its connections.
#[derive(Clone)]
pub struct Analyst {
    client: Client,
    user: String,
}

/// A complete answer that waits in ClickHouse.
pub struct Complete {
    /// Its first bytes.
    pub first: Option<Bytes>,
    /// The rest.
    pub cursor: BytesCursor,
    /// Rows that ClickHouse read for it.
    pub rows_read: Option<u64>,
}

impl Analyst {
    /// `connection.user` may contain `{project}`.
    pub fn new(connection: &Connection) -> Self {
        Self { client: connection.client(), user: connection.user.clone() }
    }

    /// Runs a statement. `wait_end_of_query`: nothing comes before everything is there, so an error is never half an answer,
    /// and a client that reads slowly holds no query.
    pub async fn ask(&self, ask: &SqlAsk, scope: &Scope, query_id: &str) -> Result<Complete, StoreError> {
        let project = bound(scope)?;
        let client = self.client.clone().with_user(self.user.replace(PROJECT, project));
        let query = client
            .with_header(PROJECT_HEADER, project)
            // `query_raw`: a question mark in the statement is the caller's.
            .query_raw(&ask.sql)
            .with_setting("quota_key", project)
            .with_setting("query_id", query_id)
            .with_setting("wait_end_of_query", "1");
        let query = ask.params.iter().fold(query, |query, (name, value)| query.param(name, value));
        let mut cursor = query.fetch_bytes(ask.format.clickhouse())?;
        let first = tokio::time::timeout(PATIENCE, cursor.next()).await.map_err(|_| StoreError::TimedOut)??;
        let rows_read = cursor.summary().and_then(|summary| summary.read_rows());
        Ok(Complete { first, cursor, rows_read })
    }
}

/// The project, if it can be compared as it is: a header loses spaces at its ends and cannot hold everything.
fn bound(scope: &Scope) -> Result<&str, StoreError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let project = scope.project();
    if !project.is_empty() && project.bytes().all(is_plain) {
        return Ok(project);
    }
    Err(StoreError::Unintelligible("the project's name cannot be a header".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_project_is_bound() {
        assert!(bound(&Scope::for_test("a-1_b.c")).is_ok());
        for bad in ["", " a", "a b", "a\nX: y", "ä"] {
            assert!(bound(&Scope::for_test(bad)).is_err(), "{bad:?}");
        }
    }
}
