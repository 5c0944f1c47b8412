//! ClickHouse's own `BACKUP` and `RESTORE`. They run on when nobody waits, so they are begun, and looked after.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::{self, Client, Row};

use super::BackupError;

/// Both databases of the product.
const WHAT: &str = "DATABASE tallyhouse, DATABASE tallyhouse_views";

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A statement that only begins something, or looks.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Row, Deserialize)]
struct State {
    status: String,
    error: String,
}

/// Has the tables written to a folder; what a full one has, a folder with its `.backup`, is left out.
pub(super) async fn backup(client: &Client, to: &Path, base: Option<&Path>) -> Result<(), BackupError> {
    let statement = format!("BACKUP {WHAT} TO {}", place(to));
    run(client, "copy the tables", &statement, base).await
}

/// Has the tables made of such a folder. There are none before.
pub(super) async fn restore(client: &Client, from: &Path, base: Option<&Path>) -> Result<(), BackupError> {
    let statement = format!("RESTORE {WHAT} FROM {}", place(from));
    run(client, "restore the tables", &statement, base).await
}

/// A folder as ClickHouse takes it.
fn place(folder: &Path) -> String {
    let text = folder.display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    format!("File('{text}')")
}

async fn run(client: &Client, what: &'static str, statement: &str, base: Option<&Path>) -> Result<(), BackupError> {
    let id = format!("tallyhouse-{}", ulid::Ulid::generate());
    let base = base.map(|base| format!(", base_backup = {}", place(base))).unwrap_or_default();
    let begin = format!("{statement} SETTINGS id = '{id}'{base} ASYNC");
    within(client.query_raw(&begin).execute()).await?;
    loop {
        let state = client.query("SELECT toString(status) AS status, error FROM system.backups WHERE id = {id:String}");
        let State { status, error } = within(state.param("id", &id).fetch_one::<State>()).await?;
        match status.as_str() {
            "BACKUP_CREATED" | "RESTORED" => return Ok(()),
            "CREATING_BACKUP" | "RESTORING" => tokio::time::sleep(LOOK_EVERY).await,
            _ => return Err(BackupError::ClickHouse { what, message: format!("{status}: {error}") }),
        }
    }
}

/// One value of the tables.
pub(super) async fn ask<T: tallyhouse_sql::clickhouse::RowOwned + tallyhouse_sql::clickhouse::RowRead>(
    client: &Client,
    sql: &str,
) -> Result<T, StoreError> {
    within(client.query(sql).fetch_one::<T>()).await
}

async fn within<T>(call: impl Future<Output = tallyhouse_sql::clickhouse::error::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER_WITHIN, call).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut),
    }
}
