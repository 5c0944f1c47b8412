//! Finds events of people who were erased, and has them erased again: of a restored backup, or of a batch that was begun before.

use std::collections::{BTreeMap, BTreeSet};

use tallyhouse_sql::erasure::{self as rows, Hashed};

use super::documents::{Subject, SubjectKind};
use super::erasure::Erasure;
use super::feed;
use super::runner::{Runner, StepError};
use crate::snapshot::Snapshot;

/// Of a project: who is suppressed, by hash, and from when on events are taken again.
type Suppressed = BTreeMap<u64, (Subject, i64)>;

/// What came of a sweep.
#[derive(Default)]
pub(super) struct Swept {
    found: Vec<(String, Erasure)>,
    /// Projects that could not be looked at.
    pub(super) failed: BTreeMap<String, StepError>,
}

impl Runner {
    /// Erases again what came back. Returns the erasures. A project that fails does not hold up the next.
    pub async fn sweep(&self) -> Result<Vec<(String, Erasure)>, StepError> {
        let Swept { found, failed } = self.sweep_of(|_| true).await?;
        failed.into_values().next().map_or(Ok(found), Err)
    }

    /// The same of some projects.
    pub(super) async fn sweep_of(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Swept, StepError> {
        self.control.refresh().await?;
        self.shards.require().await?;
        let snapshot = self.control.snapshot();
        let mut swept = Swept::default();
        for (project, suppressed) in suppressed(&snapshot).into_iter().filter(|(project, _)| is_wanted(project)) {
            let key_part = feed::key_part(&snapshot, &project);
            match self.sweep_project(&project, key_part.as_deref(), &suppressed).await {
                Ok(erasures) => swept.found.extend(erasures.into_iter().map(|erasure| (project.clone(), erasure))),
                Err(error) => {
                    tracing::warn!(project, %error, "it could not be looked whether erased events came back");
                    swept.failed.insert(project, error);
                }
            }
        }
        Ok(swept)
    }

    async fn sweep_project(
        &self,
        project: &str,
        key_part: Option<&[u8]>,
        suppressed: &Suppressed,
    ) -> Result<Vec<Erasure>, StepError> {
        let hashed: Vec<_> =
            suppressed.iter().map(|(hash, (_, before))| Hashed { hash: *hash, before: *before }).collect();
        let (mut found, mut left) = (Vec::new(), BTreeSet::new());
        for (number, client) in self.shards.numbered() {
            let here = rows::leftovers(client, project, self.key.of_project(key_part), &hashed).await;
            left.extend(here.map_err(|error| self.on_shard(number, error.into()))?);
        }
        for hash in left {
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
