//! The audit log: who changed what, when, with what result. Append-only; no secret is ever in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tallyhouse_sql::clickhouse::{self, Row};
use ulid::Ulid;

use crate::sql;
use crate::store::{ControlError, ControlStore, within};

/// Attempts to write a line: the operation is done, and cannot be taken back.
const ATTEMPTS: u32 = 3;

/// How long all of them may take: whoever asked is not told before.
const WITHIN: Duration = Duration::from_secs(5);

/// The longest name of a caller's choice, in characters.
const MAX_NAME: usize = 100;

/// The longest `details`.
const MAX_DETAILS: usize = 16 << 10;

/// What was done.
#[derive(Debug, Clone)]
pub struct Done<'a> {
    /// Empty for what belongs to the installation.
    pub project: &'a str,
    /// The id of a key, a user, or the command line.
    pub actor: &'a str,
    /// Such as `keys.create`.
    pub action: &'a str,
    /// What was worked on: the id of a key, the name of a project.
    pub object: &'a str,
    /// `done`, or the code of the refusal.
    pub result: &'a str,
    /// Never a secret.
    pub details: Value,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine {
    /// Orders lines by time; the next page begins before it.
    pub id: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Empty for what belongs to the installation.
    pub project: String,
    pub actor: String,
    pub action: String,
    pub object: String,
    pub result: String,
    pub details: Value,
}

#[derive(Row, Deserialize)]
struct Stored {
    id: String,
    at_ms: i64,
    project_id: String,
    actor: String,
    action: String,
    object: String,
    result: String,
    details: String,
}

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Of this project only; `Some("")`: of the installation. `None`: all.
    pub project: Option<String>,
    /// Older than the line of this id.
    pub before: Option<String>,
    pub limit: u32,
}

/// What a caller has named, at a length that a line may have.
pub(crate) fn cut(name: &str) -> &str {
    name.char_indices().nth(MAX_NAME).map_or(name, |(at, _)| name.get(..at).unwrap_or(name))
}

/// Writes a line. One that ClickHouse does not take is in the log of the process instead.
pub async fn write(store: &ControlStore, done: &Done<'_>) {
    let id = Ulid::generate().to_string();
    let attempts = async {
        for _ in 0..ATTEMPTS {
            if insert(store, &id, done).await.is_ok() {
                return true;
            }
        }
        false
    };
    // The answer waits for it.
    if tokio::time::timeout(WITHIN, attempts).await.unwrap_or(false) {
        return;
    }
    let Done { project, actor, action, object, result, details } = done;
    tracing::error!(project, actor, action, object, result, %details, "this was not written to the audit log");
}

async fn insert(store: &ControlStore, id: &str, done: &Done<'_>) -> Result<(), ControlError> {
    let mut details = done.details.to_string();
    if details.len() > MAX_DETAILS {
        details = "{\"cut\":true}".to_owned();
    }
    let insert = store
        .writer()?
        .query(sql::AUDIT)
        .param("id", id)
        .param("project", done.project)
        .param("actor", done.actor)
        .param("action", done.action)
        .param("object", done.object)
        .param("result", done.result)
        .param("details", details)
        .with_setting("async_insert", "0")
        .with_setting("deduplicate_insert", "enable")
        .with_setting("deduplicate_insert_select", "force_enable")
        .with_setting("distributed_foreground_insert", "1")
        .with_setting("insert_deduplication_token", id);
    within(insert.execute()).await
}

/// Lines, the newest first.
pub async fn read(store: &ControlStore, page: &Page) -> Result<Vec<AuditLine>, ControlError> {
    let rows = store
        .reader()
        .query(sql::AUDIT_LINES)
        .param("all", u8::from(page.project.is_none()))
        .param("project", page.project.as_deref().unwrap_or_default())
        // Above every ULID.
        .param("before", page.before.as_deref().unwrap_or("~"))
        .param("limit", page.limit)
        .fetch_all::<Stored>();
    Ok(within(rows).await?.into_iter().map(Stored::line).collect())
}

impl Stored {
    fn line(self) -> AuditLine {
        let Self { id, at_ms, project_id, actor, action, object, result, details } = self;
        let details = serde_json::from_str(&details).unwrap_or(Value::Null);
        AuditLine { id, at: crate::time::text(at_ms), project: project_id, actor, action, object, result, details }
    }
}
