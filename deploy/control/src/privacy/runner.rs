//! Works on an erasure: a step (`super::steps`) after the other, each written down before the next. `super::rounds` says when, and on which.
//!
//! An erasure that waits for files does not hold up the next, nor does one that fails: its job tells why, and it is tried again later. Each step is about
//! all shards, and is begun when all answer. What was done on each is written down; rollups that were rebuilt on one are not rebuilt again there.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::lock::QueryLock;
use tallyhouse_sql::rollups::RollupsError;
use tallyhouse_sql::rollups::rebuild::ChangedDay;
use tallyhouse_sql::{AllShards, ShardsError, StoreError};
use tokio::time::sleep;

use super::documents::{ErasureDocument, Step};
use super::erasure::{Erasure, ErasureError, Erasures};
use super::hash_key::InstallationKey;
use crate::handle::Control;
use crate::records::Document as _;
use crate::store::{ControlError, ControlStore, New};
use crate::time;

pub(super) const LOCK: &str = "tallyhouse-privacy";
pub(super) const LOCK_WITHIN: Duration = Duration::from_secs(3);

/// Between looks for work.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between looks whether ClickHouse has deleted rows: others may take the lock meanwhile.
pub(super) const DELETIONS_EVERY: Duration = Duration::from_secs(10);

/// Between looks for files that are gone: ClickHouse keeps them for minutes.
pub(super) const FILES_EVERY: Duration = Duration::from_secs(10);

/// After inserts were held back in vain, doubled each time: all tenants wait meanwhile.
const GATE_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);
const GATE_AGAIN_AT_MOST: Duration = Duration::from_secs(8 * 3_600);

/// Cached answers may name what is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes which days changed, so cached answers are not invalidated")]
pub struct CachesNotTold;

/// What came of telling the caches.
pub type Told = Pin<Box<dyn Future<Output = Result<(), CachesNotTold>> + Send>>;

/// Invalidates cached answers about days.
pub type Invalidate = Arc<dyn Fn(Vec<ChangedDay>) -> Told + Send + Sync>;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rollups(#[from] RollupsError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    #[error(transparent)]
    Caches(#[from] CachesNotTold),
    /// A shard is away, or not listed as it is.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// On a shard of several.
    #[error("shard {number}: {error}")]
    OnShard { number: u32, error: Box<Self> },
    /// Somebody else works on it.
    #[error("another process has taken the erasures over")]
    LockLost,
}

/// What came of a step, or of all that can be done for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepOutcome {
    /// The next step can begin.
    Advanced,
    /// Nothing is left to do now: it is done, or waits for files.
    Idle,
    /// ClickHouse is still deleting.
    Deleting,
    /// The same, and its last attempt failed.
    DeletionFails,
}

/// Works on the erasures of an installation.
#[derive(Clone)]
pub struct Runner {
    pub control: Control,
    pub store: ControlStore,
    /// As the user that writes.
    pub shards: AllShards,
    pub key: InstallationKey,
    pub invalidate: Invalidate,
}

/// An erasure of a project.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) project: String,
    pub(super) erasure: Erasure,
}

impl StepError {
    /// Whether inserts were held back, and in vain.
    fn has_held_back(&self) -> bool {
        use RollupsError::{BadCopy, GateTimedOut, NotConverged};
        match self {
            Self::OnShard { error, .. } => error.has_held_back(),
            other => matches!(other, Self::Rollups(GateTimedOut(_) | NotConverged(_) | BadCopy { .. })),
        }
    }

    /// Whether somebody else changed the job meanwhile.
    const fn is_conflict(&self) -> bool {
        matches!(self, Self::Control(ControlError::Conflict { .. }))
    }
}

/// How long inserts are left alone after they were held back in vain so many times.
fn gate_again_after(times: u32) -> Duration {
    GATE_AGAIN_AT_MOST.min(GATE_AGAIN_AFTER * 2_u32.saturating_pow(times.saturating_sub(1).min(16)))
}

impl Runner {
    /// Works on one erasure alone, until it is done: for a command.
    pub async fn finish_one(&self, project: &str, id: &str) -> Result<Erasure, StepError> {
        self.until(project, id, |step| step == Step::Done).await
    }

    /// The same until answers are right; a service waits until replaced files are gone.
    pub async fn finish_answers(&self, project: &str, id: &str) -> Result<Erasure, StepError> {
        self.until(project, id, |step| matches!(step, Step::RemovingFiles | Step::Done)).await
    }

    async fn until(&self, project: &str, id: &str, is_enough: fn(Step) -> bool) -> Result<Erasure, StepError> {
        loop {
            self.control.refresh().await?;
            let Some(erasure) = self.erasures(project, None).find(id).await? else {
                return Err(ErasureError::from(ControlError::Conflict { in_force: 0 }).into());
            };
            if is_enough(erasure.document.state) {
                return Ok(erasure);
            }
            let is_for_files = erasure.document.state == Step::RemovingFiles;
            let mut pause = if is_for_files { FILES_EVERY } else { LOOK_EVERY };
            // Without the lock a service works on it.
            if let Some(lock) = QueryLock::take(self.shards.home(), LOCK, LOCK_WITHIN).await? {
                match self.finish(&lock, Open { project: project.to_owned(), erasure }).await? {
                    StepOutcome::Advanced | StepOutcome::Idle => {}
                    StepOutcome::Deleting | StepOutcome::DeletionFails => pause = DELETIONS_EVERY,
                }
            }
            sleep(pause).await;
        }
    }

    pub(super) fn erasures<'a>(&'a self, project: &'a str, key_part: Option<&'a [u8]>) -> Erasures<'a> {
        Erasures {
            store: &self.store,
            writer: self.shards.home(),
            key: &self.key,
            key_part,
            project,
            by: "privacy",
            now_ms: now_ms(),
        }
    }

    /// Says on which shard something happened, where there are several.
    pub(super) fn on_shard(&self, number: u32, error: StepError) -> StepError {
        if self.shards.is_cluster() { StepError::OnShard { number, error: Box::new(error) } } else { error }
    }

    pub(super) async fn finish(
        &self,
        lock: &QueryLock,
        Open { project, mut erasure }: Open,
    ) -> Result<StepOutcome, StepError> {
        loop {
            if lock.is_lost() {
                return Err(StepError::LockLost);
            }
            match self.step(&project, &mut erasure).await {
                Ok(StepOutcome::Advanced) => {}
                // Somebody asked for the same person. Every step may be done again, after those of others.
                Err(error) if error.is_conflict() => return Ok(StepOutcome::Idle),
                Ok(outcome) => return Ok(outcome),
                Err(error) => return Err(error),
            }
        }
    }

    /// All shards, of which rows can be deleted and rollups rebuilt.
    pub(super) async fn require_deletable(&self) -> Result<(), StepError> {
        self.shards.require().await?;
        if self.shards.is_replicated().await? { Err(ErasureError::Replicated.into()) } else { Ok(()) }
    }

    /// Takes an erasure a step further.
    async fn step(&self, project: &str, erasure: &mut Erasure) -> Result<StepOutcome, StepError> {
        match erasure.document.state {
            Step::Suppressing | Step::Deleting => self.require_deletable().await?,
            Step::Rebuilding | Step::RemovingFiles => self.shards.require().await?,
            Step::Done => return Ok(StepOutcome::Idle),
        }
        let outcome = match erasure.document.state {
            Step::Suppressing => self.suppress(project, erasure).await?,
            Step::Deleting => self.delete(project, erasure).await?,
            Step::Rebuilding => self.rebuild(project, erasure).await?,
            Step::RemovingFiles => self.remove_files(project, erasure).await?,
            Step::Done => StepOutcome::Idle,
        };
        if outcome != StepOutcome::Advanced {
            return Ok(outcome);
        }
        erasure.document.problem = None;
        (erasure.document.held_back, erasure.document.not_before_ms) = (0, 0);
        self.write(project, erasure).await?;
        tracing::info!(project, erasure = erasure.id, state = ?erasure.document.state, "an erasure went on");
        Ok(StepOutcome::Advanced)
    }

    pub(super) async fn write(&self, project: &str, erasure: &mut Erasure) -> Result<(), StepError> {
        erasure.document.updated_ms = now_ms();
        let document = serde_json::to_string(&erasure.document).unwrap_or_default();
        let new = New {
            kind: ErasureDocument::KIND,
            project,
            name: &erasure.id,
            replaces: erasure.version,
            document: &document,
            by: "privacy",
        };
        erasure.version = self.store.create(&new).await?;
        Ok(())
    }

    /// Says in the job why it does not go on.
    pub(super) async fn tell(&self, project: &str, id: &str, error: &StepError) {
        let Ok(Some(mut erasure)) = self.erasures(project, None).find(id).await else { return };
        if erasure.document.fail(error, now_ms()) {
            drop(self.write(project, &mut erasure).await);
        }
    }
}

impl ErasureDocument {
    /// Records why it does not go on. Returns whether that is new.
    fn fail(&mut self, error: &StepError, now_ms: i64) -> bool {
        let mut problem = error.to_string();
        let is_held_back = error.has_held_back();
        if is_held_back {
            self.held_back = self.held_back.saturating_add(1);
            let pause = gate_again_after(self.held_back);
            self.not_before_ms = now_ms.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
            problem = format!("{problem}; tried again at {}", time::text(self.not_before_ms));
        }
        let is_new = is_held_back || self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::erasure::tests::document;

    #[test]
    fn inserts_are_left_alone_for_longer_each_time_that_they_were_held_back_in_vain() {
        let held_back = StepError::from(RollupsError::GateTimedOut(Duration::from_secs(60)));
        let mut document = document();
        let minutes: Vec<i64> = (0..8)
            .map(|_| {
                assert!(document.fail(&held_back, 1_000));
                (document.not_before_ms - 1_000) / 60_000
            })
            .collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 480, 480, 480]);
        assert!(document.problem.as_ref().unwrap().contains("tried again at 1970-01-01T08:00:01"), "{document:?}");
        for held_back in [
            RollupsError::NotConverged(3),
            RollupsError::BadCopy { table: "rollup_1h", partition: "202601".to_owned() },
        ] {
            assert!(document.fail(&held_back.into(), 2_000) && document.held_back > 8, "{document:?}");
        }
        let busy = StepError::from(RollupsError::Busy);
        assert!(
            document.fail(&busy, 2_000) && !document.fail(&busy, 3_000),
            "a version of the job for each new problem"
        );
    }
}
