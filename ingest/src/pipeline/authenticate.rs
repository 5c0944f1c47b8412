//! Authenticates the sender of a request, and looks up the settings of its project.

use axum::http::HeaderMap;
use tallyhouse_control::KeyError;
use tallyhouse_control::privacy::feed;
use tallyhouse_schema::normalise::ProjectRules;
use tallyhouse_schema::project::ProjectSettings;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_service::access::Right;
use tallyhouse_service::keys;

use super::Pipeline;
use crate::request::RequestError;

/// The sender of a request, and the settings of its project.
pub(super) struct Caller {
    pub(super) rules: ProjectRules,
    pub(super) key_id: String,
    pub(super) settings: ProjectSettings,
    /// Hashes its people.
    pub(super) hasher: UserHasher,
}

impl Pipeline {
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, RequestError> {
        let text = keys::presented(headers).ok_or(RequestError::MissingKey)?;
        let key = self.control.authenticate(text).await?;
        let principal = &key.principal;
        if !principal.may(Right::SendEvents) {
            return Err(RequestError::WrongScope);
        }
        let project = principal.project().ok_or(KeyError::Unknown)?;
        let settings = self.projects.of(project);
        let rules = ProjectRules {
            project: project.to_owned(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: principal.may(Right::ImportHistory),
        };
        let hasher = self.user_hash_key.hasher(feed::key_part(&self.control.snapshot(), project).as_deref());
        Ok(Caller { rules, key_id: key.id.to_string(), settings: settings.clone(), hasher })
    }
}
