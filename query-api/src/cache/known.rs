//! The versions of days that this process has read, and how far they can be trusted: the pure part of
//! [`Versions`](super::Versions).
//!
//! ```text
//! subscribed:     read once -> messages name days -> only those are read again, when they are next asked about
//! not subscribed: what was read is believed for half a second
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tallyhouse_service::day_versions::Day;

use super::stamp::Generation;

/// How long what was read is believed while messages come: should one have been lost, no answer is wrong for longer.
const BELIEVED: Duration = Duration::from_secs(10);

/// How long without messages. A late event shows within a second all the same.
const BELIEVED_UNHEARD: Duration = Duration::from_millis(500);

/// Days that are remembered at most, over all projects. Above, all are forgotten and read again.
const MOST_DAYS: usize = 200_000;

/// Days of one project that messages may name before it is read as a whole.
const MOST_CHANGED: usize = 1_000;

/// A subscription; another after every disconnect.
pub(super) type Link = u64;

/// What is known of all projects.
#[derive(Debug, Default)]
pub(super) struct Known {
    link: Option<Link>,
    projects: HashMap<String, Project>,
    /// Named by messages while a project is being read.
    heard: HashMap<String, BTreeSet<Day>>,
    days: usize,
}

#[derive(Debug)]
struct Project {
    link: Option<Link>,
    read_at: Instant,
    generation: Generation,
    versions: BTreeMap<Day, u64>,
    changed: BTreeSet<Day>,
}

/// What is known of some days of a project.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All of it.
    Known(Generation, u64),
    /// The project has to be read.
    ReadAll,
    /// These days have to be read again.
    Read(Vec<Day>),
}

/// What was read of a project.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) generation: Generation,
    pub(super) versions: BTreeMap<Day, u64>,
}

impl Known {
    /// A subscription began.
    pub(super) fn linked(&mut self, link: Link) {
        self.link = Some(link);
    }

    /// It ended.
    pub(super) fn unlinked(&mut self) {
        self.link = None;
    }

    /// The sum of the versions of `days`, or what to read first.
    pub(super) fn look(&self, project: &str, days: RangeInclusive<Day>, now: Instant) -> Look {
        let Some(known) = self.projects.get(project).filter(|known| self.is_believed(known, now)) else {
            return Look::ReadAll;
        };
        if days.is_empty() {
            return Look::Known(known.generation, 0);
        }
        let changed: Vec<Day> = known.changed.range(days.clone()).copied().collect();
        if changed.is_empty() {
            Look::Known(known.generation, known.versions.range(days).map(|(_, version)| version).sum())
        } else {
            Look::Read(changed)
        }
    }

    fn is_believed(&self, known: &Project, now: Instant) -> bool {
        let is_heard = known.link.is_some() && known.link == self.link;
        now.saturating_duration_since(known.read_at) < if is_heard { BELIEVED } else { BELIEVED_UNHEARD }
    }

    /// The generation that was last known, however long ago.
    pub(super) fn generation(&self, project: &str) -> Option<Generation> {
        self.projects.get(project).map(|known| known.generation)
    }

    /// A message named days.
    pub(super) fn heard(&mut self, project: &str, days: impl IntoIterator<Item = Day>) {
        let days: BTreeSet<Day> = days.into_iter().collect();
        if let Some(known) = self.projects.get_mut(project) {
            known.changed.extend(&days);
            if known.changed.len() > MOST_CHANGED {
                self.forget(Some(project));
            }
        }
        if let Some(heard) = self.heard.get_mut(project) {
            heard.extend(days);
        }
    }

    /// A reading begins: messages from here on may be newer than what it brings.
    pub(super) fn reading(&mut self, project: &str) -> Option<Link> {
        self.heard.insert(project.to_owned(), BTreeSet::new());
        self.link
    }

    /// A whole project was read, begun at `at` under `link`.
    pub(super) fn took_all(&mut self, project: &str, link: Option<Link>, at: Instant, fetched: Fetched) {
        let changed = self.heard.remove(project).unwrap_or_default();
        self.forget(Some(project));
        if self.days + fetched.versions.len() > MOST_DAYS {
            self.forget(None);
        }
        self.days += fetched.versions.len();
        let Fetched { generation, versions } = fetched;
        self.projects.insert(project.to_owned(), Project { link, read_at: at, generation, versions, changed });
    }

    /// Some days were read again.
    pub(super) fn took(&mut self, project: &str, versions: impl IntoIterator<Item = (Day, u64)>) {
        let heard = self.heard.remove(project).unwrap_or_default();
        let Some(known) = self.projects.get_mut(project) else { return };
        for (day, version) in versions {
            known.changed.remove(&day);
            self.days += usize::from(known.versions.insert(day, version).is_none());
        }
        known.changed.extend(heard);
    }

    /// A reading failed.
    pub(super) fn took_nothing(&mut self, project: &str) {
        self.heard.remove(project);
    }

    /// Forgets a project, or all.
    pub(super) fn forget(&mut self, project: Option<&str>) {
        match project {
            Some(project) => {
                let gone = self.projects.remove(project);
                self.days = self.days.saturating_sub(gone.map_or(0, |gone| gone.versions.len()));
            }
            None => {
                self.projects.clear();
                self.days = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: Generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };

    fn fetched(versions: &[(Day, u64)]) -> Fetched {
        Fetched { generation: GENERATION, versions: versions.iter().copied().collect() }
    }

    fn known(known: &mut Known, at: Instant) {
        let link = known.reading("p");
        known.took_all("p", link, at, fetched(&[(1, 5), (2, 7), (9, 1)]));
    }

    #[test]
    fn a_message_makes_the_days_it_names_be_read_again_and_no_others() {
        let (mut all, at) = (Known::default(), Instant::now());
        all.linked(1);
        assert_eq!(all.look("p", 1..=2, at), Look::ReadAll);
        known(&mut all, at);
        assert_eq!(all.look("p", 1..=2, at), Look::Known(GENERATION, 12));
        all.heard("p", [2, 9]);
        all.heard("q", [1]);
        assert_eq!(all.look("p", 1..=1, at), Look::Known(GENERATION, 5));
        assert_eq!(all.look("p", 1..=2, at), Look::Read(vec![2]));
        all.reading("p");
        all.took("p", [(2, 8)]);
        assert_eq!(all.look("p", 1..=2, at), Look::Known(GENERATION, 13));
        assert_eq!(all.look("p", 1..=9, at), Look::Read(vec![9]), "9 was not read");
    }

    #[test]
    fn what_is_heard_during_a_reading_is_read_again() {
        let (mut all, at) = (Known::default(), Instant::now());
        all.linked(1);
        let link = all.reading("p");
        all.heard("p", [1]);
        all.took_all("p", link, at, fetched(&[(1, 5)]));
        assert_eq!(all.look("p", 1..=2, at), Look::Read(vec![1]));
        all.reading("p");
        all.heard("p", [1]);
        all.took("p", [(1, 6)]);
        assert_eq!(all.look("p", 1..=2, at), Look::Read(vec![1]));
    }

    #[test]
    fn without_messages_it_is_believed_for_half_a_second() {
        let (mut all, at) = (Known::default(), Instant::now());
        known(&mut all, at);
        let look = |all: &Known, after| all.look("p", 1..=2, at + Duration::from_millis(after));
        assert_eq!([499, 500].map(|after| look(&all, after) == Look::ReadAll), [false, true]);
        all.linked(1);
        assert_eq!(look(&all, 500), Look::ReadAll, "it was read before the subscription");
        known(&mut all, at);
        assert_eq!([9_999, 10_000].map(|after| look(&all, after) == Look::ReadAll), [false, true]);
        all.unlinked();
        assert_eq!(look(&all, 500), Look::ReadAll, "messages no longer come");
        all.linked(2);
        assert_eq!(look(&all, 500), Look::ReadAll, "some may have been missed");
        assert_eq!(all.generation("p"), Some(GENERATION));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut all, at) = (Known::default(), Instant::now());
        for project in 0..30 {
            let name = project.to_string();
            let link = all.reading(&name);
            all.took_all(
                &name,
                link,
                at,
                Fetched { generation: GENERATION, versions: (0..9_000).map(|day| (day, 1)).collect() },
            );
            assert!(all.days <= MOST_DAYS);
            assert_eq!(all.days, all.projects.values().map(|known| known.versions.len()).sum::<usize>());
        }
        let last = "29";
        all.heard(last, 0..1_001);
        assert_eq!(all.look(last, 1..=1, at), Look::ReadAll);
    }
}
