//! IANA time zones.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{self, TimeZone};

use super::rfc3339;

/// The names of coordinated universal time: of one time, answers are the same.
const UTC: [&str; 8] = ["UTC", "Etc/UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "UCT", "Universal", "Zulu"];

/// A time zone of the tz database.
#[derive(Clone)]
pub struct Zone {
    zone: TimeZone,
    name: String,
    is_utc: bool,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { zone: TimeZone::UTC, name: "UTC".to_owned(), is_utc: true }
    }

    /// The zone of that IANA name, in any case; `None` when there is none.
    pub fn named(name: &str) -> Option<Self> {
        if UTC.iter().any(|utc| name.eq_ignore_ascii_case(utc)) {
            return Some(Self::utc());
        }
        let zone = tz::db().get(name).ok()?;
        let name = zone.iana_name()?.to_owned();
        Some(Self { zone, name, is_utc: false })
    }

    /// Every name that [`Zone::named`] knows.
    pub fn names() -> Vec<String> {
        tz::db().available().map(|name| name.to_string()).collect()
    }

    /// The IANA name in its usual spelling.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds that local time is ahead of UTC at an instant.
    pub fn offset(&self, at: i64) -> i64 {
        if self.is_utc { 0 } else { i64::from(self.zone.to_offset(timestamp(at)).seconds()) }
    }

    /// Whether the clocks are not changed between two instants.
    pub fn is_steady(&self, from: i64, to: i64) -> bool {
        let changes = || self.zone.following(timestamp(from)).next();
        self.is_utc || changes().is_none_or(|change| change.timestamp().as_second() > to)
    }

    /// The local date at an instant.
    pub fn date(&self, at: i64) -> Date {
        timestamp(at).to_zoned(self.zone.clone()).date()
    }

    /// The first instant of a local date. Where midnight does not exist the day starts later.
    pub fn day_start(&self, date: Date) -> i64 {
        date.to_zoned(self.zone.clone()).map_or(0, |midnight| midnight.timestamp().as_second())
    }

    /// The instant at which the zone's clocks first show a local date and time, in milliseconds.
    pub fn instant_ms(&self, local: jiff::civil::DateTime) -> Option<i64> {
        local.to_zoned(self.zone.clone()).ok().map(|zoned| zoned.timestamp().as_millisecond())
    }

    /// RFC 3339 with the zone's offset at that instant; `Z` in UTC.
    pub fn rfc3339(&self, at: i64) -> String {
        let offset = (!self.is_utc).then(|| self.offset(at));
        String::from_utf8(rfc3339::text(at, None, offset)).unwrap_or_default()
    }

    /// Whether it is UTC by that name.
    pub const fn is_utc(&self) -> bool {
        self.is_utc
    }

    /// The time around an instant in which the zone's offset is the same.
    pub fn steady_around(&self, at: i64) -> Steady {
        let change = |change: Option<tz::TimeZoneTransition<'_>>| change.map(|change| change.timestamp().as_second());
        Steady {
            from: change(self.zone.preceding(timestamp(at.saturating_add(1))).next()).unwrap_or(i64::MIN),
            to: change(self.zone.following(timestamp(at)).next()).unwrap_or(i64::MAX),
            offset: self.offset(at),
        }
    }
}

/// A time in which clocks are not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steady {
    /// From this second since the epoch on.
    pub from: i64,
    /// To this one, exclusive.
    pub to: i64,
    /// Seconds that local time is ahead of UTC.
    pub offset: i64,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl serde::Serialize for Zone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// Ranges are checked long before they get here, so the fall-back is never seen.
fn timestamp(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY, Granularity, Grid};

    #[test]
    fn names_are_found_in_any_case_and_spelt_as_usual() {
        assert_eq!(Zone::named("europe/berlin").unwrap().name(), "Europe/Berlin");
        assert_eq!(Zone::named("utc").unwrap(), Zone::utc());
        for wrong in ["", "Mars/Olympus", "+02:00", "../../etc/passwd", "Europe/Berlin'"] {
            assert!(Zone::named(wrong).is_none(), "{wrong}");
        }
        assert!(Zone::names().iter().any(|name| name == "Asia/Kolkata"));
    }

    #[test]
    fn clocks_are_whole_quarters_ahead_of_utc_in_every_zone_and_year_that_can_be_asked_about() {
        let (first, last) = (timestamp(1_600_000_000), timestamp(2_000_000_000)); // September 2020 to May 2033
        let names = Zone::names();
        assert!(names.len() > 400);
        for name in names {
            let zone = Zone::named(&name).unwrap();
            let changes = zone.zone.following(first).map(|change| change.timestamp()).take_while(|at| *at < last);
            for at in std::iter::once(first).chain(changes) {
                assert_eq!(zone.offset(at.as_second()).rem_euclid(900), 0, "{name} {at}");
                let (from, to) = (at.as_second() - 3 * DAY, at.as_second() + 3 * DAY);
                for granularity in
                    Granularity::FINEST_FIRST.into_iter().filter(|width| *width >= Granularity::QuarterHour)
                {
                    let grid = Grid::over(granularity, &zone, from, to);
                    assert!(grid.is_aligned_to(900), "{name} {at} {granularity:?}");
                }
            }
        }
    }

    #[test]
    fn timestamps_carry_the_offset_of_their_own_instant() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        assert_eq!(berlin.rfc3339(1_774_742_400), "2026-03-29T01:00:00+01:00");
        assert_eq!(berlin.rfc3339(1_774_746_000), "2026-03-29T03:00:00+02:00");
        assert_eq!(Zone::utc().rfc3339(1_774_742_400), "2026-03-29T00:00:00Z");
    }

    #[test]
    fn a_day_without_midnight_starts_later() {
        let sao_paulo = Zone::named("America/Sao_Paulo").unwrap();
        let start = sao_paulo.day_start(jiff::civil::date(2018, 11, 4));
        assert_eq!(sao_paulo.rfc3339(start), "2018-11-04T01:00:00-02:00");
    }
}
