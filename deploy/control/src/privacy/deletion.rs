//! Deletes a project: its events, rollups and dead letters, and the random part of the key under which its people are hashed.
//!
//! ```text
//! project marked as deleted     its keys open nothing any more, everywhere within 2 s; a kill from here on: the runner records the rest
//! everybody suppressed          what is in logs, in Kafka or in a restored backup is not stored
//! rows deleted                  raw, rollups, dead letters, metric definitions; on every shard at once
//! documents emptied             all versions of the project's record but the last, which has no key part
//! files removed                 as with an erasure
//! ```
//!
//! Without its part the key cannot be derived again, so hashes that are left in backups or exports of rollups belong to nobody. The name
//! of a deleted project is not given to another one.

use futures_util::future::join_all;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::erasure::{self as rows, DeletionProgress};

use super::documents::{
    DELETION, DeletionDocument, DeletionStep, EVERYBODY, Subject, SubjectKind, SuppressionDocument,
};
use super::runner::{Runner, StepError, StepOutcome};
use super::steps::{FAILING, files};
use crate::kind::Kind;
use crate::records::ProjectDocument;
use crate::snapshot::Snapshot;
use crate::store::{ControlError, ControlStore, New};

/// Records what a deletion has to do. Twice does no harm.
pub(crate) async fn request(store: &ControlStore, project: &str, by: &str) -> Result<(), ControlError> {
    let subject = Subject { kind: SubjectKind::Everybody, hash: "0".repeat(16) };
    let everybody = SuppressionDocument { subject, before_ms: None, job: DELETION.to_owned() };
    let job = DeletionDocument {
        state: DeletionStep::Deleting,
        requested_ms: now_ms(),
        replaced_at: 0,
        replaced_at_others: Vec::new(),
        files_left: 0,
        problem: None,
    };
    for (kind, name, document) in [
        (Kind::Suppression, EVERYBODY, serde_json::to_string(&everybody)),
        (Kind::Job, DELETION, serde_json::to_string(&job)),
    ] {
        let document = document.unwrap_or_default();
        match store.create(&New { kind, project, name, replaces: 0, document: &document, by }).await {
            Ok(_) | Err(ControlError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A deletion that is not done.
#[derive(Debug, Clone)]
pub(super) struct OpenDeletion {
    pub(super) project: String,
    /// `None`: whoever marked the project as deleted did not come so far as to record it.
    job: Option<(u32, DeletionDocument)>,
}

impl OpenDeletion {
    pub(super) fn is_for_files(&self) -> bool {
        self.job.as_ref().is_some_and(|(_, job)| job.state == DeletionStep::RemovingFiles)
    }
}

/// Deletions that are not done.
pub(super) fn open(snapshot: &Snapshot) -> Vec<OpenDeletion> {
    let deleted = snapshot.records(Kind::Project).filter(|record| {
        // Without the cheap look every project would be parsed.
        record.document.contains("\"deleted\"") && record.read::<ProjectDocument>().is_ok_and(|project| project.deleted)
    });
    let open = deleted.filter_map(|record| {
        let project = record.project.to_string();
        let Some(job) = snapshot.record(Kind::Job, &project, DELETION) else {
            return Some(OpenDeletion { project, job: None });
        };
        let document = job.read::<DeletionDocument>().ok()?;
        (document.state != DeletionStep::Done).then(|| OpenDeletion { project, job: Some((job.version, document)) })
    });
    open.collect()
}

impl Runner {
    /// Takes a deletion as far as it goes.
    pub(super) async fn delete_project(
        &self,
        OpenDeletion { project, job }: OpenDeletion,
    ) -> Result<StepOutcome, StepError> {
        let Some((mut version, mut job)) = job else {
            tracing::warn!(project, "a project was marked as deleted, and its deletion was not recorded");
            request(&self.store, &project, "privacy").await?;
            // It is found at the next look.
            self.control.refresh().await?;
            return Ok(StepOutcome::Idle);
        };
        let project = project.as_str();
        if job.state == DeletionStep::Deleting {
            self.require_deletable().await?;
            self.confirmed().await?;
            let outcome = self.delete_rows(project).await?;
            let problem = (outcome == StepOutcome::DeletionFails).then(|| FAILING.to_owned());
            if job.problem != problem {
                job.problem = problem;
                version = self.write_deletion(project, version, &job).await?;
            }
            if outcome != StepOutcome::Advanced {
                // Meanwhile others have their turn.
                return Ok(outcome);
            }
            rows::forget_project(self.shards.home(), project).await?;
            let mut replaced_at = Vec::new();
            for client in self.shards.iter() {
                replaced_at.push(rows::now(client).await?);
            }
            let mut replaced_at = replaced_at.into_iter();
            job.replaced_at = replaced_at.next().unwrap_or_default();
            job.replaced_at_others = replaced_at.collect();
            job.state = DeletionStep::RemovingFiles;
            version = self.write_deletion(project, version, &job).await?;
        } else {
            self.shards.require().await?;
        }
        let since = std::iter::once(&job.replaced_at).chain(&job.replaced_at_others).copied();
        let (mut is_over, mut left) = (true, 0);
        for (client, since) in self.shards.iter().zip(since) {
            let (is_over_here, left_here) = files(client, since).await?;
            is_over &= is_over_here;
            left += left_here;
        }
        if is_over {
            job.files_left = left;
            job.state = DeletionStep::Done;
            self.write_deletion(project, version, &job).await?;
            tracing::info!(project, "a project is deleted");
        }
        Ok(StepOutcome::Idle)
    }

    /// What is deleted on one shard is not kept waiting by another one.
    async fn delete_rows(&self, project: &str) -> Result<StepOutcome, StepError> {
        let deleting = self.shards.iter().map(|client| rows::delete_project(client, project));
        let mut outcome = StepOutcome::Advanced;
        for (number, deleted) in (1..).zip(join_all(deleting).await) {
            match deleted.map_err(|error| self.on_shard(number, error.into()))? {
                DeletionProgress::Failing => outcome = StepOutcome::DeletionFails,
                DeletionProgress::Pending if outcome == StepOutcome::Advanced => outcome = StepOutcome::Deleting,
                DeletionProgress::Pending | DeletionProgress::Done => {}
            }
        }
        Ok(outcome)
    }

    async fn write_deletion(&self, project: &str, replaces: u32, job: &DeletionDocument) -> Result<u32, StepError> {
        let document = serde_json::to_string(job).unwrap_or_default();
        let new = New { kind: Kind::Job, project, name: DELETION, replaces, document: &document, by: "privacy" };
        Ok(self.store.create(&new).await?)
    }
}
