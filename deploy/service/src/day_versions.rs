//! Day and hour versions, which decide whether a cached answer is valid.
//!
//! A version counts the writes to a day of a project, or to an hour of its newest days. Whoever stores events, late ones too, raises
//! the versions of their days and hours; a cached answer of another version is not served. Versions start at zero with the process.
//!
//! ```text
//! a day        [`Unit::Day`]    raised by every change of it
//! its hours    [`Unit::Hour`]   raised by changes that name the hour
//! all of them  [`Unit::Whole`]  raised by changes of the day that name no hour: by a tool, or by an older ingester
//! ```
//!
//! A reader looks at days, and at hours and wholes of the [`NEWEST`] ones ([`Span`]): a range that lies in today may be over while
//! the day is not.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

/// A UTC day, as days since 1970.
pub type Day = i32;

/// A UTC hour, as hours since 1970.
pub type Hour = i32;

const DAY_S: i64 = 86_400;
const HOUR_S: i64 = 3_600;
const HOURS: i32 = 24;

/// Days, today included, that readers look at by hours.
pub const NEWEST: Day = 3;

/// An ingester names the hours of one day more: its clock, and that of the gateway which dated the event, may be behind.
const NAMED: Day = NEWEST + 1;

/// Hours older than the newest one of a project by so many are no longer looked at by anybody.
pub const HOURS_KEPT: Hour = (NAMED + 1) * HOURS;

/// What an insert changed: a day, or an hour of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct DayChange {
    /// Of which project.
    pub project: String,
    /// Which day.
    pub day: Day,
    /// Which hour of it, 0 to 23; `None` is any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<u8>,
}

impl DayChange {
    /// A day, whichever hours of it.
    pub fn day(project: impl Into<String>, day: Day) -> Self {
        Self { project: project.into(), day, hour: None }
    }

    /// The time that an event falls on, in milliseconds since 1970: its hour where that is new to who received it then.
    pub fn of_event(project: impl Into<String>, ts_ms: i64, received_ms: i64) -> Self {
        let day_of = |ms: i64| Day::try_from(ms.div_euclid(DAY_S * 1_000)).unwrap_or_default();
        let (day, received) = (day_of(ts_ms), day_of(received_ms));
        let hour = u8::try_from(ts_ms.div_euclid(HOUR_S * 1_000).rem_euclid(i64::from(HOURS))).ok();
        Self { project: project.into(), day, hour: hour.filter(|_| day > received.saturating_sub(NAMED)) }
    }

    /// Whether there is such an hour.
    pub fn is_valid(&self) -> bool {
        self.hour.is_none_or(|hour| i32::from(hour) < HOURS)
    }

    /// Whose versions it raises.
    pub fn units(&self) -> [Unit; 2] {
        let within = |hour: u8| Unit::Hour(self.day.saturating_mul(HOURS).saturating_add(i32::from(hour)));
        [Unit::Day(self.day), self.hour.map_or(Unit::Whole(self.day), within)]
    }
}

/// What has a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// A UTC day, in days since 1970.
    Day(Day),
    /// A UTC hour, in hours since 1970.
    Hour(Hour),
    /// A day, as far as its changes named no hour.
    Whole(Day),
}

/// What a reader looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    ranges: Vec<RangeInclusive<Unit>>,
}

impl Span {
    /// Of an answer that depends on no version.
    pub const fn none() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The units of a range of seconds since 1970, its end not included, as of a day.
    pub fn between(from: i64, to: i64, today: Day) -> Self {
        let newest = i64::from(today.saturating_sub(NEWEST - 1)) * DAY_S;
        let unit = |seconds: i64, width: i64| i32::try_from(seconds.div_euclid(width)).unwrap_or_default();
        let mut ranges = Vec::new();
        let (days_to, hours_from) = (to.min(newest), from.max(newest));
        if from < days_to {
            ranges.push(Unit::Day(unit(from, DAY_S))..=Unit::Day(unit(days_to - 1, DAY_S)));
        }
        if hours_from < to {
            ranges.push(Unit::Hour(unit(hours_from, HOUR_S))..=Unit::Hour(unit(to - 1, HOUR_S)));
            ranges.push(Unit::Whole(unit(hours_from, DAY_S))..=Unit::Whole(unit(to - 1, DAY_S)));
        }
        Self { ranges }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Its units, as ranges of which none is empty.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<Unit>> {
        self.ranges.iter().cloned()
    }
}

/// Units that are remembered at most. Above, all are forgotten at once, and every version changes.
const MOST: usize = 200_000;

/// The versions of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct DayVersions {
    table: Arc<RwLock<VersionTable>>,
}

#[derive(Debug, Default)]
struct VersionTable {
    /// Raised when units were forgotten.
    epoch: u64,
    projects: HashMap<String, Project>,
    entries: usize,
}

#[derive(Debug, Default)]
struct Project {
    units: BTreeMap<Unit, Version>,
    /// The slot in which changes were last published to readers.
    slot: Option<i64>,
}

#[derive(Debug, Default)]
struct Version {
    raised: u64,
    /// What readers see.
    published: u64,
}

impl Project {
    /// The sum of the published versions of the span, and whether it is out of date.
    fn published(&self, span: &Span) -> (u64, bool) {
        let asked = span.ranges().flat_map(|range| self.units.range(range)).map(|(_, version)| version);
        asked.fold((0, false), |(sum, is_old), version| {
            (sum + version.published, is_old || version.published != version.raised)
        })
    }

    fn publish(&mut self, slot: i64) {
        self.slot = Some(slot);
        self.units.values_mut().for_each(|version| version.published = version.raised);
    }

    fn raise(&mut self, unit: Unit) {
        let is_new = !self.units.contains_key(&unit);
        self.units.entry(unit).or_default().raised += 1;
        if let (true, Unit::Hour(hour)) = (is_new, unit) {
            // Nobody looks at them any more.
            let old: Vec<Unit> = self
                .units
                .range(Unit::Hour(Hour::MIN)..Unit::Hour(hour.saturating_sub(HOURS_KEPT)))
                .map(|(u, _)| *u)
                .collect();
            for unit in &old {
                self.units.remove(unit);
            }
        }
    }
}

impl DayVersions {
    /// Raises the versions of changed days.
    pub fn raise(&self, changes: &[DayChange]) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if table.entries >= MOST {
                *table = VersionTable { epoch: table.epoch + 1, ..VersionTable::default() };
            }
            if !table.projects.contains_key(&change.project) {
                table.projects.insert(change.project.clone(), Project::default());
            }
            let Some(known) = table.projects.get_mut(&change.project) else { continue };
            let before = known.units.len();
            change.units().into_iter().for_each(|unit| known.raise(unit));
            let after = known.units.len();
            table.entries = (table.entries + after).saturating_sub(before);
        }
    }

    /// The version of a span, which changes with every write to it. Changes of a project are published once per `slot`;
    /// later ones follow in the next slot, so that a trickle of events does not change the version for every reader.
    pub fn of(&self, project: &str, span: &Span, slot: i64) -> (u64, u64) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = table.projects.get(project) else { return (table.epoch, 0) };
        let (sum, is_old) = known.published(span);
        if !is_old || known.slot == Some(slot) {
            return (table.epoch, sum);
        }
        drop(table);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = table.epoch;
        let Some(known) = table.projects.get_mut(project) else { return (epoch, 0) };
        // Another reader may have been first.
        if known.slot != Some(slot) {
            known.publish(slot);
        }
        (epoch, known.published(span).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long after the days of these tests, so that they are looked at by days.
    const TODAY: Day = 1_000_000;

    fn changed(project: &str, day: Day) -> DayChange {
        DayChange::day(project, day)
    }

    fn week() -> Span {
        Span::between(DAY_S, 8 * DAY_S, TODAY)
    }

    #[test]
    fn a_range_changes_when_one_of_its_days_does() {
        let versions = DayVersions::default();
        let before = versions.of("p", &week(), 0);
        versions.raise(&[changed("p", 8), changed("q", 3)]);
        assert_eq!(versions.of("p", &week(), 0), before);
        versions.raise(&[changed("p", 7)]);
        assert_ne!(versions.of("p", &week(), 0), before);
    }

    #[test]
    fn of_the_newest_days_hours_are_told_apart_unless_a_change_names_none() {
        let versions = DayVersions::default();
        let today = 100;
        let hours = |day: Day, from: i64, to: i64| {
            let start = i64::from(day) * DAY_S;
            versions.of("p", &Span::between(start + from * HOUR_S, start + to * HOUR_S, today), 0).1
        };
        let at = |day: Day, hour: i64| (i64::from(day) * DAY_S + hour * HOUR_S) * 1_000;
        let now_ms = at(today, 14);
        versions.raise(&[DayChange::of_event("p", at(today, 9), now_ms)]);
        assert_eq!([hours(today, 8, 9), hours(today, 9, 10), hours(today, 0, 24)], [0, 1, 1]);
        versions.raise(&[DayChange::of_event("p", at(today - 2, 9), now_ms), changed("p", today - 1)]);
        let versions = DayVersions { ..versions };
        let seen = |day: Day, from: i64, to: i64| {
            let start = i64::from(day) * DAY_S;
            versions.of("p", &Span::between(start + from * HOUR_S, start + to * HOUR_S, today), 1).1
        };
        assert_eq!([seen(today - 2, 9, 10), seen(today - 2, 10, 11), seen(today - 1, 3, 4)], [1, 0, 1]);
        // Days that are older are told as a whole, whatever hours were named.
        let old = DayChange::of_event("p", at(today - 4, 9), now_ms);
        assert_eq!((old.hour, DayChange::of_event("p", at(today - 3, 9), now_ms).hour), (None, Some(9)));
        versions.raise(&[old]);
        assert_eq!([seen(today - 4, 9, 10), seen(today - 4, 10, 11)], [0, 0], "the next slot tells");
    }

    #[test]
    fn a_span_holds_no_unit_twice_and_no_empty_range() {
        assert!(Span::between(5, 5, 0).is_empty() && Span::between(9, 5, 0).is_empty() && Span::none().is_empty());
        let today = 20_000;
        let midnight = i64::from(today) * DAY_S;
        let span = Span::between(midnight - 5 * DAY_S, midnight + HOUR_S + 1, today);
        let first = (today - 2) * HOURS;
        assert_eq!(
            span.ranges().collect::<Vec<_>>(),
            [
                Unit::Day(today - 5)..=Unit::Day(today - 3),
                Unit::Hour(first)..=Unit::Hour(today * HOURS + 1),
                Unit::Whole(today - 2)..=Unit::Whole(today)
            ]
        );
    }

    #[test]
    fn older_peers_leave_the_hour_out() {
        let old: DayChange = serde_json::from_str(r#"{"project":"p","day":3}"#).unwrap();
        assert_eq!(old, changed("p", 3));
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"project":"p","day":3}"#);
        let new: DayChange = serde_json::from_str(r#"{"project":"p","day":3,"hour":23}"#).unwrap();
        assert!(new.is_valid() && !DayChange { hour: Some(24), ..new }.is_valid());
    }

    #[test]
    fn in_a_slot_readers_are_told_once_for_each_project() {
        let versions = DayVersions::default();
        let of = |project, slot| versions.of(project, &week(), slot).1;
        let late = [changed("p", 3), changed("q", 3)];
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
        versions.raise(&[changed("p", 1)]);
        let before = versions.of("p", &week(), 0);
        for day in 0..MOST as Day {
            versions.raise(&[changed("q", day)]);
        }
        versions.raise(&[changed("p", 1)]);
        assert_ne!(versions.of("p", &week(), 0), before);
        assert!(versions.table.read().unwrap().entries <= MOST + 1);
        // Hours that nobody looks at any more are forgotten one by one.
        for hour in 0..1_000_i64 {
            let ms = hour * HOUR_S * 1_000;
            versions.raise(&[DayChange::of_event("h", ms, ms)]);
        }
        let hours =
            versions.table.read().unwrap().projects["h"].units.range(Unit::Hour(0)..Unit::Hour(Hour::MAX)).count();
        assert_eq!(hours, HOURS_KEPT as usize + 1);
    }
}
