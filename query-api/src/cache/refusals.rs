//! Remembers refusals that a retry would only repeat: a query that is too expensive costs ClickHouse seconds each time.

use std::time::Duration;

use moka::sync::Cache;

use super::Key;
use super::stamp::VersionStamp;
use crate::store::ReadError;

/// For so long the same query of the same data is refused without being tried.
pub(crate) const REFUSED_MS: i64 = 5_000;

/// Bytes of questions that are remembered.
const BYTES: u64 = 4 << 20;

/// The refusals of this process. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    known: Cache<(Key, VersionStamp), (ReadError, i64)>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        let weigh = |(key, _): &(Key, VersionStamp), _: &(ReadError, i64)| {
            u32::try_from(key.bytes() + size_of::<(Key, VersionStamp, ReadError, i64)>()).unwrap_or(u32::MAX)
        };
        let lifetime = Duration::from_millis(REFUSED_MS.unsigned_abs());
        Self { known: Cache::builder().max_capacity(BYTES).weigher(weigh).time_to_live(lifetime).build() }
    }

    /// Why the question was refused just now, if it was.
    pub(super) fn of(&self, key: &Key, stamp: VersionStamp, now_ms: i64) -> Option<ReadError> {
        let (error, refused_ms) = self.known.get(&(key.clone(), stamp))?;
        (0..REFUSED_MS).contains(&(now_ms - refused_ms)).then_some(error)
    }

    /// What came of trying; only failures of the question itself are remembered.
    pub(super) fn tried(&self, key: &Key, stamp: VersionStamp, outcome: Result<(), ReadError>, now_ms: i64) {
        match outcome {
            Err(error) if error.is_of_the_question() => self.known.insert((key.clone(), stamp), (error, now_ms)),
            Err(_) => {}
            Ok(()) => self.known.invalidate(&(key.clone(), stamp)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::Scope;
    use crate::cache::stamp::{DaysStamp, Generation};

    const GENERATION: Generation = Generation::Process { all: 0, project: 0 };
    const TOO_EXPENSIVE: ReadError = ReadError::TooExpensive { limit: "memory" };

    fn key(project: &str) -> Key {
        Key::of(&Scope::for_test(project), "a question", GENERATION).unwrap()
    }

    fn stamp(sum: u64) -> VersionStamp {
        VersionStamp { generation: GENERATION, days: DaysStamp::Known { epoch: 1, sum } }
    }

    #[test]
    fn a_refusal_is_of_a_project_of_the_data_and_of_a_few_seconds() {
        let refusals = Refusals::new();
        refusals.tried(&key("p"), stamp(1), Err(TOO_EXPENSIVE), 1_000);
        let of = |project, sum, now_ms| refusals.of(&key(project), stamp(sum), now_ms);
        assert_eq!((of("p", 1, 1_000), of("p", 1, 5_999)), (Some(TOO_EXPENSIVE), Some(TOO_EXPENSIVE)));
        assert_eq!([of("q", 1, 1_000), of("p", 2, 1_000), of("p", 1, 6_000), of("p", 1, 999)], [None; 4]);
        refusals.tried(&key("p"), stamp(1), Ok(()), 1_500);
        assert_eq!(of("p", 1, 1_500), None);
    }

    #[test]
    fn what_passes_is_not_remembered() {
        let refusals = Refusals::new();
        for error in [
            ReadError::Unavailable,
            ReadError::LeftAlone { retry_after_s: 1 },
            ReadError::Overloaded { retry_after_s: 1 },
            ReadError::TenantBusy { retry_after_s: 1 },
            ReadError::OutOfTime { retry_after_s: 1 },
            ReadError::TimedOut,
            ReadError::Failed,
        ] {
            refusals.tried(&key("p"), stamp(1), Err(error), 0);
            assert_eq!(refusals.of(&key("p"), stamp(1), 0), None, "{error}");
        }
    }
}
