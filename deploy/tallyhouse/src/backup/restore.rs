//! Brings an installation back, on a data folder that nothing runs on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tallyhouse_control::privacy::runner::StepError;
use tallyhouse_ingest::direct::restored;
use tallyhouse_ingest::kafka::config::KafkaConfig;
use tallyhouse_ingest::kafka::positions::{self, Returned};
use tallyhouse_ingest::unclean_shutdown::ShutdownMarker;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::Env;
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::rollups::rebuild;
use tallyhouse_sql::rollups::verify::PAUSE;
use tallyhouse_sql::suppression_acks;

use super::create::{LOGS, destination, holds_events, kafka, lock};
use super::manifest::{Entry, Log, Manifest};
use super::{BackupError, Destination, Target, files, tables, verify};
use crate::attach::{self, Attached};
use crate::config::Config;
use crate::data_folder::{DataFolder, Part};
use crate::erasures::{EraseError, Eraser};
use crate::rollups;

/// Inserts wait no longer than this for a partition of a rollup; there are none.
const GATE: Duration = Duration::from_secs(60);

/// What is put in the place of, and comes back when the restore fails. Of a given ClickHouse there is nothing here.
const REPLACED: [&str; 4] = ["clickhouse", "clickhouse-warm", "clickhouse-cold", "credentials"];

/// What to restore, and over what.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The newest when it is left out.
    pub name: Option<String>,
    /// What is there already may go: it was said twice.
    pub may_replace: bool,
}

/// What became of events that are not in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOutcome {
    /// Whether it is the one that was there, with what came after the backup.
    pub is_of_here: bool,
    /// From where on it is stored again.
    pub from: i64,
    /// Events between the backup and what the log still has: they are lost.
    pub missing: i64,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Restored {
    pub manifest: Manifest,
    pub events: u64,
    pub rebuilt: rebuild::Rebuilt,
    /// Erasures that were done again.
    pub erasures: usize,
    pub log: Option<LogOutcome>,
    pub kafka: Vec<Returned>,
    pub took: Duration,
}

/// Restores a backup.
pub async fn restore(
    config: &Config,
    env: &dyn Env,
    target: &Target,
    staging: &Path,
    options: &Options,
) -> Result<Restored, BackupError> {
    let began = Instant::now();
    let _lock = lock(staging)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => target.names().await?.pop().ok_or_else(|| BackupError::None(target.to_string()))?,
    };
    let manifest = target.manifest(&name).await?;
    verify::require_whole(target, &name).await?;
    let kafka = kafka(env)?;
    if let Some(kafka) = &kafka {
        check_kafka(kafka.clone(), &manifest).await?;
    }
    // Until everything is in its place: nobody else starts on it.
    let is_given = config.engine.is_none();
    let parts: &[Part] = if is_given { &[Part::Services] } else { &[Part::Engine, Part::Services] };
    let data = DataFolder::open(&config.data, parts).await?;
    if is_given != manifest.tables.is_some() {
        return Err(BackupError::OtherClickHouse { name, is_given });
    }
    if holds_data(&config.data, &manifest)? && !options.may_replace {
        return Err(BackupError::HoldsData(config.data.clone()));
    }
    let restoring = Restoring { config, env, target, staging, manifest: &manifest };
    restoring.stage().await?;
    let aside = Aside::put(&config.data, if is_given { &[] } else { &REPLACED })?;
    let done = match is_given {
        true => Box::pin(restoring.given_tables(options.may_replace)).await,
        false => restoring.tables(data).await,
    };
    let (events, rebuilt, erasures) = match done {
        Ok(done) => done,
        Err(error) => {
            aside.put_back()?;
            return Err(error);
        }
    };
    let log = restoring.log(&aside)?;
    let kafka = match kafka {
        Some(kafka) => go_back(kafka, &manifest).await?,
        None => Vec::new(),
    };
    // Answers in Redis are of the tables before: the next ingester finds a predecessor that did not invalidate what it changed.
    drop(ShutdownMarker::place(&config.data));
    aside.remove()?;
    restoring.unstage().await?;
    Ok(Restored { events, rebuilt, erasures, log, kafka, took: began.elapsed(), manifest })
}

/// Whether a start has left anything in a data folder that a restore would destroy.
fn holds_data(data: &Path, manifest: &Manifest) -> Result<bool, BackupError> {
    let tables = ["clickhouse/metadata/tallyhouse.sql", "clickhouse/metadata/tallyhouse"];
    let has_tables = manifest.tables.is_none() && tables.iter().any(|inner| data.join(inner).exists());
    if has_tables || data.join("ingest/log/commit").exists() {
        return Ok(true);
    }
    // Without a log in the backup, and none here, what else there is stays.
    if manifest.log.is_none() {
        return Ok(false);
    }
    // Events that were acknowledged, and may be nowhere else.
    for log in LOGS.map(|log| data.join("ingest").join(log)).iter().filter(|log| log.is_dir()) {
        let is_used = |inner: &PathBuf| holds_events(inner) && !inner.ends_with("identity");
        if files::below(log)?.iter().any(is_used) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Before anything is touched.
async fn check_kafka(kafka: KafkaConfig, manifest: &Manifest) -> Result<(), BackupError> {
    let to = manifest.kafka.clone();
    let check = move || positions::check(&kafka.brokers, &kafka.group, &kafka.topics, &to);
    let asked = tokio::task::spawn_blocking(check).await;
    Ok(asked.map_err(|error| BackupError::Kafka(error.to_string()))??)
}

async fn go_back(kafka: KafkaConfig, manifest: &Manifest) -> Result<Vec<Returned>, BackupError> {
    let (to, as_of_ms) = (manifest.kafka.clone(), manifest.as_of_ms);
    let commit = move || positions::go_back(&kafka.brokers, &kafka.group, &kafka.topics, &to, as_of_ms);
    let committed = tokio::task::spawn_blocking(commit).await;
    Ok(committed.map_err(|error| BackupError::Kafka(error.to_string()))??)
}

struct Restoring<'a> {
    config: &'a Config,
    env: &'a dyn Env,
    target: &'a Target,
    staging: &'a Path,
    manifest: &'a Manifest,
}

impl Restoring<'_> {
    async fn chain(&self) -> Result<Vec<Manifest>, BackupError> {
        let base = match &self.manifest.base {
            Some(base) => Some(self.target.manifest(base).await?),
            None => None,
        };
        Ok(base.into_iter().chain([self.manifest.clone()]).collect())
    }

    /// Brings the files to where ClickHouse may read them.
    async fn stage(&self) -> Result<(), BackupError> {
        let chain = self.chain().await?;
        let is_elsewhere = |entry: &&Entry| !self.target.is_staging() || entry.at.is_some();
        let files = chain.iter().flat_map(|manifest| &manifest.files).filter(is_elsewhere);
        let files = files.map(|entry| (entry.place(), self.staging.join(&entry.path)));
        self.target.fetch(&files.collect::<Vec<_>>()).await
    }

    /// Removes what was brought; the list of a full one stays for incremental ones.
    async fn unstage(&self) -> Result<(), BackupError> {
        for manifest in self.chain().await? {
            for entry in &manifest.files {
                let is_list = manifest.base.is_none() && entry.path.ends_with("/.backup");
                if (!self.target.is_staging() && !is_list) || entry.at.is_some() {
                    files::remove(&self.staging.join(&entry.path))?;
                }
            }
        }
        Ok(())
    }

    /// The tables as they were, and rollups as raw events say. Returns how many events there are, what was rebuilt, and how many erasures were
    /// done again.
    async fn tables(&self, data: DataFolder) -> Result<(u64, rebuild::Rebuilt, usize), BackupError> {
        let credentials = self.staging.join(&self.manifest.name).join("credentials");
        if credentials.exists() {
            files::copy(&credentials, &self.config.data.join("credentials"))?;
        }
        let attached = attach::start(self.config, data).await?;
        let restored = Box::pin(self.fill(&attached)).await;
        attached.detach().await;
        restored
    }

    /// The same in a given ClickHouse, which has nothing or may lose what it has.
    async fn given_tables(&self, may_replace: bool) -> Result<(u64, rebuild::Rebuilt, usize), BackupError> {
        let attached = attach::attach(self.config, self.env).await?;
        let server = attached.writer.server();
        tables::refuse_cluster(&server).await?;
        if tables::is_used(&server).await? {
            if !may_replace {
                return Err(BackupError::HoldsTables(attached.writer.url));
            }
            // They do not come back: no step before has read what the server wrote itself.
            self.destination()?.probe(&server, &self.manifest.name, self.manifest.base.as_deref()).await?;
        }
        tables::drop_all(&server).await?;
        Box::pin(self.fill(&attached)).await
    }

    fn destination(&self) -> Result<Destination, BackupError> {
        match &self.manifest.tables {
            Some(given) => destination(given),
            None => Ok(Destination::Folder(self.staging.join("clickhouse"))),
        }
    }

    async fn fill(&self, attached: &Attached) -> Result<(u64, rebuild::Rebuilt, usize), BackupError> {
        let destination = self.destination()?;
        destination.restore(&attached.writer.server(), &self.manifest.name, self.manifest.base.as_deref()).await?;
        crate::tables::migrate(&attached.writer, &Topology::Single).await?;
        let client = attached.writer.client();
        let options = rebuild::Options {
            selection: rollups::selection(None, Some(0), None, None),
            is_everything: false,
            gate: GATE,
            pause: PAUSE,
        };
        let rebuilt = rebuild::rebuild(&client, &options, async |_| {}).await?;
        // Erasures would wait for them.
        suppression_acks::stop_all(&client).await?;
        let eraser = Eraser::new(attached, self.config, self.env).await?;
        let again = eraser.reapply().await?;
        for (project, erasure) in &again {
            match eraser.finish_answers(project, &erasure.id).await {
                // The rows are gone; a query API that starts tells the caches, and only then says that answers are right.
                Ok(_) | Err(StepError::Caches(_)) => {}
                Err(error) => return Err(EraseError::from(error).into()),
            }
        }
        drop(eraser);
        let events = tables::ask::<u64>(&client, "SELECT count() FROM events").await?;
        Ok((events, rebuilt, again.len()))
    }

    /// The log that is here goes on when it is the one of the backup; else its copy does.
    fn log(&self, aside: &Aside) -> Result<Option<LogOutcome>, BackupError> {
        let ingest = self.config.data.join("ingest");
        let folder = ingest.join("log");
        let here = restored::position(&folder).map_err(BackupError::file(&folder))?;
        let Some(Log { id, next, end }) = &self.manifest.log else {
            if here.is_some() {
                // Of another installation: what it has is none of the backup's.
                aside.take("ingest")?;
            }
            return Ok(None);
        };
        let is_of_here = here.is_some_and(|here| here.log == *id);
        if !is_of_here {
            aside.take("ingest")?;
            self.copy_log(&ingest)?;
            restored::ask_for_ids(&folder).map_err(BackupError::file(&folder))?;
        }
        let from = restored::set_back(&folder, *next, *end).map_err(BackupError::file(&folder))?;
        // What a copy lacks was stored before the tables were copied.
        let missing = if is_of_here { (from - next).max(0) } else { 0 };
        Ok(Some(LogOutcome { is_of_here, from, missing }))
    }

    fn copy_log(&self, ingest: &Path) -> Result<(), BackupError> {
        let prefix = format!("{}/ingest/", self.manifest.name);
        for entry in &self.manifest.files {
            if let Some(inner) = entry.path.strip_prefix(&prefix) {
                files::copy(&self.staging.join(&entry.path), &ingest.join(inner))?;
            }
        }
        Ok(())
    }
}

/// What was in a data folder before.
struct Aside {
    data: PathBuf,
    folder: PathBuf,
    replaced: &'static [&'static str],
}

impl Aside {
    fn put(data: &Path, replaced: &'static [&'static str]) -> Result<Self, BackupError> {
        let folder = data.join(format!("tallyhouse.replaced-{}", now_ms()));
        files::make_folder(&folder)?;
        let aside = Self { data: data.to_owned(), folder, replaced };
        replaced.iter().try_for_each(|name| aside.take(name))?;
        Ok(aside)
    }

    /// Takes one more, if it is there.
    fn take(&self, name: &str) -> Result<(), BackupError> {
        rename(&self.data.join(name), &self.folder.join(name))
    }

    /// As it was.
    fn put_back(self) -> Result<(), BackupError> {
        for name in self.replaced {
            files::remove(&self.data.join(name))?;
            rename(&self.folder.join(name), &self.data.join(name))?;
        }
        self.remove()
    }

    fn remove(self) -> Result<(), BackupError> {
        files::remove(&self.folder)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(BackupError::file(from)(error)),
        _ => Ok(()),
    }
}
