//! Deletes a project: its events, rollups and dead letters, and the random part of the key under which its people are hashed.
//!
//! ```text
//! project marked as deleted     its keys open nothing any more, everywhere within 2 s
//! everybody suppressed          what is in logs, in Kafka or in a restored backup is not stored
//! rows deleted                  raw, rollups, dead letters, metric definitions
//! documents emptied             all versions of the project's record but the last, which has no key part
//! files removed                 as with an erasure
//! ```
//!
//! Without its part the key cannot be derived again, so hashes that are left in backups or exports of rollups belong to nobody. The name
//! of a deleted project is not given to another one.

use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::erasure as rows;

use super::documents::{
    DELETION, DeletionDocument, DeletionStep, EVERYBODY, Subject, SubjectKind, SuppressionDocument,
};
use super::runner::{Runner, StepError};
use crate::kind::Kind;
use crate::records::Record;
use crate::snapshot::Snapshot;
use crate::store::{ControlError, ControlStore, New};

/// Records what a deletion has to do. Twice does no harm.
pub(crate) async fn request(store: &ControlStore, project: &str, by: &str) -> Result<(), ControlError> {
    let subject = Subject { kind: SubjectKind::Everybody, hash: "0".repeat(16) };
    let everybody = SuppressionDocument { subject, before_ms: None, job: DELETION.to_owned() };
    let job = DeletionDocument { state: DeletionStep::Deleting, requested_ms: now_ms(), replaced_at: 0, files_left: 0 };
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

/// Deletions that are not done.
pub(super) fn open(snapshot: &Snapshot) -> Vec<(String, u32, DeletionDocument)> {
    let jobs = snapshot.records(Kind::Job).filter(|record| &*record.name == DELETION);
    let read = jobs.filter_map(|record| Some((record.project.to_string(), record.version, document(record)?)));
    read.filter(|(_, _, document)| document.state != DeletionStep::Done).collect()
}

fn document(record: &Record) -> Option<DeletionDocument> {
    record.read().ok()
}

impl Runner {
    /// Takes a deletion as far as it goes.
    pub(super) async fn delete_project(
        &self,
        project: &str,
        mut version: u32,
        mut job: DeletionDocument,
    ) -> Result<(), StepError> {
        if job.state == DeletionStep::Deleting {
            self.confirmed().await?;
            rows::delete_project(&self.client, project).await?;
            rows::empty_documents(&self.client, project).await?;
            job.replaced_at = rows::now(&self.client).await?;
            job.state = DeletionStep::RemovingFiles;
            version = self.write_deletion(project, version, &job).await?;
        }
        let (is_over, left) = self.files(job.replaced_at).await?;
        if is_over {
            job.files_left = left;
            job.state = DeletionStep::Done;
            self.write_deletion(project, version, &job).await?;
            tracing::info!(project, "a project is deleted");
        }
        Ok(())
    }

    async fn write_deletion(&self, project: &str, replaces: u32, job: &DeletionDocument) -> Result<u32, StepError> {
        let document = serde_json::to_string(job).unwrap_or_default();
        let new = New { kind: Kind::Job, project, name: DELETION, replaces, document: &document, by: "privacy" };
        Ok(self.store.create(&new).await?)
    }
}
