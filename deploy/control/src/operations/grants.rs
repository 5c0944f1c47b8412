//! Accounts of people's tools, as their records say. `tallyhouse users` makes them: whoever does decides about who comes into ClickHouse.

use serde::Serialize;

use super::{Actor, OperationError, Operations};
use crate::kind::Kind;
use crate::records::grant::{GrantDocument, Tool};
use crate::time;

/// An account as callers see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    /// The user in ClickHouse.
    pub account: String,
    pub project: String,
    #[serde(rename = "for")]
    pub tool: Tool,
    pub note: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub rotated_at: Option<String>,
}

impl Operations {
    /// The accounts in force of a project, or all that the actor manages; by project and name.
    pub fn grants(&self, actor: &Actor, project: Option<&str>) -> Result<Vec<GrantView>, OperationError> {
        if let Some(project) = project {
            self.project(actor, project)?;
        }
        let snapshot = self.control.snapshot();
        let wanted = snapshot.records(Kind::Grant).filter(|record| {
            // With a deleted project its accounts are gone.
            actor.manages(&record.project)
                && !snapshot.is_deleted(&record.project)
                && project.is_none_or(|project| *record.project == *project)
        });
        let views = wanted.filter_map(|record| {
            // One that cannot be read opens nothing, which the log of the process with the engine says.
            let GrantDocument { tool, created_ms, rotated_ms, deleted_ms, note, .. } = record.read().ok()?;
            deleted_ms.is_none().then(|| GrantView {
                account: record.name.to_string(),
                project: record.project.to_string(),
                tool,
                note,
                created_at: time::text(created_ms),
                rotated_at: rotated_ms.map(time::text),
            })
        });
        Ok(views.collect())
    }
}
