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
    projects: HashMap<String, Project>,
    entries: usize,
}

#[derive(Debug, Default)]
struct Project {
    days: HashMap<Day, Version>,
    /// When readers were last told what had changed.
    slot: Option<i64>,
}

#[derive(Debug, Default)]
struct Version {
    raised: u64,
    /// As readers know it.
    told: u64,
}

impl Project {
    /// The sum of what readers were told of the days, and whether it is out of date.
    fn told(&self, days: &RangeInclusive<Day>) -> (u64, bool) {
        let asked = self.days.iter().filter(|(day, _)| days.contains(day)).map(|(_, version)| version);
        asked.fold((0, false), |(sum, is_old), version| (sum + version.told, is_old || version.told != version.raised))
    }

    fn tell(&mut self, slot: i64) {
        self.slot = Some(slot);
        self.days.values_mut().for_each(|version| version.told = version.raised);
    }
}

impl DayVersions {
    /// Raises the versions of days.
    pub fn raise(&self, touched: &[Touched]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for Touched { project, day } in touched {
            if state.entries >= MOST {
                *state = State { epoch: state.epoch + 1, ..State::default() };
            }
            if !state.projects.contains_key(project) {
                state.projects.insert(project.clone(), Project::default());
            }
            let Some(known) = state.projects.get_mut(project) else { continue };
            let before = known.days.len();
            known.days.entry(*day).or_default().raised += 1;
            state.entries += known.days.len() - before;
        }
    }

    /// The version of a range of days: another whenever one of them was written to. Readers of one `slot` are told of
    /// changes to a project once: what comes after is told in the next, so that a trickle of events does not make every
    /// reader's version another.
    pub fn of(&self, project: &str, days: RangeInclusive<Day>, slot: i64) -> (u64, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = state.projects.get(project) else { return (state.epoch, 0) };
        let (sum, is_old) = known.told(&days);
        if !is_old || known.slot == Some(slot) {
            return (state.epoch, sum);
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = state.epoch;
        let Some(known) = state.projects.get_mut(project) else { return (epoch, 0) };
        // Another reader may have been first.
        if known.slot != Some(slot) {
            known.tell(slot);
        }
        (epoch, known.told(&days).0)
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
        let before = versions.of("p", 1..=7, 0);
        versions.raise(&[touched("p", 8), touched("q", 3)]);
        assert_eq!(versions.of("p", 1..=7, 0), before);
        versions.raise(&[touched("p", 7)]);
        assert_ne!(versions.of("p", 1..=7, 0), before);
    }

    #[test]
    fn in_a_slot_readers_are_told_once_for_each_project() {
        let versions = DayVersions::default();
        let of = |project, slot| versions.of(project, 1..=7, slot).1;
        let late = [touched("p", 3), touched("q", 3)];
        versions.raise(&late);
        assert_eq!((of("p", 0), of("q", 0)), (1, 1));
        versions.raise(&late);
        versions.raise(&late);
        assert_eq!([0, 0, 1, 1].map(|slot| of("p", slot)), [1, 1, 3, 3]);
        versions.raise(&late);
        assert_eq!((of("p", 1), of("q", 1), of("p", 2)), (3, 4, 4));
    }

    #[test]
    fn memory_is_bounded_and_forgetting_changes_every_version() {
        let versions = DayVersions::default();
        versions.raise(&[touched("p", 1)]);
        let before = versions.of("p", 1..=1, 0);
        for day in 0..MOST as Day {
            versions.raise(&[touched("q", day)]);
        }
        versions.raise(&[touched("p", 1)]);
        assert_ne!(versions.of("p", 1..=1, 0), before);
        assert!(versions.state.read().unwrap().entries <= MOST);
    }
}
