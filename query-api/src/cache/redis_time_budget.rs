//! The time budget of one answer for Redis, over all commands that it sends.
//!
//! Each command has a deadline of its own; without a budget, an answer of many parts would pay it for each. So the times of an
//! answer's commands are added up. Once they reach one deadline, or a command failed, that answer sends no further command. A command's own
//! deadline is never shortened, so that the breaker hears the outcome of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::shared::TIME_BUDGET;

/// What an answer has waited so far; clones share it.
#[derive(Debug, Clone, Default)]
pub struct RedisTimeBudget {
    spent_us: Arc<AtomicU64>,
}

impl RedisTimeBudget {
    /// Whether Redis is no longer to be asked.
    pub fn is_over(&self) -> bool {
        self.spent() >= TIME_BUDGET
    }

    /// What commands took so far.
    pub(super) fn spent(&self) -> Duration {
        Duration::from_micros(self.spent_us.load(Ordering::Relaxed))
    }

    /// A command took so long.
    pub(super) fn spend(&self, time: Duration) {
        self.spent_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 1), Ordering::Relaxed);
    }

    /// A command failed.
    pub(super) fn end(&self) {
        self.spend(TIME_BUDGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_a_deadline_of_waiting_or_with_a_failure() {
        let answer = RedisTimeBudget::default();
        let part = answer.clone();
        part.spend(TIME_BUDGET - Duration::from_micros(1));
        assert!(!answer.is_over());
        part.spend(Duration::from_micros(1));
        assert!(answer.is_over());
        let other = RedisTimeBudget::default();
        other.end();
        assert!(other.is_over());
    }
}
