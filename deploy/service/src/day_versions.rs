//! How often each day of each project was written to: what a cached answer about that day is worth.
//!
//! A version is part of a cache key. Whoever stores events, late ones too, raises the versions of the days that they touched, so
//! that an answer from before is no longer found. Versions mean nothing by themselves and start anew with the process.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

/// A UTC day, as days since 1970.
pub type Day = i32;

/// Days that an insert touched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Touched {
    /// Of which project.
    pub project: String,
    /// Which day.
    pub day: Day,
}

/// Days that are remembered at most. Above, all are forgotten at once, and every version changes.
const MOST: usize = 200_000;

/// The versions of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct DayVersions {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Raised when days were forgotten.
    epoch: u64,
    days: HashMap<String, HashMap<Day, u64>>,
    entries: usize,
}

impl DayVersions {
    /// Raises the versions of days.
    pub fn raise(&self, touched: &[Touched]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for Touched { project, day } in touched {
            if state.entries >= MOST {
                *state = State { epoch: state.epoch + 1, ..State::default() };
            }
            if !state.days.contains_key(project) {
                state.days.insert(project.clone(), HashMap::new());
            }
            let mut is_new = false;
            if let Some(days) = state.days.get_mut(project) {
                *days.entry(*day).or_insert_with(|| {
                    is_new = true;
                    0
                }) += 1;
            }
            state.entries += usize::from(is_new);
        }
    }

    /// The version of a range of days: another whenever one of them was written to.
    pub fn of(&self, project: &str, days: RangeInclusive<Day>) -> (u64, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let known = state.days.get(project);
        let sum = known.map_or(0, |known| known.iter().filter(|(day, _)| days.contains(day)).map(|(_, n)| n).sum());
        (state.epoch, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(project: &str, day: Day) -> Touched {
        Touched { project: project.to_owned(), day }
    }

    #[test]
    fn a_range_changes_when_one_of_its_days_does() {
        let versions = DayVersions::default();
        let before = versions.of("p", 1..=7);
        versions.raise(&[touched("p", 8), touched("q", 3)]);
        assert_eq!(versions.of("p", 1..=7), before);
        versions.raise(&[touched("p", 7)]);
        assert_ne!(versions.of("p", 1..=7), before);
    }

    #[test]
    fn memory_is_bounded_and_forgetting_changes_every_version() {
        let versions = DayVersions::default();
        versions.raise(&[touched("p", 1)]);
        let before = versions.of("p", 1..=1);
        for day in 0..MOST as Day {
            versions.raise(&[touched("q", day)]);
        }
        versions.raise(&[touched("p", 1)]);
        assert_ne!(versions.of("p", 1..=1), before);
        assert!(versions.state.read().unwrap().entries <= MOST);
    }
}
