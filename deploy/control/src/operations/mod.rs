//! What can be done to projects and keys. The HTTP API and the command line call the same functions.
//!
//! ```text
//! actor + what -> may the actor? -> is it sound? -> create the next version (compare-and-set) -> snapshot -> audit log -> answer
//! ```
//!
//! An operation is done when this process knows of it, and its copy on the disk. Other processes know of it after
//! [`crate::handle::REFRESH`]. What was refused is in the audit log too, as far as it was understood.

pub mod error;
pub mod first_start;
pub mod grants;
pub mod jobs;
pub mod keys;
pub mod projects;

use std::sync::Arc;

use serde_json::Value;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::access::{Principal, Right, Tenant};

use crate::audit::{self, AuditLine, Done, Page};
use crate::handle::Control;
use crate::snapshot::Project;
use crate::store::{ControlError, ControlStore};

pub use error::OperationError;

/// Who does something, and where.
#[derive(Debug, Clone)]
pub struct Actor {
    name: String,
    reach: Reach,
}

#[derive(Debug, Clone)]
enum Reach {
    Everything,
    Project(ProjectName),
}

impl Actor {
    /// Whoever can read the data folder can do everything.
    pub fn command_line() -> Self {
        Self { name: "command line".to_owned(), reach: Reach::Everything }
    }

    /// Who has authenticated, as far as that permits to manage anything.
    pub fn of(principal: &Principal) -> Result<Self, OperationError> {
        let reach = match &principal.tenant {
            Tenant::Installation if principal.may(Right::ManageInstallation) => Reach::Everything,
            Tenant::Project(name) if principal.may(Right::ManageProject) => {
                Reach::Project(name.parse().map_err(OperationError::BadName)?)
            }
            Tenant::Installation | Tenant::Project(_) => return Err(OperationError::Forbidden),
        };
        Ok(Self { name: principal.subject.audit_name(), reach })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The one project that the actor manages; `None`: all.
    pub fn only_project(&self) -> Option<&ProjectName> {
        match &self.reach {
            Reach::Everything => None,
            Reach::Project(name) => Some(name),
        }
    }

    /// Nothing, if the actor is an operator.
    pub fn operates(&self) -> Result<(), OperationError> {
        match self.reach {
            Reach::Everything => Ok(()),
            Reach::Project(_) => Err(OperationError::OperatorsOnly),
        }
    }

    /// Whether the actor manages a project. Others are told that there is none, which tells no names.
    pub fn manages(&self, project: &str) -> bool {
        self.only_project().is_none_or(|only| only.as_str() == project)
    }
}

/// The operations. Clones share everything.
#[derive(Clone)]
pub struct Operations {
    control: Control,
}

impl Operations {
    pub const fn new(control: Control) -> Self {
        Self { control }
    }

    pub const fn control(&self) -> &Control {
        &self.control
    }

    fn store(&self) -> Result<&ControlStore, OperationError> {
        Ok(self.control.store().ok_or(ControlError::NotConfigured)?)
    }

    /// A project that is there and that the actor manages.
    fn project(&self, actor: &Actor, name: &str) -> Result<Arc<Project>, OperationError> {
        let name: ProjectName = name.parse().map_err(OperationError::BadName)?;
        let name = name.as_str();
        let snapshot = self.control.snapshot();
        let found = snapshot.project(name).filter(|_| actor.manages(name));
        found.cloned().ok_or_else(|| OperationError::not_found("project", name))
    }

    /// The project that is named, else the only one that the actor manages.
    fn chosen(&self, actor: &Actor, named: Option<&str>) -> Result<Arc<Project>, OperationError> {
        match named.or(actor.only_project().map(ProjectName::as_str)) {
            Some(name) => self.project(actor, name),
            None => Err(OperationError::invalid("project", "is missing: say of which project")),
        }
    }

    /// Takes over what was written. That it was written is not in doubt, so a failure is only logged.
    async fn written(&self) {
        if let Err(error) = self.control.refresh().await {
            tracing::warn!(%error, "what was written is not known here yet");
        }
    }

    /// Writes to the audit log what came of an operation.
    async fn audited<T>(
        &self,
        actor: &Actor,
        what: Audited<'_>,
        outcome: Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let Audited { action, project, object, details } = what;
        if let Some(store) = self.control.store() {
            let result = outcome.as_ref().err().map_or("done", OperationError::code);
            // Whoever manages one project writes to no other one's log, whatever is named in the request.
            let project = actor.only_project().map_or(project, ProjectName::as_str);
            let done = Done {
                project: audit::cut(project),
                actor: &actor.name,
                action,
                object: audit::cut(object),
                result,
                details,
            };
            audit::write(store, &done).await;
        }
        outcome
    }

    /// Lines of the audit log, the newest first: of a project, or of everything.
    pub async fn audit(&self, actor: &Actor, page: Page) -> Result<Vec<AuditLine>, OperationError> {
        if let Some(project) = &page.project {
            project.parse::<ProjectName>().map_err(OperationError::BadName)?;
        }
        let project = match (page.project, actor.only_project()) {
            (None, only) => only.map(ToString::to_string),
            (Some(project), _) if actor.manages(&project) => Some(project),
            (Some(project), _) => return Err(OperationError::not_found("project", &project)),
        };
        Ok(audit::read(self.store()?, &Page { project, ..page }).await?)
    }
}

/// What is to be in the audit log.
struct Audited<'a> {
    action: &'static str,
    project: &'a str,
    object: &'a str,
    details: Value,
}
