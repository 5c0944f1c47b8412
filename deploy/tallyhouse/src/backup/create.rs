//! Makes a backup, while events arrive or while nothing runs.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tallyhouse_ingest::direct::restored::{self, LogPosition};
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::positions::{self, PartitionPosition};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_sql::clickhouse::Client;

use super::manifest::{self, Entry, Kind, Log, Manifest};
use super::{BackupError, Destination, Target, files, tables, verify};

/// Folders of the ingester that hold events which nobody else has.
pub(super) const LOGS: [&str; 4] = ["log", "fallback", "records", "journal"];

/// None takes longer, its log and its manifest included.
const GIVEN_UP_AFTER_MS: i64 = tables::DONE_WITHIN.as_millis() as i64 + 60 * 60 * 1000;

/// What a backup is made of.
pub struct Source<'a> {
    /// The user that writes.
    pub client: Client,
    /// `TALLYHOUSE_DATA`
    pub data: &'a Path,
    /// `BACKUP_DIR`
    pub staging: &'a Path,
    pub kafka: Option<KafkaConfig>,
    /// `BACKUP_CLICKHOUSE`, of a given ClickHouse; `None`: the embedded one writes to `staging`.
    pub given: Option<String>,
}

/// What a backup is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub kind: Kind,
    /// An incremental one becomes a full one without a full one before it that is younger.
    pub full_every_ms: Option<i64>,
    /// A full one is read whole before anything relies on it.
    pub verify: bool,
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

/// Makes one.
pub async fn create(source: &Source<'_>, target: &Target, options: Options) -> Result<Manifest, BackupError> {
    tables::refuse_cluster(&source.client).await?;
    let _lock = lock(source.staging)?;
    for name in target.unfinished().await? {
        // Of a shared target another machine may be at work there; of our own folder we have the lock.
        if !target.is_staging() && !is_given_up(&name, now_ms()) {
            continue;
        }
        tracing::warn!(name, "a backup that was begun and not ended is removed");
        target.remove(&name).await?;
    }
    let base = match options.kind {
        Kind::Full => None,
        Kind::Incremental => newest_full(target, source.given.as_deref()).await?,
    };
    let as_of_ms = now_ms();
    let base = base.filter(|base| as_of_ms.saturating_sub(base.as_of_ms) < options.full_every_ms.unwrap_or(i64::MAX));
    let name = manifest::name(as_of_ms, if base.is_some() { Kind::Incremental } else { Kind::Full });
    let made = Making { source, target, name: &name, base: base.as_ref(), as_of_ms }.make().await;
    if made.is_err() {
        // The error is what matters; the next one tries again.
        drop(remove_staged(source.staging, &name));
        drop(target.remove(&name).await);
    }
    let made = made?;
    if options.verify && made.kind == Kind::Full {
        let checked = verify::require_whole(target, &name).await;
        if matches!(checked, Err(BackupError::Damaged { .. })) {
            // Incremental ones would go with it.
            drop(target.remove(&name).await);
        }
        checked?;
    }
    if let Some(log) = &made.log {
        let folder = source.data.join("ingest").join("log");
        restored::backed_up(&folder, log.next).map_err(BackupError::file(&folder))?;
    }
    Ok(made)
}

/// Whether nobody is making a backup any more that was begun.
fn is_given_up(name: &str, now_ms: i64) -> bool {
    // Names sort by time.
    *name < *manifest::name(now_ms.saturating_sub(GIVEN_UP_AFTER_MS), Kind::Full)
}

/// The manifest of a backup; `None`: it cannot be read, which is no reason to make no other.
async fn readable(target: &Target, name: &str) -> Result<Option<Manifest>, BackupError> {
    match target.manifest(name).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error @ (BackupError::Manifest { .. } | BackupError::Newer { .. } | BackupError::Unknown { .. })) => {
            tracing::warn!(name, %error, "this backup is passed over");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Removes backups that are older, but for the newest full one and those that younger ones go with. Returns how many.
pub async fn forget(staging: &Path, target: &Target, older_ms: i64) -> Result<usize, BackupError> {
    let _lock = lock(staging)?;
    let (mut all, mut unread) = (Vec::new(), Vec::new());
    for name in target.names().await? {
        match readable(target, &name).await? {
            Some(manifest) => all.push(manifest),
            None => unread.push(name),
        }
    }
    let gone = forgotten(&all, &unread, now_ms().saturating_sub(older_ms));
    for name in &gone {
        target.remove(name).await?;
        remove_staged(staging, name)?;
    }
    Ok(gone.len())
}

/// Which of them, the oldest first, are not needed any more. What could not be read may go with the full one before it.
fn forgotten(all: &[Manifest], unread: &[String], horizon_ms: i64) -> Vec<String> {
    let full_before = |name: &String| {
        all.iter().rev().find(|backup| backup.kind == Kind::Full && backup.name < *name).map(|full| full.name.as_str())
    };
    let newest_full = all.iter().rev().find(|backup| backup.kind == Kind::Full).map(|backup| backup.name.as_str());
    let is_old = |backup: &&Manifest| backup.as_of_ms < horizon_ms;
    let young = all.iter().filter(|backup| !is_old(backup)).filter_map(|backup| backup.base.as_deref());
    let bases: Vec<&str> = young.chain(unread.iter().filter_map(full_before)).collect();
    let is_needed =
        |backup: &&Manifest| Some(backup.name.as_str()) == newest_full || bases.contains(&backup.name.as_str());
    all.iter().filter(is_old).filter(|backup| !is_needed(backup)).map(|backup| backup.name.clone()).collect()
}

/// Of the same ClickHouse.
async fn newest_full(target: &Target, given: Option<&str>) -> Result<Option<Manifest>, BackupError> {
    for name in target.names().await?.iter().rev() {
        let found = readable(target, name).await?;
        let fits = |found: &Manifest| found.kind == Kind::Full && found.tables.as_deref() == given;
        if let Some(found) = found.filter(fits) {
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
        let Source { client, data, staging, kafka, given } = self.source;
        // Everything before these positions is in the tables that are copied next.
        let kafka = match kafka {
            Some(kafka) => committed(kafka.clone()).await?,
            None => Vec::new(),
        };
        let log_before = position(data)?;
        self.copy_files()?;
        let destination = match given {
            Some(given) => destination(given)?,
            None => {
                self.stage_base().await?;
                Destination::Folder(staging.join("clickhouse"))
            }
        };
        destination.backup(client, self.name, self.base.map(|base| base.name.as_str())).await?;
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
            tables: given.clone(),
            files: self.entries()?,
        };
        self.keep(&manifest).await?;
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

    /// Brings the list of the base, if it is not here: that is all that ClickHouse reads of it.
    async fn stage_base(&self) -> Result<(), BackupError> {
        let Some(base) = self.base else { return Ok(()) };
        let inner = format!("clickhouse/{}/.backup", base.name);
        let list = self.source.staging.join(&inner);
        if list.exists() { Ok(()) } else { self.target.fetch(&[(&inner, list)]).await }
    }

    /// Everything that was staged, with checksums.
    fn entries(&self) -> Result<Vec<Entry>, BackupError> {
        let staging = self.source.staging;
        let mut entries = Vec::new();
        // Of the tables ClickHouse has found out itself what its base has.
        let of_base =
            self.base.iter().flat_map(|base| &base.files).filter(|known| !known.path.starts_with("clickhouse/"));
        let known: HashMap<(u64, &str), &Entry> =
            of_base.map(|known| ((known.bytes, known.sha256.as_str()), known)).collect();
        for folder in [PathBuf::from(self.name), Path::new("clickhouse").join(self.name)] {
            if !staging.join(&folder).is_dir() {
                continue;
            }
            for inner in files::below(&staging.join(&folder))? {
                let entry = files::entry(staging, &folder.join(inner))?;
                let same = known.get(&(entry.bytes, entry.sha256.as_str()));
                let at = same.filter(|_| !folder.starts_with("clickhouse")).map(|known| known.place().to_owned());
                entries.push(Entry { at, ..entry });
            }
        }
        Ok(entries)
    }

    /// Brings it to the target, the manifest last.
    async fn keep(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let staging = self.source.staging;
        let files = manifest.files.iter().filter(|entry| entry.at.is_none()).map(|entry| entry.path.as_str());
        self.target.put(staging, &files.collect::<Vec<_>>()).await?;
        let inner = format!("{}/{}", self.name, manifest::FILE);
        let text = serde_json::to_string_pretty(manifest)
            .map_err(|error| BackupError::Manifest { name: self.name.to_owned(), problem: error.to_string() })?;
        let path = staging.join(&inner);
        tallyhouse_service::private_file::write(&path, &text).map_err(BackupError::file(&path))?;
        self.target.put(staging, &[&inner]).await?;
        if self.target.is_staging() {
            for entry in manifest.files.iter().filter(|entry| entry.at.is_some()) {
                files::remove(&staging.join(&entry.path))?;
            }
            return Ok(());
        }
        // Of a full one its list stays: incremental ones are made by it.
        let list = staging.join("clickhouse").join(self.name).join(".backup");
        let has_list = self.base.is_none() && manifest.tables.is_none();
        let kept = has_list.then(|| std::fs::read(&list)).transpose().map_err(BackupError::file(&list))?;
        remove_staged(staging, self.name)?;
        kept.map_or(Ok(()), |bytes| {
            let mut file = files::create(&list)?;
            std::io::Write::write_all(&mut file, &bytes).map_err(BackupError::file(&list))
        })
    }
}

/// `BACKUP_CLICKHOUSE`, or what a manifest says of it.
pub(super) fn destination(text: &str) -> Result<Destination, BackupError> {
    text.parse().map_err(|problem| BackupError::Config(ConfigError::new("BACKUP_CLICKHOUSE", problem)))
}

/// Whether a file of a log is needed: ids are in ClickHouse, and what is cut off or damaged is for people who look here.
pub(super) fn holds_events(inner: &Path) -> bool {
    let name = inner.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ends = [".ids", ".torn", ".damaged", ".new"];
    !ends.iter().any(|end| name.ends_with(end)) && !matches!(name, "spare" | "lock" | "restored" | "backed-up")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_goes_unless_something_younger_goes_with_it() {
        let backup = |as_of_ms, base: Option<&str>| Manifest {
            format: Manifest::FORMAT,
            name: format!("b{as_of_ms}"),
            kind: if base.is_some() { Kind::Incremental } else { Kind::Full },
            base: base.map(str::to_owned),
            version: String::new(),
            clickhouse: String::new(),
            as_of_ms,
            took_ms: 0,
            events: 0,
            kafka: Vec::new(),
            log: None,
            tables: None,
            files: Vec::new(),
        };
        let all = [
            backup(1, None),
            backup(2, Some("b1")),
            backup(3, None),
            backup(4, Some("b3")),
            backup(5, Some("b3")),
            backup(6, None),
            backup(7, Some("b6")),
        ];
        assert_eq!(forgotten(&all, &[], 5), ["b1", "b2", "b4"], "b5 goes with b3");
        assert_eq!(forgotten(&all, &[], 100), ["b1", "b2", "b3", "b4", "b5", "b7"], "the newest full one stays");
        assert_eq!(forgotten(&all, &[], 0), <[&str; 0]>::default());
        assert_eq!(forgotten(&all, &["b35".to_owned()], 100), ["b1", "b2", "b4", "b5", "b7"], "b35 may go with b3");
    }

    #[test]
    fn what_another_machine_may_be_making_is_left() {
        let day = GIVEN_UP_AFTER_MS;
        for kind in [Kind::Full, Kind::Incremental] {
            assert!(!is_given_up(&manifest::name(5 * day, kind), 6 * day - 1000), "{kind:?}");
            assert!(is_given_up(&manifest::name(5 * day, kind), 6 * day + 1000), "{kind:?}");
        }
    }

    #[test]
    fn only_files_with_events_are_copied() {
        for name in ["commit", "checkpoint", "identity", "00-01-02.log", "00.refused", "x.batch"] {
            assert!(holds_events(Path::new(name)), "{name}");
        }
        for name in ["spare", "lock", "restored", "backed-up", "00.ids", "a.torn", "a.damaged", "ids.new"] {
            assert!(!holds_events(Path::new(name)), "{name}");
        }
    }
}
