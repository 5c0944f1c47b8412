//! The time range of a request.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use tallyhouse_schema::time::{self, NotATime};

use super::error::{BadRequest, quoted};
use crate::time::{DAY, Zone, minute_ceil, minute_floor};

/// The longest range in days: a year, whichever it is.
pub const MAX_DAYS: i64 = 366;

/// Until then a suggestion is good, in seconds.
const SOON: i64 = 3_600;

/// The range without `startTime`, in seconds.
const DEFAULT_SECONDS: i64 = DAY;

/// A range in whole minutes.
///
/// A window that reaches until now is *open*: it slides, so its ends are moved outwards to whole buckets, which lets all
/// who look at the same dashboard share one answer. A window in the past is answered to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// From a minute on, until now.
    Open {
        /// Seconds since the epoch.
        from: i64,
        /// The end that was asked for, beyond now, in seconds since the epoch; `None` when none was.
        until: Option<i64>,
    },
    /// The last so many seconds, whatever whole buckets that takes.
    Last { seconds: i64 },
    /// Between two minutes, both in the past; the second is not included.
    Closed {
        /// Seconds since the epoch.
        from: i64,
        /// Seconds since the epoch.
        to: i64,
    },
}

impl Window {
    /// The window between two texts, each of which may be missing; `now_ms` is the present.
    pub fn parse(start: Option<&str>, end: Option<&str>, zone: &Zone, now_ms: i64) -> Result<Self, BadRequest> {
        let start = start.map(|text| instant_ms("startTime", text, zone)).transpose()?;
        let end = end.map(|text| instant_ms("endTime", text, zone)).transpose()?;
        let until = end.map(minute_ceil);
        let end = until.filter(|end| *end < minute_ceil(now_ms));
        let from = start.map(minute_floor);
        if from.is_some_and(|from| from * 1_000 > now_ms) {
            return Err(bad("startTime", "it is in the future"));
        }
        match (from, end) {
            (None, None) => Ok(Self::Last { seconds: DEFAULT_SECONDS }),
            (Some(from), None) => within_a_year(from, minute_ceil(now_ms), zone).map(|()| Self::Open { from, until }),
            (from, Some(to)) => {
                let from = from.unwrap_or(to - DEFAULT_SECONDS);
                if from >= to {
                    return Err(bad("endTime", "it is not after startTime (endTime itself is not included)"));
                }
                within_a_year(from, to, zone).map(|()| Self::Closed { from, to })
            }
        }
    }
}

impl Window {
    /// Its ends in seconds since the epoch; one that reaches until now ends with the running minute.
    pub fn bounds(self, now_ms: i64) -> (i64, i64) {
        let now = minute_ceil(now_ms);
        match self {
            Self::Closed { from, to } => (from, to),
            Self::Open { from, .. } => (from, now),
            Self::Last { seconds } => (now - seconds, now),
        }
    }
}

fn bad(parameter: &'static str, problem: &str) -> BadRequest {
    BadRequest::BadRange { parameter, problem: problem.to_owned() }
}

fn within_a_year(from: i64, to: i64, zone: &Zone) -> Result<(), BadRequest> {
    let longest = MAX_DAYS * DAY;
    if to - from <= longest {
        return Ok(());
    }
    let days = (to - from + DAY - 1).div_euclid(DAY);
    // The start of a day: an end that is now has moved on by the time that it is asked again.
    let first = zone.date(to - longest + SOON);
    let earliest = zone.day_start(first.tomorrow().unwrap_or(first));
    Err(BadRequest::RangeTooLong { days, limit: MAX_DAYS, earliest: zone.rfc3339(earliest) })
}

/// Years that are understood; what is kept is a matter of the plan.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2105;

fn instant_ms(parameter: &'static str, text: &str, zone: &Zone) -> Result<i64, BadRequest> {
    let malformed = || BadRequest::Malformed {
        parameter,
        given: quoted(text),
        expected:
            "a date (2026-01-31), RFC 3339 (2026-01-31T10:00:00Z; `+` is written %2B) or milliseconds since 1970, \
                   between 1970 and 2105"
                .to_owned(),
    };
    match time::parse_in(text, &|local| local_time(local, text, zone)) {
        Ok(instant) => in_years(instant.ms).ok_or_else(malformed),
        Err(NotATime::Unreadable | NotATime::TooLarge) => Err(malformed()),
        Err(problem) => Err(BadRequest::BadTime { parameter, given: quoted(text), problem }),
    }
}

/// A date, or a date and time without offset: on the clocks of the query's zone.
fn local_time(local: DateTime, text: &str, zone: &Zone) -> Option<Timestamp> {
    if !YEARS.contains(&local.year()) {
        return None;
    }
    match text.trim().parse::<Date>() {
        Ok(date) if text.trim().len() == 10 => Timestamp::from_second(zone.day_start(date)).ok(),
        _ => Timestamp::from_millisecond(zone.instant_ms(local)?).ok(),
    }
}

fn in_years(ms: i64) -> Option<i64> {
    let year = Zone::utc().date(Timestamp::from_millisecond(ms).ok()?.as_second()).year();
    YEARS.contains(&year).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn window(start: &str, end: &str) -> Result<Window, BadRequest> {
        let given = |text: &'static str| (!text.is_empty()).then_some(text);
        let (start, end) = (start.to_owned().leak(), end.to_owned().leak());
        Window::parse(given(start), given(end), &Zone::named("Europe/Berlin").unwrap(), NOW)
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn every_spelling_of_an_instant() {
        let expected = Window::Closed { from: at("2026-11-01T10:00:00Z"), to: at("2026-11-02T10:00:00Z") };
        for start in [
            "2026-11-01T10:00:00Z",
            "2026-11-01T12:00:00+02:00",
            "1793527200000",
            "1793527200",
            "1793527200.5",
            "1793527200000000",
            "1793527200000000000",
            "2026-11-01T12:00:00+02:00[+02:00]",
            "2026-11-01T05:00:00-05:00[America/New_York]",
            "2026-11-01T11:00:00[Europe/Berlin]",
            "2026-11-01T10:00:00Z[u-ca=gregory]",
            "2026-11-01T11:00:00",
            "2026-11-01T10:00:59.9Z",
        ] {
            assert_eq!(window(start, "2026-11-02T10:00:00Z"), Ok(expected), "{start}");
        }
        let dates = Window::Closed { from: at("2026-10-31T23:00:00Z"), to: at("2026-11-01T23:00:00Z") };
        assert_eq!(window("2026-11-01", "2026-11-02"), Ok(dates));
    }

    #[test]
    fn what_reaches_until_now_is_open() {
        let from = at("2026-11-20T10:00:00Z");
        for end in ["", "2026-11-20T12:34:56.788Z", "2026-11-20T12:34:01Z", "2027-01-01"] {
            assert!(
                matches!(window("2026-11-20T10:00:00Z", end), Ok(Window::Open { from: found, .. }) if found == from),
                "{end}"
            );
        }
        let to = at("2026-11-20T12:34:00Z");
        assert_eq!(window("2026-11-20T10:00:00Z", "2026-11-20T12:34:00Z"), Ok(Window::Closed { from, to }));
        assert_eq!(window("", ""), Ok(Window::Last { seconds: 86_400 }));
        assert_eq!(window("", "2026-11-20T12:34:00Z"), Ok(Window::Closed { from: to - 86_400, to }));
    }

    #[test]
    fn bad_ranges_are_explained() {
        for (start, end, expected) in [
            ("yesterday", "", "`startTime`: `yesterday` is not a date"),
            ("2026-11-01' OR 1=1", "", "`startTime`: `2026-11-01' OR 1=1` is not a date"),
            ("2026-13-01", "", "is not a date"),
            ("9999999999999999999", "", "is not a date"),
            ("99999999999999", "", "is not a date"),
            ("99999999999999999999", "", "is not a date"),
            ("2026-11-01T10:00:00Z[u-ca=hebrew]", "", "only a time zone and `u-ca=gregory` are read"),
            ("2026-11-01T10:00:00+05:00[Europe/Berlin]", "", "its offset is not that of its time zone then"),
            ("2026-11-01T10:00:00Z[Europe/Berln]", "", "its time zone is not in the IANA database"),
            ("Sun, 01 Nov 2026 10:00:00 GMT", "", "it is written as in e-mail and HTTP; write RFC 3339"),
            ("", "Sun, 01 Nov 2026 10:00:00 GMT", "`endTime`: `Sun, 01 Nov 2026 10:00:00 GMT`: it is written"),
            ("-5", "", "is not a date"),
            ("-009999-01-01", "", "is not a date"),
            ("9999-12-31", "", "is not a date"),
            ("2026-11-21", "", "it is in the future"),
            ("2026-11-02", "2026-11-02", "`endTime`: it is not after startTime"),
            ("2026-11-02", "2026-11-01", "`endTime`: it is not after startTime"),
            ("2025-11-01", "2026-11-03", "spans 367 days, at most 366"),
            ("2024-11-01", "", "startTime may be 2025-11-20T00:00:00+01:00 or later"),
        ] {
            let error = window(start, end).unwrap_err().to_string();
            assert!(error.contains(expected), "{start} {end}: {error}");
        }
        assert!(window("2025-11-02", "2026-11-03").is_ok());
    }
}
