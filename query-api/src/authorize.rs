//! From a caller to a [`Scope`]. Everything below takes a scope, so no project name can come from anywhere else.
//!
//! Who a caller is and whether they may ask is decided before (`tallyhouse_control::access`).

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tallyhouse_service::access::{Caller, Denied, Principal, Right, Rights, Subject, Tenant};
use tallyhouse_service::cors::Origins;

/// What a caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    project: String,
    caller: Arc<Principal>,
}

impl Scope {
    /// The scope of a caller; of an operator, who sees no project's data, there is none.
    pub fn of(caller: Arc<Principal>) -> Result<Self, Denied> {
        let project = caller.project().ok_or(Denied::MissingRight(Right::ReadMetrics))?.to_owned();
        Ok(Self { project, caller })
    }

    /// Of the service itself, which asks a project's questions again with nobody who waits.
    pub fn of_nobody(project: &str) -> Self {
        let caller = Principal {
            tenant: Tenant::Project(project.into()),
            subject: Subject::Key("".into()),
            rights: Rights::of(&[Right::ReadMetrics]),
            origins: Origins::None,
        };
        Self { project: project.to_owned(), caller: Arc::new(caller) }
    }

    /// The only project whose data the caller sees.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Who asks, for records: the id of a key, or `user:` and a person's name. Not secret.
    pub fn audit_name(&self) -> String {
        self.caller.subject.audit_name()
    }

    /// Who asks, among all callers of all projects.
    pub fn unique_caller(&self) -> String {
        format!("{}/{:?}", self.project, self.caller.subject)
    }

    #[cfg(test)]
    pub(crate) fn for_test(project: &str) -> Self {
        Self::of_nobody(project)
    }
}

impl<S: Sync> FromRequestParts<S> for Scope {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Denied> {
        let Caller(caller) = Caller::from_request_parts(parts, state).await?;
        Self::of(caller)
    }
}
