//! The day-version table: the versions of days and hours that this process has read, and for how long they are valid. The pure part of
//! [`Versions`](super::Versions).
//!
//! ```text
//! subscribed:     read once -> messages name days and hours -> the next request about one of them reads all of them again
//! not subscribed: what was read is valid for half a second
//! ```
//!
//! Every version that is read again makes readers wait for another answer. So the first change after a quiet time is read at once, and
//! further changes of the project once per [`Slot`]: late events cost at most two answers a second.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tallyhouse_service::day_versions::{HOURS_KEPT, Hour, Span, Unit};

use super::heartbeats::LEASE;
use super::stamp::{DaysStamp, Generation, VersionStamp};

/// How long what was read is believed while messages come: should one have been lost, no answer is wrong for longer.
const BELIEVED: Duration = Duration::from_secs(10);

/// How long without messages. A late event shows within a second all the same.
const BELIEVED_UNHEARD: Duration = Duration::from_millis(500);

/// Days and hours that are remembered at most, over all projects. Above, all are forgotten and read again.
const MOST_UNITS: usize = 200_000;

/// Days of one project that messages may name before it is read as a whole.
const MOST_CHANGED: usize = 1_000;

/// A subscription; another after every disconnect.
pub(super) type Link = u64;

/// A half second of the wall clock, which all instances share: they read again at the same time, and so know the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) i64);

impl Slot {
    const MS: i64 = 500;

    /// That of an instant, in milliseconds since the epoch.
    pub(super) const fn at(now_ms: i64) -> Self {
        Self(now_ms.div_euclid(Self::MS))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) slot: Slot,
}

/// A reading that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    link: Option<Link>,
    moment: Moment,
}

/// The versions of all projects.
#[derive(Debug, Default)]
pub(super) struct DayVersionTable {
    link: Option<Link>,
    /// When the subscription was last asked whether it lives, and said so: messages from before have come.
    heard_at: Option<Instant>,
    projects: HashMap<String, Project>,
    /// What came while a project is being read.
    heard: HashMap<String, Heard>,
    units: usize,
}

#[derive(Debug)]
struct Project {
    link: Option<Link>,
    read_at: Instant,
    generation: Generation,
    since: u64,
    versions: BTreeMap<Unit, u64>,
    changed: Changed,
    /// When changes were last read; none since it is known.
    slot: Option<Slot>,
    /// When a reader was last told that what is known is right, in milliseconds since the epoch.
    proven_ms: Option<i64>,
}

impl Project {
    fn stamp(&self, span: &Span) -> VersionStamp {
        let (epoch, sum) = if span.is_empty() {
            (0, 0)
        } else {
            (self.since, span.ranges().flat_map(|range| self.versions.range(range)).map(|(_, version)| version).sum())
        };
        VersionStamp { generation: self.generation, days: DaysStamp::Known { epoch, sum } }
    }
}

/// What came during a reading, and may be newer than what that brings.
#[derive(Debug, Default)]
struct Heard {
    changed: Changed,
    is_cleared: bool,
}

/// What messages named.
#[derive(Debug)]
enum Changed {
    Units(BTreeSet<Unit>),
    /// Too many to tell.
    Whole,
}

impl Default for Changed {
    fn default() -> Self {
        Self::Units(BTreeSet::new())
    }
}

impl Changed {
    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Units(units), Self::Units(more)) => {
                units.extend(more);
                if units.len() > MOST_CHANGED {
                    *self = Self::Whole;
                }
            }
            (Self::Units(_), Self::Whole) => *self = Self::Whole,
            (Self::Whole, _) => {}
        }
    }

    fn was_read(&mut self, unit: Unit) {
        if let Self::Units(units) = self {
            units.remove(&unit);
        }
    }

    /// What to read for a span: if anything, all that changed. Readers of other spans join the reading.
    fn read_for(&self, span: &Span) -> Option<VersionLookup> {
        match self {
            Self::Units(changed) => {
                let is_meant = span.ranges().any(|range| changed.range(range).next().is_some());
                is_meant.then(|| VersionLookup::Read(changed.iter().copied().collect()))
            }
            Self::Whole => Some(VersionLookup::ReadAll),
        }
    }
}

/// What the table says about some days of a project.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VersionLookup {
    /// All of it.
    Known(VersionStamp),
    /// The project has to be read.
    ReadAll,
    /// These days have to be read again.
    Read(Vec<Unit>),
}

/// What was read of a project.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) generation: Generation,
    /// Which of the project's hashes counts: one that ended and began again counts from the start. 0 when there is none.
    pub(super) since: u64,
    pub(super) versions: BTreeMap<Unit, u64>,
}

/// What was read of some days of a project.
#[derive(Debug)]
pub(super) struct Reread {
    /// [`Fetched::since`].
    pub(super) since: u64,
    pub(super) versions: Vec<(Unit, u64)>,
}

impl Fetched {
    /// Hours that nobody looks at any more, as against the newest one.
    pub(super) fn old_hours(&self) -> Vec<Hour> {
        let hour = |(unit, _): (&Unit, &u64)| if let Unit::Hour(hour) = unit { Some(*hour) } else { None };
        let hours = || self.versions.range(Unit::Hour(Hour::MIN)..=Unit::Hour(Hour::MAX)).filter_map(hour);
        let Some(newest) = hours().next_back() else { return Vec::new() };
        hours().take_while(|hour| *hour < newest.saturating_sub(HOURS_KEPT)).collect()
    }
}

impl DayVersionTable {
    /// A subscription began.
    pub(super) fn linked(&mut self, link: Link, at: Instant) {
        (self.link, self.heard_at) = (Some(link), Some(at));
    }

    /// It lives: everything that was published before `at` has been heard.
    pub(super) fn link_lives(&mut self, at: Instant) {
        self.heard_at = Some(at);
    }

    /// It ended.
    pub(super) fn unlinked(&mut self) {
        self.link = None;
    }

    /// The sum of the versions of `days`, or what to read first.
    pub(super) fn look_up(&self, project: &str, span: &Span, now: Moment) -> VersionLookup {
        let Some(known) = self.projects.get(project).filter(|known| self.is_believed(known, now.at)) else {
            return VersionLookup::ReadAll;
        };
        if span.is_empty() {
            return VersionLookup::Known(known.stamp(span));
        }
        let due = known.changed.read_for(span).filter(|_| known.slot != Some(now.slot));
        due.unwrap_or_else(|| VersionLookup::Known(known.stamp(span)))
    }

    fn is_believed(&self, known: &Project, now: Instant) -> bool {
        let lives = self.heard_at.is_some_and(|at| now.saturating_duration_since(at) < LEASE);
        let is_heard = lives && known.link.is_some() && known.link == self.link;
        now.saturating_duration_since(known.read_at) < if is_heard { BELIEVED } else { BELIEVED_UNHEARD }
    }

    /// What is known of a project is right now.
    pub(super) fn prove(&mut self, project: &str, now_ms: i64) {
        if let Some(known) = self.projects.get_mut(project) {
            known.proven_ms = Some(now_ms);
        }
    }

    /// What was last right, and when. Nothing where messages have named it since.
    pub(super) fn proven(&self, project: &str, span: &Span) -> Option<(DaysStamp, i64)> {
        let known = self.projects.get(project).filter(|known| known.changed.read_for(span).is_none())?;
        Some((known.stamp(span).days, known.proven_ms?))
    }

    /// The generation that was last known, however long ago.
    pub(super) fn generation(&self, project: &str) -> Option<Generation> {
        self.projects.get(project).map(|known| known.generation)
    }

    /// A message named days and hours.
    pub(super) fn heard(&mut self, project: &str, units: impl IntoIterator<Item = Unit>) {
        let units: BTreeSet<Unit> = units.into_iter().collect();
        let known = self.projects.get_mut(project).map(|known| &mut known.changed);
        let heard = self.heard.get_mut(project).map(|heard| &mut heard.changed);
        for changed in known.into_iter().chain(heard) {
            changed.add(Changed::Units(units.clone()));
        }
    }

    /// A reading begins: messages from here on may be newer than what it brings.
    pub(super) fn reading(&mut self, project: &str, moment: Moment) -> Begun {
        self.heard.insert(project.to_owned(), Heard::default());
        Begun { link: self.link, moment }
    }

    /// A whole project was read. What was read before somebody cleared it may be of the generation before, and is left.
    pub(super) fn took_all(&mut self, project: &str, Begun { link, moment }: Begun, fetched: Fetched) {
        let Heard { changed, is_cleared } = self.heard.remove(project).unwrap_or_default();
        if is_cleared {
            return;
        }
        // What was known may have changed with this; if not, what was right then still is.
        let slot = self.projects.contains_key(project).then_some(moment.slot);
        let is_same = |known: &&Project| known.since == fetched.since && known.versions == fetched.versions;
        let proven_ms = self.projects.get(project).filter(is_same).and_then(|known| known.proven_ms);
        self.forget(Some(project));
        if self.units + fetched.versions.len() > MOST_UNITS {
            self.forget(None);
        }
        self.units += fetched.versions.len();
        let Fetched { generation, since, versions } = fetched;
        self.projects.insert(
            project.to_owned(),
            Project { link, read_at: moment.at, generation, since, versions, changed, slot, proven_ms },
        );
    }

    /// Some days were read again. When another hash counts, all that is known of the project is out of date.
    pub(super) fn took(&mut self, project: &str, begun: Begun, reread: Reread) {
        let heard = self.heard.remove(project).unwrap_or_default();
        let Some(known) = self.projects.get_mut(project) else { return };
        if known.since != reread.since {
            return self.forget(Some(project));
        }
        for (unit, version) in reread.versions {
            known.changed.was_read(unit);
            self.units += usize::from(known.versions.insert(unit, version).is_none());
        }
        known.changed.add(heard.changed);
        known.slot = Some(begun.moment.slot);
    }

    /// A reading failed.
    pub(super) fn took_nothing(&mut self, project: &str) {
        self.heard.remove(project);
    }

    /// Somebody cleared a project, or all.
    pub(super) fn cleared(&mut self, project: Option<&str>) {
        self.forget(project);
        let being_read = self.heard.iter_mut().filter(|(name, _)| project.is_none_or(|project| project == *name));
        being_read.for_each(|(_, heard)| heard.is_cleared = true);
    }

    fn forget(&mut self, project: Option<&str>) {
        match project {
            Some(project) => {
                let gone = self.projects.remove(project);
                self.units = self.units.saturating_sub(gone.map_or(0, |gone| gone.versions.len()));
            }
            None => {
                self.projects.clear();
                self.units = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_service::day_versions::Day;

    use super::*;

    /// Long after the days of these tests, so that they are looked at by days.
    const TODAY: Day = 1_000_000;

    fn span(days: std::ops::RangeInclusive<Day>) -> Span {
        Span::between(i64::from(*days.start()) * 86_400, (i64::from(*days.end()) + 1) * 86_400, TODAY)
    }

    const GENERATION: Generation = Generation::Fleet { incarnation: 1, all: 0, project: 0 };

    fn fetched(versions: &[(Day, u64)]) -> Fetched {
        Fetched {
            generation: GENERATION,
            since: 7,
            versions: versions.iter().map(|(day, version)| (Unit::Day(*day), *version)).collect(),
        }
    }

    fn reread(versions: impl IntoIterator<Item = (Day, u64)>) -> Reread {
        Reread { since: 7, versions: versions.into_iter().map(|(day, version)| (Unit::Day(day), version)).collect() }
    }

    fn days(days: impl IntoIterator<Item = Day>) -> Vec<Unit> {
        days.into_iter().map(Unit::Day).collect()
    }

    /// The subscription lives as long as any test.
    fn forever() -> Instant {
        Instant::now() + Duration::from_secs(86_400)
    }

    fn read(list: &[Day]) -> VersionLookup {
        VersionLookup::Read(days(list.iter().copied()))
    }

    fn summed(sum: u64) -> VersionLookup {
        VersionLookup::Known(VersionStamp { generation: GENERATION, days: DaysStamp::Known { epoch: 7, sum } })
    }

    /// The middle of a slot, so many milliseconds later.
    fn after(began: Instant, ms: u64) -> Moment {
        Moment { at: began + Duration::from_millis(ms), slot: Slot::at(250 + i64::try_from(ms).unwrap()) }
    }

    fn known(known: &mut DayVersionTable, now: Moment) {
        let begun = known.reading("p", now);
        known.took_all("p", begun, fetched(&[(1, 5), (2, 7), (9, 1)]));
    }

    #[test]
    fn a_message_makes_the_days_it_names_be_read_again_and_no_others() {
        let (mut all, now) = (DayVersionTable::default(), after(Instant::now(), 0));
        all.linked(1, forever());
        assert_eq!(all.look_up("p", &span(1..=2), now), VersionLookup::ReadAll);
        known(&mut all, now);
        assert_eq!(all.look_up("p", &span(1..=2), now), summed(12));
        all.heard("p", days([2]));
        all.heard("q", days([1]));
        assert_eq!(all.look_up("p", &span(1..=1), now), summed(5));
        assert_eq!(all.look_up("p", &span(1..=2), now), read(&[2]));
        let begun = all.reading("p", now);
        all.took("p", begun, reread([(2, 8)]));
        assert_eq!(all.look_up("p", &span(1..=9), now), summed(14));
    }

    #[test]
    fn a_reading_serves_readers_of_other_days_too() {
        let (mut all, now) = (DayVersionTable::default(), after(Instant::now(), 0));
        all.linked(1, forever());
        known(&mut all, now);
        all.heard("p", days([1, 2, 9]));
        assert_eq!(all.look_up("p", &span(1..=1), now), read(&[1, 2, 9]));
        assert_eq!(all.look_up("p", &span(3..=8), now), summed(0), "nobody named them");
        let begun = all.reading("p", now);
        all.took("p", begun, reread([(1, 6), (2, 8), (9, 2)]));
        assert_eq!(
            [1..=1, 2..=2, 9..=9, 1..=9].map(|days| all.look_up("p", &span(days), now)),
            [6, 8, 2, 16].map(summed)
        );
    }

    #[test]
    fn a_reading_that_is_overtaken_by_a_clear_does_not_undo_it() {
        for (cleared, is_believed) in [(Some("p"), false), (None, false), (Some("q"), true)] {
            let (mut all, now) = (DayVersionTable::default(), after(Instant::now(), 0));
            all.linked(1, forever());
            let begun = all.reading("p", now);
            all.cleared(cleared);
            all.took_all("p", begun, fetched(&[(1, 5)]));
            let expected = if is_believed { summed(5) } else { VersionLookup::ReadAll };
            assert_eq!(all.look_up("p", &span(1..=2), now), expected, "{cleared:?}");
            // The next one began after it.
            known(&mut all, now);
            assert_eq!(all.look_up("p", &span(1..=2), now), summed(12));
        }
    }

    #[test]
    fn a_hash_that_ended_and_began_again_is_not_taken_for_the_one_before() {
        let (mut all, now) = (DayVersionTable::default(), after(Instant::now(), 0));
        all.linked(1, forever());
        known(&mut all, now);
        all.heard("p", days([2]));
        let begun = all.reading("p", now);
        // Its sum is what it was.
        all.took("p", begun, Reread { since: 8, versions: vec![(Unit::Day(2), 7)] });
        assert_eq!(all.look_up("p", &span(1..=2), now), VersionLookup::ReadAll);
        let begun = all.reading("p", now);
        all.took_all("p", begun, Fetched { since: 8, ..fetched(&[(1, 5), (2, 7)]) });
        let lookup = all.look_up("p", &span(1..=2), now);
        assert!(matches!(lookup, VersionLookup::Known(_)) && lookup != summed(12), "{lookup:?}");
    }

    #[test]
    fn what_is_heard_during_a_reading_is_read_again() {
        let (mut all, began) = (DayVersionTable::default(), Instant::now());
        let (now, later) = (after(began, 0), after(began, 500));
        all.linked(1, forever());
        let begun = all.reading("p", now);
        all.heard("p", days([1]));
        all.took_all("p", begun, fetched(&[(1, 5)]));
        assert_eq!(all.look_up("p", &span(1..=2), now), read(&[1]));
        let begun = all.reading("p", now);
        all.heard("p", days([1]));
        all.took("p", begun, reread([(1, 6)]));
        assert_eq!(all.look_up("p", &span(1..=2), later), read(&[1]));
    }

    #[test]
    fn a_change_after_quiet_is_read_at_once_and_the_next_one_half_a_second_later_at_most() {
        let (mut all, began) = (DayVersionTable::default(), Instant::now());
        all.linked(1, forever());
        known(&mut all, after(began, 0));
        for quiet in [0, 5_000] {
            let look_up_at = |all: &DayVersionTable, ms| all.look_up("p", &span(1..=9), after(began, quiet + ms));
            all.heard("p", days([2]));
            assert_eq!(look_up_at(&all, 0), read(&[2]));
            let begun = all.reading("p", after(began, quiet));
            all.took("p", begun, reread([(2, 7)]));
            all.heard("p", days([1]));
            let is_read = |ms| look_up_at(&all, ms) == read(&[1]);
            assert_eq!([1, 249, 250, 500].map(is_read), [false, false, true, true]);
            let begun = all.reading("p", after(began, quiet + 250));
            all.took("p", begun, reread([(1, 5)]));
        }
    }

    /// What `known` shows of `versions`, which is what Redis holds.
    fn shown(known: &mut DayVersionTable, versions: &BTreeMap<Day, u64>, now: Moment) -> VersionLookup {
        let lookup = known.look_up("p", &span(1..=9), now);
        let begun = known.reading("p", now);
        match &lookup {
            VersionLookup::ReadAll => {
                let versions = versions.iter().map(|(day, version)| (Unit::Day(*day), *version)).collect();
                known.took_all("p", begun, Fetched { generation: GENERATION, since: 7, versions });
            }
            VersionLookup::Read(units) => {
                let day = |unit: &Unit| if let Unit::Day(day) = unit { *day } else { panic!("{unit:?}") };
                known.took("p", begun, reread(units.iter().map(|unit| (day(unit), versions[&day(unit)]))));
            }
            VersionLookup::Known(_) => known.took_nothing("p"),
        }
        known.look_up("p", &span(1..=9), now)
    }

    #[test]
    fn a_trickle_of_messages_moves_what_readers_see_twice_a_second_and_on_every_instance_alike() {
        let (mut instances, began) = ([DayVersionTable::default(), DayVersionTable::default()], Instant::now());
        let mut versions = BTreeMap::new();
        let mut seen = [Vec::new(), Vec::new()];
        instances.iter_mut().for_each(|known| known.linked(1, forever()));
        for ms in 0..2_000 {
            let now = after(began, ms);
            if ms % 50 == 0 {
                // Now this day, now that.
                let day = 1 + Day::try_from(ms / 50 % 9).unwrap();
                *versions.entry(day).or_insert(0) += 1;
                instances.iter_mut().for_each(|known| known.heard("p", days([day])));
            }
            for (known, seen) in instances.iter_mut().zip(&mut seen) {
                seen.push(shown(known, &versions, now));
                seen.dedup();
            }
        }
        assert_eq!(seen[0].len(), 1 + 5, "what was there, and one for each slot: {seen:?}");
        assert_eq!(seen[0], seen[1]);
        for known in &mut instances {
            assert_eq!(shown(known, &versions, after(began, 2_250)), summed(40), "the last one shows");
        }
    }

    #[test]
    fn more_days_than_are_told_apart_are_read_once_in_a_slot_too() {
        let (mut all, began) = (DayVersionTable::default(), Instant::now());
        all.linked(1, forever());
        known(&mut all, after(began, 0));
        for ms in [0, 500] {
            all.heard("p", days(0..1_001));
            assert_eq!(all.look_up("p", &span(1..=2), after(began, ms)), VersionLookup::ReadAll);
            known(&mut all, after(began, ms));
            all.heard("p", days(0..1_001));
            assert_eq!(all.look_up("p", &span(1..=2), after(began, ms)), summed(12));
        }
    }

    #[test]
    fn without_messages_it_is_believed_for_half_a_second() {
        let (mut all, began) = (DayVersionTable::default(), Instant::now());
        known(&mut all, after(began, 0));
        let look_up_at = |all: &DayVersionTable, ms| all.look_up("p", &span(1..=2), after(began, ms));
        assert_eq!([499, 500].map(|ms| look_up_at(&all, ms) == VersionLookup::ReadAll), [false, true]);
        all.linked(1, forever());
        assert_eq!(look_up_at(&all, 500), VersionLookup::ReadAll, "it was read before the subscription");
        known(&mut all, after(began, 0));
        assert_eq!([9_999, 10_000].map(|ms| look_up_at(&all, ms) == VersionLookup::ReadAll), [false, true]);
        all.unlinked();
        assert_eq!(look_up_at(&all, 500), VersionLookup::ReadAll, "messages no longer come");
        all.linked(2, forever());
        assert_eq!(look_up_at(&all, 500), VersionLookup::ReadAll, "some may have been missed");
        assert_eq!(all.generation("p"), Some(GENERATION));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut all, now) = (DayVersionTable::default(), after(Instant::now(), 0));
        for project in 0..30 {
            let name = project.to_string();
            let begun = all.reading(&name, now);
            let versions = (0..9_000).map(|day| (Unit::Day(day), 1)).collect();
            all.took_all(&name, begun, Fetched { generation: GENERATION, since: 7, versions });
            assert!(all.units <= MOST_UNITS);
            assert_eq!(all.units, all.projects.values().map(|known| known.versions.len()).sum::<usize>());
        }
        all.heard("29", days(0..1_001));
        assert!(matches!(all.projects["29"].changed, Changed::Whole));
    }
}
