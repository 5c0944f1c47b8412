//! Operations on answers and their parts together.

use std::collections::BTreeSet;

use tallyhouse_service::day_versions::DayChange;
use tokio_util::sync::CancellationToken;

use super::shared::Away;
use super::{Answers, Parts};

/// Everything that is remembered. Clones share it.
#[derive(Clone)]
pub struct Cache {
    pub answers: Answers,
    pub parts: Parts,
}

/// What was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Cleared {
    /// Answers that this process forgot.
    pub answers: u64,
    /// Parts that it forgot.
    pub parts: u64,
    /// Whether all instances clear theirs, and nothing that Redis holds is given again.
    #[serde(skip)]
    pub everywhere: Result<(), Away>,
}

impl Cache {
    /// Clears what is remembered for a project, or for all: here at once, elsewhere within a second. What Redis holds is
    /// not searched for; its keys are no longer asked for, and end by themselves.
    pub async fn clear(&self, project: Option<&str>) -> Cleared {
        self.answers.metrics.cache.cleared();
        let (answers, parts) = self.forget(project);
        // What is computed from here on has a key of the new generation; what was remembered meanwhile has not.
        let everywhere = self.answers.versions.clear(project).await;
        let (late_answers, late_parts) = self.forget(project);
        Cleared { answers: answers + late_answers, parts: parts + late_parts, everywhere }
    }

    /// Somebody changed these days who cannot raise their versions: no answer from before is given again.
    pub async fn raise(&self, days: &BTreeSet<DayChange>) -> Result<(), Away> {
        self.answers.versions.raise(days).await
    }

    /// Keeps versions current, and hot answers fresh if `warms`, until `stopped`.
    pub async fn keep(&self, warms: bool, stopped: CancellationToken) {
        let cache = self.clone();
        let cleared = move |project: Option<&str>| {
            let (cache, project) = (cache.clone(), project.map(str::to_owned));
            // Elsewhere: it takes as long as there is to forget. What is asked for meanwhile has keys of the new generation.
            tokio::task::spawn_blocking(move || {
                let (answers, parts) = cache.forget(project.as_deref());
                tracing::info!(project, answers, parts, "the cache was cleared: another process published it");
            });
        };
        let warming = async {
            if warms {
                self.answers.warm(stopped.clone()).await;
            }
        };
        tokio::join!(self.answers.versions.follow(cleared, stopped.clone()), warming);
    }

    fn forget(&self, project: Option<&str>) -> (u64, u64) {
        (self.answers.memory.clear(project), self.parts.clear(project))
    }
}
