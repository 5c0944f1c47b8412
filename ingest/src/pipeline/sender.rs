//! The sender of a request, and the settings of its project. Who it is and whether it may send is decided before
//! (`tallyhouse_control::access`).

use tallyhouse_schema::normalise::ProjectRules;
use tallyhouse_schema::project::ProjectSettings;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_service::access::{Principal, Right, Subject};
use tallyhouse_service::rate_limit::LimitsOf;

use super::Pipeline;
use crate::projects::OfProject;
use crate::request::RequestError;

/// The sender of a request, and the settings of its project.
pub(super) struct Sender {
    pub(super) rules: ProjectRules,
    pub(super) subject: Subject,
    pub(super) settings: ProjectSettings,
    /// What it may send.
    pub(super) limits: LimitsOf,
    /// Hashes its people.
    pub(super) hasher: UserHasher,
}

impl Pipeline {
    pub(super) async fn sender(&self, caller: &Principal) -> Result<Sender, RequestError> {
        // Nobody without a project has the right to send.
        let project = caller.project().ok_or(RequestError::Internal)?;
        let OfProject { settings, hasher, limits } = self.projects.of(caller, project).await;
        let rules = ProjectRules {
            project: project.to_owned(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: caller.may(Right::ImportHistory),
        };
        let subject = caller.subject.clone();
        Ok(Sender { rules, subject, settings, limits, hasher })
    }
}
