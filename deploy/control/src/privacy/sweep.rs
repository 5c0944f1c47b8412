//! Finds events of people who were erased, and has them erased again: of a restored backup, or of a batch that was begun before.

use std::collections::BTreeMap;

use tallyhouse_sql::erasure::{self as rows, Hashed};

use super::documents::{Subject, SubjectKind};
use super::erasure::Erasure;
use super::feed;
use super::runner::{Runner, StepError};
use crate::snapshot::Snapshot;

/// Of a project: who is suppressed, by hash, and from when on events are taken again.
type Suppressed = BTreeMap<u64, (Subject, i64)>;

impl Runner {
    /// Erases again what came back. Returns the erasures. A project that fails does not hold up the next.
    pub async fn sweep(&self) -> Result<Vec<(String, Erasure)>, StepError> {
        self.control.refresh().await?;
        let snapshot = self.control.snapshot();
        let (mut found, mut failed) = (Vec::new(), None);
        for (project, suppressed) in suppressed(&snapshot) {
            let key_part = feed::key_part(&snapshot, &project);
            match self.sweep_project(&project, key_part.as_deref(), &suppressed).await {
                Ok(erasures) => found.extend(erasures.into_iter().map(|erasure| (project.clone(), erasure))),
                Err(error) => {
                    tracing::warn!(project, %error, "it could not be looked whether erased events came back");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(found), Err)
    }

    async fn sweep_project(
        &self,
        project: &str,
        key_part: Option<&[u8]>,
        suppressed: &Suppressed,
    ) -> Result<Vec<Erasure>, StepError> {
        let hashed: Vec<_> =
            suppressed.iter().map(|(hash, (_, before))| Hashed { hash: *hash, before: *before }).collect();
        let mut found = Vec::new();
        for hash in rows::leftovers(&self.client, project, self.key.of_project(key_part), &hashed).await? {
            let Some((subject, before)) = suppressed.get(&hash) else { continue };
            tracing::warn!(
                project,
                subject = subject.hash,
                "events of a person who was erased are there again; erasing them"
            );
            found.push(self.erasures(project, key_part).again(vec![subject.clone()], *before).await?);
        }
        Ok(found)
    }
}

fn suppressed(snapshot: &Snapshot) -> BTreeMap<String, Suppressed> {
    let mut projects: BTreeMap<String, Suppressed> = BTreeMap::new();
    for (project, document) in feed::documents(snapshot) {
        // Nothing of a person who is suppressed for ever could come back but from before.
        let before = document.before_ms.unwrap_or(i64::MAX / 2);
        if let Some(hash) = document.subject.number().filter(|_| document.subject.kind != SubjectKind::Everybody) {
            projects.entry(project).or_default().insert(hash, (document.subject, before));
        }
    }
    projects
}
