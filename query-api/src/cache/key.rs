//! What an answer is remembered under.

use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::authorize::Scope;
use crate::plan::Plan;

/// Raised whenever the rendered form or the meaning of a plan changes, so that instances of two versions sharing a
/// Redis do not read each other's answers.
const VERSION: u32 = 1;

/// Version, project and the whole plan: everything that an answer depends on but the data itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of a plan for a project. A plan that cannot be written down has none, and is not remembered.
    pub fn of(scope: &Scope, plan: &Plan) -> Option<Self> {
        serde_json::to_string(&(VERSION, scope.project(), plan)).ok().map(|text| Self(text.into()))
    }

    /// The key of an answer that is made of a plan's rows and of more than the plan.
    pub fn of_part(scope: &Scope, plan: &Plan, more: &impl Serialize) -> Option<Self> {
        serde_json::to_string(&(VERSION, scope.project(), plan, more)).ok().map(|text| Self(text.into()))
    }

    /// The key in Redis: a digest, because the text may have kilobytes.
    pub fn in_redis(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        digest.iter().fold("tallyhouse:answer:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Bytes that the key itself takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RealtimePlan;

    #[test]
    fn projects_and_plans_do_not_meet() {
        let plan = |short_from| Plan::Realtime(RealtimePlan { short_from, long_from: 0, to: 60 });
        let key = |project: &str, short_from| Key::of(&Scope::for_test(project), &plan(short_from)).unwrap();
        assert_eq!(key("a", 1), key("a", 1));
        assert_ne!(key("a", 1), key("b", 1));
        assert_ne!(key("a", 1), key("a", 2));
        assert_ne!(key("a", 1).in_redis(), key("b", 1).in_redis());
        assert_ne!(key("a\",1", 1), key("a", 1));
    }
}
