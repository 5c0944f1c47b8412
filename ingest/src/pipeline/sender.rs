//! The sender of a request, and the settings of its project. Who it is and whether it may send is decided before
//! (`tallyhouse_control::access`).

use tallyhouse_control::privacy::feed;
use tallyhouse_schema::normalise::ProjectRules;
use tallyhouse_schema::project::{Priority, ProjectSettings};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_service::access::{Principal, Right};
use tallyhouse_service::rate_limit::{self, LimitsOf};

use super::Pipeline;
use crate::request::RequestError;

/// The sender of a request, and the settings of its project.
pub(super) struct Sender {
    pub(super) rules: ProjectRules,
    pub(super) key_id: String,
    pub(super) settings: ProjectSettings,
    /// What it may send.
    pub(super) limits: LimitsOf,
    /// Hashes its people.
    pub(super) hasher: UserHasher,
}

impl Pipeline {
    pub(super) fn sender(&self, caller: &Principal) -> Result<Sender, RequestError> {
        // Nobody without a project has the right to send.
        let project = caller.project().ok_or(RequestError::Internal)?;
        let settings = self.projects.of(project);
        let rules = ProjectRules {
            project: project.to_owned(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: caller.may(Right::ImportHistory),
        };
        let snapshot = self.control.snapshot();
        let hasher = self.user_hash_key.hasher(feed::key_part(&snapshot, project).as_deref());
        let limits = snapshot.limits_of(caller).with_priority(match settings.priority {
            Priority::Low => rate_limit::Priority::Low,
            Priority::Normal => rate_limit::Priority::Normal,
            Priority::High => rate_limit::Priority::High,
        });
        let key_id = caller.subject.name().to_owned();
        Ok(Sender { rules, key_id, settings, limits, hasher })
    }
}
