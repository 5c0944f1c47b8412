//! Why there is no backup, or nothing was restored.

use std::io;
use std::path::{Path, PathBuf};

use tallyhouse_ingest::kafka::positions::GoBackError;
use tallyhouse_service::env::ConfigError;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::rollups::RollupsError;

use crate::credentials::CredentialsError;
use crate::data_folder::DataFolderError;
use crate::erasures::EraseError;
use crate::tables::TablesError;
use crate::up::UpError;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Data(#[from] DataFolderError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error("rollups: {0}")]
    Rollups(#[from] RollupsError),
    #[error("erasures: {0}")]
    Erase(#[from] EraseError),
    #[error(transparent)]
    GoBack(#[from] GoBackError),
    #[error("Kafka: {0}")]
    Kafka(String),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    /// ClickHouse began, and gave up.
    #[error("ClickHouse could not {what}: {message}")]
    ClickHouse { what: &'static str, message: String },
    #[error(
        "this ClickHouse is one of a cluster of {0} shards, and a backup is of one server: copy each server, and bring it back, by \
         clickhouse-backup (deploy/README.md, Backups)"
    )]
    Cluster(u64),
    #[error("BACKUP_TARGET: {} is not there: mount the disk, or make the folder", .0.display())]
    NoTarget(PathBuf),
    /// The bucket, or a file in it, and what is wrong.
    #[error("{what}: {problem}")]
    S3 { what: String, problem: String },
    #[error("another backup or restore works in {}: wait until it ends", .0.display())]
    Busy(PathBuf),
    #[error("there is no backup {name} in {target}; `tallyhouse backup list` shows what there is")]
    Unknown { name: String, target: String },
    #[error("there is no backup in {0}")]
    None(String),
    #[error("{name} was made by a newer version (format {format}): restore it with that version or a newer one")]
    Newer { name: String, format: u32 },
    #[error("the manifest of {name} is damaged: {problem}")]
    Manifest { name: String, problem: String },
    #[error("{name} is damaged: {}; `tallyhouse backup verify {name}` names every file", .problems.first().map_or("", String::as_str))]
    Damaged { name: String, problems: Vec<String> },
    #[error(
        "{} holds data already. Restore into another TALLYHOUSE_DATA; or, to replace everything in it by the backup, say so twice: --replace --yes-replace",
        .0.display()
    )]
    HoldsData(PathBuf),
    #[error(
        "{0} holds data already. To replace both databases there by the backup, say so twice: --replace --yes-replace"
    )]
    HoldsTables(String),
    /// Tables of the embedded one are files of ours, those of a given one are not.
    #[error(
        "{name} is of {}",
        if *.is_given { "an embedded ClickHouse: restore it without CLICKHOUSE_URL" } else { "a given ClickHouse: set CLICKHOUSE_URL" }
    )]
    OtherClickHouse { name: String, is_given: bool },
}

impl BackupError {
    /// What a call of the file system failed on.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}
