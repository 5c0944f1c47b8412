//! Makes a backup, while events arrive or while nothing runs.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tallyhouse_ingest::direct::restored::{self, LogPosition};
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::positions::{self, PartitionPosition};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::Env;
use tallyhouse_sql::clickhouse::Client;

use super::manifest::{self, Entry, Kind, Log, Manifest};
use super::{BackupError, Target, files, tables};

/// Folders of the ingester that hold events which nobody else has.
const LOGS: [&str; 4] = ["log", "fallback", "records", "journal"];

/// What a backup is made of.
pub struct Source<'a> {
    /// The user that writes.
    pub client: Client,
    /// `TALLYHOUSE_DATA`
    pub data: &'a Path,
    /// `BACKUP_DIR`
    pub staging: &'a Path,
    pub kafka: Option<KafkaConfig>,
}

/// The variables of Kafka, with the topics that projects have of their own.
pub fn kafka(env: &dyn Env) -> Result<Option<KafkaConfig>, BackupError> {
    let projects = tallyhouse_ingest::config::projects(env)?;
    Ok(KafkaConfig::from_env(env, projects.own_topics())?)
}

/// One process at a time works in a staging folder.
pub(super) fn lock(staging: &Path) -> Result<File, BackupError> {
    files::make_folder(staging)?;
    let path = staging.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(BackupError::file(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::Busy(staging.to_owned())),
        Err(TryLockError::Error(source)) => Err(BackupError::File { path, source }),
    }
}

/// Makes one. An incremental one without a full one before it becomes a full one.
pub async fn create(source: &Source<'_>, target: &Target, kind: Kind) -> Result<Manifest, BackupError> {
    let _lock = lock(source.staging)?;
    for name in target.unfinished()? {
        tracing::warn!(name, "a backup that was begun and not ended is removed");
        target.remove(&name)?;
    }
    let base = match kind {
        Kind::Full => None,
        Kind::Incremental => newest_full(target)?,
    };
    let as_of_ms = now_ms();
    let name = manifest::name(as_of_ms, if base.is_some() { Kind::Incremental } else { Kind::Full });
    let made = Making { source, target, name: &name, base: base.as_ref(), as_of_ms }.make().await;
    if made.is_err() {
        // The error is what matters; the next one tries again.
        drop(remove_staged(source.staging, &name));
        drop(target.remove(&name));
    }
    made
}

fn newest_full(target: &Target) -> Result<Option<Manifest>, BackupError> {
    for name in target.names()?.iter().rev() {
        let found = target.manifest(name)?;
        if found.kind == Kind::Full {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn remove_staged(staging: &Path, name: &str) -> Result<(), BackupError> {
    files::remove(&staging.join(name))?;
    files::remove(&staging.join("clickhouse").join(name))
}

struct Making<'a> {
    source: &'a Source<'a>,
    target: &'a Target,
    name: &'a str,
    base: Option<&'a Manifest>,
    as_of_ms: i64,
}

impl Making<'_> {
    async fn make(&self) -> Result<Manifest, BackupError> {
        let Source { client, data, staging, kafka } = self.source;
        // Everything before these positions is in the tables that are copied next.
        let kafka = match kafka {
            Some(kafka) => committed(kafka.clone()).await?,
            None => Vec::new(),
        };
        let log_before = position(data)?;
        self.copy_files()?;
        let (tables, base) = (staging.join("clickhouse").join(self.name), self.staged_base()?);
        tables::backup(client, &tables, base.as_deref()).await?;
        let log = match (log_before, position(data)?) {
            (Some(before), Some(after)) => Some(Log::between(before, &after)),
            _ => None,
        };
        let manifest = Manifest {
            format: Manifest::FORMAT,
            name: self.name.to_owned(),
            kind: if self.base.is_some() { Kind::Incremental } else { Kind::Full },
            base: self.base.map(|base| base.name.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clickhouse: tables::ask::<String>(client, "SELECT version()").await?,
            as_of_ms: self.as_of_ms,
            took_ms: now_ms() - self.as_of_ms,
            events: tables::ask::<u64>(client, "SELECT count() FROM events").await?,
            kafka,
            log,
            files: self.entries()?,
        };
        self.keep(&manifest)?;
        Ok(manifest)
    }

    /// Credentials, and what waits in logs.
    fn copy_files(&self) -> Result<(), BackupError> {
        let folder = self.source.staging.join(self.name);
        files::make_folder(&folder)?;
        let credentials = self.source.data.join("credentials");
        if credentials.exists() {
            files::copy(&credentials, &folder.join("credentials"))?;
        }
        for log in LOGS {
            let from = self.source.data.join("ingest").join(log);
            if !from.is_dir() {
                continue;
            }
            for inner in files::below(&from)?.into_iter().filter(|inner| holds_events(inner)) {
                // One that goes meanwhile is stored.
                files::copy_used(&from.join(&inner), &folder.join("ingest").join(log).join(&inner))?;
            }
        }
        Ok(())
    }

    /// The folder with the `.backup` of the base: that is all that ClickHouse reads of it.
    fn staged_base(&self) -> Result<Option<PathBuf>, BackupError> {
        let Some(base) = self.base else { return Ok(None) };
        let folder = self.source.staging.join("clickhouse").join(&base.name);
        let list = folder.join(".backup");
        if !list.exists() {
            self.target.fetch(&format!("clickhouse/{}/.backup", base.name), &list)?;
        }
        Ok(Some(folder))
    }

    /// Everything that was staged, with checksums.
    fn entries(&self) -> Result<Vec<Entry>, BackupError> {
        let staging = self.source.staging;
        let mut entries = Vec::new();
        for folder in [PathBuf::from(self.name), Path::new("clickhouse").join(self.name)] {
            for inner in files::below(&staging.join(&folder))? {
                let entry = files::entry(staging, &folder.join(inner))?;
                let same = self.base.iter().flat_map(|base| &base.files);
                let same = same.into_iter().find(|known| (known.bytes, &known.sha256) == (entry.bytes, &entry.sha256));
                // Of the tables ClickHouse has found that out itself.
                let at = same.filter(|_| !folder.starts_with("clickhouse")).map(|known| known.place().to_owned());
                entries.push(Entry { at, ..entry });
            }
        }
        Ok(entries)
    }

    /// Brings it to the target, the manifest last.
    fn keep(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let staging = self.source.staging;
        for entry in manifest.files.iter().filter(|entry| entry.at.is_none()) {
            self.target.put(staging, &entry.path)?;
        }
        let inner = format!("{}/{}", self.name, manifest::FILE);
        let text = serde_json::to_string_pretty(manifest)
            .map_err(|error| BackupError::Manifest { name: self.name.to_owned(), problem: error.to_string() })?;
        let path = staging.join(&inner);
        tallyhouse_service::private_file::write(&path, &text).map_err(BackupError::file(&path))?;
        self.target.put(staging, &inner)?;
        if self.target.is_staging() {
            for entry in manifest.files.iter().filter(|entry| entry.at.is_some()) {
                files::remove(&staging.join(&entry.path))?;
            }
            return Ok(());
        }
        // Of a full one its list stays: incremental ones are made by it.
        let list = staging.join("clickhouse").join(self.name).join(".backup");
        let kept = self.base.is_none().then(|| std::fs::read(&list)).transpose().map_err(BackupError::file(&list))?;
        remove_staged(staging, self.name)?;
        kept.map_or(Ok(()), |bytes| {
            let mut file = files::create(&list)?;
            std::io::Write::write_all(&mut file, &bytes).map_err(BackupError::file(&list))
        })
    }
}

/// Whether a file of a log is needed: ids are in ClickHouse, and what is cut off or damaged is for people who look here.
fn holds_events(inner: &Path) -> bool {
    let name = inner.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ends = [".ids", ".torn", ".damaged", ".new"];
    !ends.iter().any(|end| name.ends_with(end)) && !matches!(name, "spare" | "lock" | "restored")
}

fn position(data: &Path) -> Result<Option<LogPosition>, BackupError> {
    let folder = data.join("ingest").join("log");
    restored::position(&folder).map_err(BackupError::file(&folder))
}

async fn committed(kafka: KafkaConfig) -> Result<Vec<PartitionPosition>, BackupError> {
    let asked = move || positions::committed(&kafka.brokers, &kafka.group, &kafka.topics);
    let answer = tokio::task::spawn_blocking(asked).await;
    let failed = |error: &dyn std::fmt::Display| BackupError::Kafka(error.to_string());
    answer.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
