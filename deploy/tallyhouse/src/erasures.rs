//! `tallyhouse erase` and `tallyhouse erasures`: people are erased by the same functions as over HTTP, also while no service runs.
//!
//! ```text
//! erase          request -> job -> printed; --wait: worked on here, unless a service does, until its files are gone
//! erase --reapply    rows of erased people that came back (a restored backup) -> jobs -> worked on
//! erasures verify    is the report as this installation signed it?
//! ```

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tallyhouse_control::audit::{self, Done};
use tallyhouse_control::privacy::erasure::{Erasure, ErasureError, Erasures, Person, Request, refuse_replicated};
use tallyhouse_control::privacy::feed;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::privacy::report::{self, BadReport};
use tallyhouse_control::privacy::runner::{CachesNotTold, Runner, StepError};
use tallyhouse_control::{Control, ControlError, ControlStore};
use tallyhouse_schema::strict_json;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_sql::AllShards;
use tallyhouse_sql::erasure as rows;
use tokio::sync::Mutex;

use crate::attach::Attached;
use crate::config::Config;
use crate::credentials::{Credentials, CredentialsError};
use crate::invalidation::{Invalidator, PendingDays};
use crate::rollups;

/// In the audit log.
const ACTOR: &str = "command line";

/// Why nobody was erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Store(#[from] tallyhouse_sql::StoreError),
    #[error("there is no project `{0}`: see `tallyhouse projects list`")]
    UnknownProject(String),
    #[error("{}: {source}", .path.display())]
    Report { path: std::path::PathBuf, source: std::io::Error },
    #[error("{}: it is not JSON", .0.display())]
    NotJson(std::path::PathBuf),
    #[error("{}: {problem}", .path.display())]
    NotOurs { path: std::path::PathBuf, problem: BadReport },
}

/// The key under which the people of this installation are hashed.
pub fn key(config: &Config, env: &dyn Env) -> Result<InstallationKey, EraseError> {
    let wrong = || ConfigError::new("USER_HASH_KEY", "is not known here: set it as the ingester has it");
    if config.engine.is_none() {
        let key = tallyhouse_control::config::user_hash_key(env)?.ok_or_else(wrong)?;
        return Ok(InstallationKey::new(key));
    }
    let known = Credentials::load(&config.data)?.ok_or_else(wrong)?.0;
    let key = tallyhouse_control::config::parse_key(known.user_hash_key.expose()).ok_or_else(wrong)?;
    Ok(InstallationKey::new(key))
}

/// Works on erasures from the command line.
pub struct Eraser {
    runner: Runner,
    store: ControlStore,
    invalidator: Arc<Mutex<Invalidator>>,
}

impl Eraser {
    /// What is kept is read first.
    pub async fn new(attached: &Attached, config: &Config, env: &dyn Env) -> Result<Self, EraseError> {
        let key = key(config, env)?;
        let shards = AllShards::of(&attached.shards);
        refuse_replicated(&shards).await?;
        let store = ControlStore::new(&attached.reader, Some(&attached.writer));
        let control = Control::for_command(&attached.reader, &attached.writer);
        control.refresh().await?;
        let invalidator = Arc::new(Mutex::new(Invalidator::from_env(env)?));
        let invalidating = Arc::clone(&invalidator);
        let runner = Runner {
            control,
            store: store.clone(),
            shards,
            key,
            invalidate: Arc::new(move |days| {
                let invalidator = Arc::clone(&invalidating);
                Box::pin(async move {
                    let mut invalidator = invalidator.lock().await;
                    // What nobody takes is told at the end of the command too: [`Eraser::end`].
                    rollups::invalidate(&mut invalidator, days).await;
                    if invalidator.may_be_remembered() { Err(CachesNotTold) } else { Ok(()) }
                })
            }),
        };
        Ok(Self { runner, store, invalidator })
    }

    /// Asks for an erasure; one of the same person that is under way is given instead.
    pub async fn request(&self, project: &str, person: Person, keep_suppressed: bool) -> Result<Erasure, EraseError> {
        let person = person.checked().map_err(ErasureError::from)?;
        self.check(project).await?;
        let part = feed::key_part(&self.runner.control.snapshot(), project);
        let erasures = Erasures {
            store: &self.store,
            writer: self.runner.shards.home(),
            key: &self.runner.key,
            key_part: part.as_deref(),
            project,
            by: ACTOR,
            now_ms: now_ms(),
        };
        let erasure = erasures.request(&Request { person, keep_suppressed }).await?;
        let details = json!({ "subjects": erasure.document.subjects, "keepSuppressed": keep_suppressed });
        let (action, object) = ("privacy.erase", erasure.id.as_str());
        audit::write(&self.store, &Done { project, actor: ACTOR, action, object, result: "done", details }).await;
        Ok(erasure)
    }

    /// A misspelt project would have a report that says that nothing was there.
    async fn check(&self, project: &str) -> Result<(), EraseError> {
        if self.runner.control.snapshot().has_project(project) {
            return Ok(());
        }
        for shard in self.runner.shards.iter() {
            if rows::has_project(shard, project).await? {
                return Ok(());
            }
        }
        Err(EraseError::UnknownProject(project.to_owned()))
    }

    /// Works on an erasure, or waits for a service that does, until it is done.
    pub async fn finish(&self, project: &str, id: &str) -> Result<Erasure, EraseError> {
        Ok(self.runner.finish_one(project, id).await?)
    }

    /// The same until answers are right.
    pub async fn finish_answers(&self, project: &str, id: &str) -> Result<Erasure, StepError> {
        self.runner.finish_answers(project, id).await
    }

    /// Erases again what came back.
    pub async fn reapply(&self) -> Result<Vec<(String, Erasure)>, EraseError> {
        Ok(self.runner.sweep().await?)
    }

    /// Days of which nobody was told that they changed.
    pub async fn end(self) -> Option<PendingDays> {
        let Self { runner, invalidator, .. } = self;
        drop(runner);
        Arc::into_inner(invalidator)?.into_inner().finish().await
    }
}

/// A report from a file. A job as the API shows it has its report within; only that is signed.
pub fn read(path: &Path) -> Result<Value, EraseError> {
    let text = std::fs::read(path).map_err(|source| EraseError::Report { path: path.to_owned(), source })?;
    let value = strict_json::read(&text).map_err(|_| EraseError::NotJson(path.to_owned()))?;
    Ok(value.get("report").cloned().unwrap_or(value))
}

/// Whether a report is as this installation signed it.
pub fn verify(path: &Path, key: &InstallationKey) -> Result<Value, EraseError> {
    let report = read(path)?;
    report::verify(key, &report).map_err(|problem| EraseError::NotOurs { path: path.to_owned(), problem })?;
    Ok(report)
}
