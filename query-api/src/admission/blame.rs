//! Whose fault a query is that came to no end: its project's, or ClickHouse's. Pure.
//!
//! ```text
//! a query timed out, or needed memory that the server does not have
//!   ClickHouse did not answer the last ping             -> ClickHouse's fault
//!   other projects had as many such failures of late    -> ClickHouse's fault
//!   else                                                -> of this project's questions: says nothing about ClickHouse
//! ```
//!
//! Else one project that asks for too much would open the breaker for all. Its failures count only as far as others have as many.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// For so long a failure is remembered: as long as the breaker's window.
const LATELY: Duration = Duration::from_secs(60);

/// Failures that are remembered; the oldest is forgotten first.
const MOST: usize = 1_000;

/// Failures of late that may be of the questions.
#[derive(Debug, Default)]
pub(super) struct Blame {
    recent: VecDeque<(Instant, String)>,
    /// Whether ClickHouse did not answer when it was last looked at.
    is_away: bool,
}

impl Blame {
    /// ClickHouse was looked at.
    pub(super) fn pinged(&mut self, is_there: bool) {
        self.is_away = !is_there;
    }

    /// A project's query came to no end; whether that counts against ClickHouse.
    pub(super) fn is_of_the_store(&mut self, project: &str, now: Instant) -> bool {
        self.recent.retain(|(at, _)| now.saturating_duration_since(*at) < LATELY);
        if self.recent.len() >= MOST {
            self.recent.pop_front();
        }
        self.recent.push_back((now, project.to_owned()));
        let own = self.recent.iter().filter(|(_, of)| of == project).count();
        self.is_away || own <= self.recent.len() - own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_project_s_failures_are_its_own_and_those_of_many_are_not() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        assert!((0..50).all(|_| !blame.is_of_the_store("a", now)));
        assert!(blame.is_of_the_store("b", now), "others have as many");
        assert!(!blame.is_of_the_store("a", now), "51 against one");
        let later = now + LATELY;
        assert!(!blame.is_of_the_store("b", later), "what is long ago does not count");
        assert!(blame.is_of_the_store("a", later));
        let of_c = (0..2 * MOST).filter(|_| blame.is_of_the_store("c", later)).count();
        assert_eq!((of_c, blame.recent.len()), (2, MOST), "as many as the others have, in bounded memory");
    }

    #[test]
    fn a_clickhouse_that_does_not_answer_is_to_blame() {
        let (mut blame, now) = (Blame::default(), Instant::now());
        blame.pinged(false);
        assert!(blame.is_of_the_store("a", now));
        blame.pinged(true);
        assert!(!blame.is_of_the_store("a", now));
    }
}
