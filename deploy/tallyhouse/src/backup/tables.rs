//! ClickHouse's own `BACKUP` and `RESTORE`. They run on when nobody waits, so they are begun, and looked after.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::{StoreError, shards, within};

use super::BackupError;

/// Both databases of the product.
const WHAT: &str = "DATABASE tallyhouse, DATABASE tallyhouse_views";

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the copy of everything may take; longer than that it hangs. Nobody takes a backup that is older for one that is being made.
pub(super) const DONE_WITHIN: Duration = Duration::from_hours(24);

/// Where a backup is tried out.
const PROBE: &str = "tallyhouse.restore_probe";

/// A statement that only begins something, or looks.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Row, Deserialize)]
struct State {
    status: String,
    error: String,
}

/// Where ClickHouse has the tables of all backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A folder on its machine, which it may use for backups.
    Folder(PathBuf),
    /// A disk of its configuration.
    Disk(String),
    /// A named collection of its configuration: where a bucket is, and the key to it.
    Collection(String),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not disk:NAME, collection:NAME or folder:/PATH");
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match kind {
            "folder" if name.starts_with('/') => Ok(Self::Folder(name.into())),
            "disk" if is_plain => Ok(Self::Disk(name.to_owned())),
            "collection" if is_plain => Ok(Self::Collection(name.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl Destination {
    /// The place of a backup, as ClickHouse takes it.
    fn place(&self, name: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        match self {
            Self::Folder(folder) => format!("File({})", quoted(&folder.join(name).display().to_string())),
            Self::Disk(disk) => format!("Disk({}, {})", quoted(disk), quoted(name)),
            Self::Collection(collection) => format!("S3({collection}, {})", quoted(name)),
        }
    }

    /// Has the tables written there; what a full one has, of which it reads the list, is left out.
    pub(super) async fn backup(&self, client: &Client, name: &str, base: Option<&str>) -> Result<(), BackupError> {
        let statement = format!("BACKUP {WHAT} TO {}", self.place(name));
        run(client, "copy the tables", &statement, base.map(|base| self.place(base))).await
    }

    /// Has the tables made of a backup. There are none before.
    pub(super) async fn restore(&self, client: &Client, name: &str, base: Option<&str>) -> Result<(), BackupError> {
        let statement = format!("RESTORE {WHAT} FROM {}", self.place(name));
        run(client, "restore the tables", &statement, base.map(|base| self.place(base))).await
    }

    /// Has the smallest table made of a backup, under another name, and removes it: so the backup, its base and what ClickHouse needs to read them
    /// are there.
    pub(super) async fn probe(&self, client: &Client, name: &str, base: Option<&str>) -> Result<(), BackupError> {
        let drop_it = || client.query_raw(&format!("DROP TABLE IF EXISTS {PROBE} SYNC"));
        within(ANSWER_WITHIN, drop_it().execute()).await?;
        let statement = format!("RESTORE TABLE tallyhouse.migrations AS {PROBE} FROM {}", self.place(name));
        let read = run(client, "read the backup", &statement, base.map(|base| self.place(base))).await;
        within(ANSWER_WITHIN, drop_it().execute()).await?;
        read
    }
}

async fn run(client: &Client, what: &'static str, statement: &str, base: Option<String>) -> Result<(), BackupError> {
    let id = format!("tallyhouse-{}", ulid::Ulid::generate());
    let base = base.map(|base| format!(", base_backup = {base}")).unwrap_or_default();
    let begin = format!("{statement} SETTINGS id = '{id}'{base} ASYNC");
    within(ANSWER_WITHIN, client.query_raw(&begin).execute()).await?;
    let deadline = Instant::now() + DONE_WITHIN;
    loop {
        let state = client.query("SELECT toString(status) AS status, error FROM system.backups WHERE id = {id:String}");
        let State { status, error } = within(ANSWER_WITHIN, state.param("id", &id).fetch_one::<State>()).await?;
        match status.as_str() {
            "BACKUP_CREATED" | "RESTORED" => return Ok(()),
            "CREATING_BACKUP" | "RESTORING" if Instant::now() >= deadline => {
                if let Err(error) = kill(client, &id).await {
                    tracing::warn!(%error, id, "it could not be stopped, and may be in the way of the next one");
                }
                return Err(BackupError::ClickHouse { what, message: format!("not done within {DONE_WITHIN:?}") });
            }
            "CREATING_BACKUP" | "RESTORING" => tokio::time::sleep(LOOK_EVERY).await,
            _ => return Err(BackupError::ClickHouse { what, message: format!("{status}: {error}") }),
        }
    }
}

/// It would run on, and be in the way of the next one.
async fn kill(client: &Client, id: &str) -> Result<(), StoreError> {
    let kill =
        client.query("KILL QUERY WHERE query_id IN (SELECT query_id FROM system.backups WHERE id = {id:String}) ASYNC");
    within(ANSWER_WITHIN, kill.param("id", id).execute()).await
}

/// One value of the tables.
pub(super) async fn ask<T: tallyhouse_sql::clickhouse::RowOwned + tallyhouse_sql::clickhouse::RowRead>(
    client: &Client,
    sql: &str,
) -> Result<T, StoreError> {
    within(ANSWER_WITHIN, client.query(sql).fetch_one::<T>()).await
}

/// Refuses a server of several shards: a backup would have one of them, and the views that a restore makes would show one.
pub(super) async fn refuse_cluster(client: &Client) -> Result<(), BackupError> {
    match shards::known(client).await? {
        0 | 1 => Ok(()),
        several => Err(BackupError::Cluster(several)),
    }
}

/// Whether a ClickHouse holds events or keys already.
pub(super) async fn is_used(client: &Client) -> Result<bool, StoreError> {
    let sql =
        "SELECT count() FROM system.tables WHERE database = 'tallyhouse' AND total_rows > 0 AND name != 'migrations'";
    Ok(ask::<u64>(client, sql).await? > 0)
}

/// Removes both databases, so that they can be restored.
pub(super) async fn drop_all(client: &Client) -> Result<(), StoreError> {
    for database in ["tallyhouse_views", "tallyhouse"] {
        within(ANSWER_WITHIN, client.query_raw(&format!("DROP DATABASE IF EXISTS {database} SYNC")).execute()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_clickhouse_takes_and_nothing_breaks_out_of_it() {
        let place = |text: &str| text.parse::<Destination>().map(|destination| destination.place("n"));
        assert_eq!(place("folder:/a'b/c").unwrap(), r"File('/a\'b/c/n')");
        assert_eq!(place("disk:backups").unwrap(), "Disk('backups', 'n')");
        assert_eq!(place("collection:backups").unwrap(), "S3(backups, 'n')");
        for bad in ["", "disk", "disk:", "disk:a'b", "collection:a, b", "folder:relative", "s3:x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
