//! Jobs, as their records say.

use serde::Serialize;
use serde_json::Value;

use super::{Actor, OperationError, Operations};
use crate::kind::Kind;
use crate::time;

/// A job as callers see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub id: String,
    pub project: String,
    /// When its state changed last: RFC 3339, UTC.
    pub changed: String,
    pub job: Value,
}

impl Operations {
    /// The jobs of a project, or all that the actor manages; the newest first. Of those that are done, the newest of the installation
    /// alone: an erasure is shown by its name for ever.
    pub fn jobs(&self, actor: &Actor, project: Option<&str>) -> Result<Vec<JobView>, OperationError> {
        if let Some(project) = project {
            self.project(actor, project)?;
        }
        let snapshot = self.control.snapshot();
        let wanted = snapshot.records(Kind::Job).filter(|record| {
            !record.document.is_empty()
                && actor.manages(&record.project)
                && project.is_none_or(|project| *record.project == *project)
        });
        let views = wanted.map(|record| {
            let job = serde_json::from_str(&record.document).unwrap_or(Value::Null);
            let changed = time::text(record.created_ms);
            (
                record.created_ms,
                JobView { id: record.name.to_string(), project: record.project.to_string(), changed, job },
            )
        });
        let mut views: Vec<(i64, JobView)> = views.collect();
        views.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.id.cmp(&y.id)));
        Ok(views.into_iter().map(|(_, view)| view).collect())
    }
}
