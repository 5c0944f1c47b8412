//! Counts how often the cache was cleared in this process, while there is no Redis to count it for the fleet.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::stamp::Generation;

/// Projects that are counted apart. Beyond, everything is forgotten once and they are counted anew.
const MOST_PROJECTS: usize = 10_000;

/// Every count of a project's generation only rises, so that no generation comes back.
#[derive(Debug, Default)]
pub(super) struct ClearCounts {
    counts: RwLock<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u64,
    projects: HashMap<String, u64>,
}

impl ClearCounts {
    /// What a project's keys hold.
    pub(super) fn generation(&self, project: &str) -> Generation {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        Generation::Process { all: counts.all, project: counts.projects.get(project).copied().unwrap_or(0) }
    }

    /// Clears a project, or all.
    pub(super) fn raise(&self, project: Option<&str>) {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        match project.filter(|project| counts.projects.len() < MOST_PROJECTS || counts.projects.contains_key(*project))
        {
            Some(project) => *counts.projects.entry(project.to_owned()).or_default() += 1,
            None => *counts = Counts { all: counts.all + 1, projects: HashMap::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_forgotten_alone_and_no_generation_comes_back() {
        let clear_counts = ClearCounts::default();
        let mut seen = vec![clear_counts.generation("p")];
        let other = clear_counts.generation("q");
        clear_counts.raise(Some("p"));
        seen.push(clear_counts.generation("p"));
        assert_eq!(clear_counts.generation("q"), other);
        clear_counts.raise(None);
        seen.push(clear_counts.generation("p"));
        assert_ne!(clear_counts.generation("q"), other);
        // More projects than are counted.
        (0..=MOST_PROJECTS).for_each(|project| clear_counts.raise(Some(&project.to_string())));
        seen.push(clear_counts.generation("p"));
        clear_counts.raise(Some("p"));
        seen.push(clear_counts.generation("p"));
        for (place, generation) in seen.iter().enumerate() {
            assert!(!seen.iter().skip(place + 1).any(|later| later == generation), "{seen:?}");
        }
        assert!(clear_counts.counts.read().unwrap().projects.len() <= MOST_PROJECTS);
    }
}
