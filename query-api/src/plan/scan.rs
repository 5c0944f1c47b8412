//! Which raw events a plan scans.

use crate::condition::Condition;

/// Which events a plan looks at: what a project's events are narrowed down to by their key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// From this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// Only of these types, or `None` for all.
    pub types: Option<Vec<String>>,
}

impl Scan {
    pub(super) fn of(from: i64, to: i64, condition: &Condition) -> Self {
        let types = condition.event_types().map(|types| types.into_iter().map(str::to_owned).collect());
        Self { from, to, types }
    }
}
