//! Authenticates the sender of a request, and looks up the settings of its project.

use axum::http::HeaderMap;
use tallyhouse_schema::normalise::ProjectRules;
use tallyhouse_schema::project::ProjectSettings;
use tallyhouse_service::keys::{self, Grant, Scope};

use super::Pipeline;
use crate::request::RequestError;

/// The sender of a request, and the settings of its project.
pub(super) struct Caller {
    pub(super) rules: ProjectRules,
    pub(super) key_id: String,
    pub(super) settings: ProjectSettings,
}

impl Pipeline {
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, RequestError> {
        let key = keys::presented(headers).ok_or(RequestError::MissingKey)?;
        let grant: &Grant = self.keys.find(key).ok_or(RequestError::UnknownKey)?;
        if !grant.allows(Scope::Ingest) {
            return Err(RequestError::WrongScope);
        }
        let settings = self.projects.of(&grant.project);
        let rules = ProjectRules {
            project: grant.project.clone(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: grant.allows(Scope::Import),
        };
        Ok(Caller { rules, key_id: grant.key_id.clone(), settings: settings.clone() })
    }
}
