//! Times as clients write them.
//!
//! A number since 1970, as a JSON number or as decimal text, is in the unit that its size tells. The four ranges do not
//! overlap; each holds the years 1973 to 5138:
//!
//! | size | unit |
//! |---|---|
//! | below 1e11 | seconds |
//! | 1e11 to below 1e14 | milliseconds |
//! | 1e14 to below 1e17 | microseconds |
//! | 1e17 to below 1e20 | nanoseconds |
//!
//! So the milliseconds before 1973-03-03 read as seconds: no event is that old. What is finer than a millisecond is dropped.
//!
//! A text is RFC 3339 (`t`, `z` and a blank for the `T` are taken, a comma for the point, `:60` as `:59`), a date, or a date and
//! time without an offset, which are UTC; after it may stand a time zone (RFC 9557), which must agree with the offset.

use std::borrow::Cow;

use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A time as received.
#[derive(Debug, Clone, PartialEq)]
pub enum RawTime<'a> {
    /// A whole number since 1970; its size tells the unit.
    Integer(i64),
    /// A number since 1970 with a fraction.
    Float(f64),
    /// A text, which should be RFC 3339.
    Text(Cow<'a, str>),
    /// Anything else.
    Other,
}

/// A unit of time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    /// As messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
            Self::Nanoseconds => "nanoseconds",
        }
    }

    /// Of a number without its fraction.
    const fn of(number: i128) -> Option<Self> {
        match number.unsigned_abs() {
            0..100_000_000_000 => Some(Self::Seconds),
            100_000_000_000..100_000_000_000_000 => Some(Self::Milliseconds),
            100_000_000_000_000..100_000_000_000_000_000 => Some(Self::Microseconds),
            100_000_000_000_000_000..100_000_000_000_000_000_000 => Some(Self::Nanoseconds),
            _ => None,
        }
    }

    const fn per_second(self) -> i128 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1_000_000,
            Self::Nanoseconds => 1_000_000_000,
        }
    }
}

/// A time that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// In milliseconds since 1970, whatever unit it was sent in.
    pub ms: i64,
    /// The unit that it was converted from; `None` for milliseconds and for texts that are no number.
    pub converted: Option<Unit>,
}

/// Why something is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    /// Nothing that is known.
    #[error("it is neither an RFC 3339 time (2026-11-01T10:00:00Z) nor a number of milliseconds since 1970")]
    Unreadable,
    /// A number without a unit.
    #[error("the number is too large for a time, even in nanoseconds; send milliseconds since 1970")]
    TooLarge,
    /// As in e-mail and HTTP.
    #[error("it is written as in e-mail and HTTP; write RFC 3339 (2026-11-01T10:00:00Z)")]
    Rfc2822,
    /// `2026-07-01T10:00:00+01:00[Europe/Berlin]`
    #[error("its offset is not that of its time zone then; leave one of them out")]
    Contradiction,
    /// `[Europe/Berln]`
    #[error("its time zone is not in the IANA database; write the offset instead (2026-11-01T10:00:00+01:00)")]
    UnknownZone,
    /// `[u-ca=hebrew]`
    #[error(
        "of what may stand in brackets after it only a time zone and `u-ca=gregory` are read; leave out the others"
    )]
    UnknownSuffix,
}

/// The instant that a time of an event means, with the unit recognised.
pub fn read(time: &RawTime<'_>) -> Result<Instant, NotATime> {
    match time {
        RawTime::Integer(number) => of_thousandths(i128::from(*number) * 1_000),
        RawTime::Float(number) => of_float(*number),
        RawTime::Text(text) => parse(text),
        RawTime::Other => Err(NotATime::Unreadable),
    }
}

/// Reads a text. Without an offset it is UTC.
pub fn parse(text: &str) -> Result<Instant, NotATime> {
    parse_in(text, &|civil| civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp()))
}

/// Reads a text; `local` tells what a date and time without an offset means.
pub fn parse_in(text: &str, local: &dyn Fn(DateTime) -> Option<Timestamp>) -> Result<Instant, NotATime> {
    let text = text.trim();
    if let Some(thousandths) = decimal(text) {
        return of_thousandths(thousandths);
    }
    let (time, zone) = without_suffix(text)?;
    let timestamp = match zone {
        Some(zone) => in_zone(time, zone)?,
        None => match time.parse::<Timestamp>() {
            Ok(timestamp) => timestamp,
            Err(_) => time.parse().ok().and_then(local).or_else(|| last(time)).ok_or_else(|| unreadable(time))?,
        },
    };
    Ok(Instant { ms: timestamp.as_millisecond(), converted: None })
}

fn of_thousandths(thousandths: i128) -> Result<Instant, NotATime> {
    let unit = Unit::of(thousandths / 1_000).ok_or(NotATime::TooLarge)?;
    let ms = i64::try_from(thousandths.div_euclid(unit.per_second())).map_err(|_| NotATime::TooLarge)?;
    Ok(Instant { ms, converted: (unit != Unit::Milliseconds).then_some(unit) })
}

fn of_float(number: f64) -> Result<Instant, NotATime> {
    // Microseconds of seconds: a double holds no more, and its last digit is rounded away before the rest is dropped.
    let fraction = if number.abs() < 1e11 { (number * 1e6).round() / 1e3 } else { number * 1e3 };
    if fraction.abs() < 1e30 { of_thousandths(fraction.floor() as i128) } else { Err(NotATime::TooLarge) }
}

/// A decimal text in thousandths. Eight digits are a date (`20261101`).
fn decimal(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || (text.len() == 8 && text.parse::<DateTime>().is_ok()) {
        return None;
    }
    let three: String = fraction.chars().chain("00".chars()).take(3).collect();
    // 38 digits are more than any unit has.
    let whole: i128 = whole.parse().unwrap_or(i128::MAX / 10_000);
    let thousandths = whole.min(i128::MAX / 10_000) * 1_000 + three.parse::<i128>().unwrap_or_default();
    Some(if is_negative { -thousandths } else { thousandths })
}

/// The time and the zone that stands after it in brackets (RFC 9557).
fn without_suffix(text: &str) -> Result<(&str, Option<&str>), NotATime> {
    let Some((time, suffixes)) = text.split_once('[') else { return Ok((text, None)) };
    let suffixes = suffixes.strip_suffix(']').ok_or(NotATime::Unreadable)?;
    let mut zone = None;
    for suffix in suffixes.split("][") {
        // `!` means that it must not be ignored, and none is.
        let suffix = suffix.strip_prefix('!').unwrap_or(suffix);
        match suffix {
            "u-ca=gregory" | "u-ca=iso8601" => {}
            other if other.contains('=') || zone.is_some() => return Err(NotATime::UnknownSuffix),
            name => zone = Some(name),
        }
    }
    Ok((time, zone))
}

fn in_zone(time: &str, zone: &str) -> Result<Timestamp, NotATime> {
    let zoned: Result<Zoned, _> = format!("{time}[{zone}]").parse();
    zoned.map(|zoned| zoned.timestamp()).map_err(|_| {
        let is_offset = zone.starts_with(['+', '-']);
        if !is_offset && TimeZone::get(zone).is_err() {
            NotATime::UnknownZone
        } else if time.parse::<Timestamp>().is_ok() {
            NotATime::Contradiction
        } else {
            unreadable(time)
        }
    })
}

/// The end of the year 9999, which many systems write for "never", lies beyond the last instant that can be told.
fn last(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    (pieces.date() >= Timestamp::MAX.to_zoned(TimeZone::UTC).date()).then_some(Timestamp::MAX)
}

fn unreadable(text: &str) -> NotATime {
    if rfc2822::parse(text).is_ok() { NotATime::Rfc2822 } else { NotATime::Unreadable }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01
    const NEW_YEAR: i64 = 1_767_225_600_000;

    fn ms(text: &str) -> Result<i64, NotATime> {
        parse(text).map(|instant| instant.ms)
    }

    #[test]
    fn what_is_a_time() {
        for (text, expected) in [
            ("2026-01-01T00:00:00Z", Ok(NEW_YEAR)),
            ("2026-01-01T01:00:00.250+01:00", Ok(NEW_YEAR + 250)),
            ("2026-01-01T00:00:00,250Z", Ok(NEW_YEAR + 250)),
            ("2026-01-01 00:00:00", Ok(NEW_YEAR)),
            ("2026-01-01t00:00:00z", Ok(NEW_YEAR)),
            (" 2026-01-01 ", Ok(NEW_YEAR)),
            ("20260101", Ok(NEW_YEAR)),
            ("20260101T000000Z", Ok(NEW_YEAR)),
            ("2025-12-31T23:59:60Z", Ok(NEW_YEAR - 1_000)),
            ("1767225600000", Ok(NEW_YEAR)),
            ("0000-01-01T00:00:00Z", Ok(-62_167_219_200_000)),
            ("9999-12-31T23:59:59.999Z", Ok(Timestamp::MAX.as_millisecond())),
            ("9999-12-31 23:59:59", Ok(Timestamp::MAX.as_millisecond())),
            ("9999-12-31", Ok(Timestamp::MAX.as_millisecond())),
            ("yesterday", Err(NotATime::Unreadable)),
            ("now", Err(NotATime::Unreadable)),
            ("", Err(NotATime::Unreadable)),
            ("-1-01-01T00:00:00Z", Err(NotATime::Unreadable)),
            ("2026-02-30T00:00:00Z", Err(NotATime::Unreadable)),
            ("2026-01-01T24:00:00Z", Err(NotATime::Unreadable)),
            ("99999-01-01T00:00:00Z", Err(NotATime::Unreadable)),
            ("1.7e12", Err(NotATime::Unreadable)),
            ("1767225600000.", Err(NotATime::Unreadable)),
            ("Thu, 01 Jan 2026 00:00:00 GMT", Err(NotATime::Rfc2822)),
            ("Thu, 1 Jan 2026 01:00:00 +0100", Err(NotATime::Rfc2822)),
            ("100000000000000000000", Err(NotATime::TooLarge)),
            ("99999999999999999999999999999999999999999999", Err(NotATime::TooLarge)),
        ] {
            assert_eq!(ms(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit() {
        let unit = |time: &RawTime<'_>| read(time).map(|instant| (instant.ms, instant.converted));
        let text = |text: &'static str| RawTime::Text(text.into());
        for (time, expected) in [
            (RawTime::Integer(NEW_YEAR), Ok((NEW_YEAR, None))),
            (RawTime::Integer(NEW_YEAR / 1_000), Ok((NEW_YEAR, Some(Unit::Seconds)))),
            (RawTime::Integer(NEW_YEAR * 1_000 + 999), Ok((NEW_YEAR, Some(Unit::Microseconds)))),
            (RawTime::Integer(NEW_YEAR * 1_000_000 + 999_999), Ok((NEW_YEAR, Some(Unit::Nanoseconds)))),
            (RawTime::Integer(99_999_999_999), Ok((99_999_999_999_000, Some(Unit::Seconds)))),
            (RawTime::Integer(100_000_000_000), Ok((100_000_000_000, None))),
            (RawTime::Integer(99_999_999_999_999), Ok((99_999_999_999_999, None))),
            (RawTime::Integer(100_000_000_000_000), Ok((100_000_000_000, Some(Unit::Microseconds)))),
            (RawTime::Integer(100_000_000_000_000_000), Ok((100_000_000_000, Some(Unit::Nanoseconds)))),
            (RawTime::Integer(i64::MAX), Ok((9_223_372_036_854, Some(Unit::Nanoseconds)))),
            (RawTime::Integer(0), Ok((0, Some(Unit::Seconds)))),
            (RawTime::Integer(-1), Ok((-1_000, Some(Unit::Seconds)))),
            (RawTime::Integer(-NEW_YEAR), Ok((-NEW_YEAR, None))),
            (RawTime::Float(1_767_225_600.123), Ok((NEW_YEAR + 123, Some(Unit::Seconds)))),
            (RawTime::Float(1_767_225_600.123_999), Ok((NEW_YEAR + 123, Some(Unit::Seconds)))),
            (RawTime::Float(1_767_225_600_123.75), Ok((NEW_YEAR + 123, None))),
            (RawTime::Float(1.767_225_600_123_5e15), Ok((NEW_YEAR + 123, Some(Unit::Microseconds)))),
            (RawTime::Float(1e300), Err(NotATime::TooLarge)),
            (RawTime::Float(f64::INFINITY), Err(NotATime::TooLarge)),
            (text("1767225600"), Ok((NEW_YEAR, Some(Unit::Seconds)))),
            (text("1767225600.1234"), Ok((NEW_YEAR + 123, Some(Unit::Seconds)))),
            (text("1767225600.1"), Ok((NEW_YEAR + 100, Some(Unit::Seconds)))),
            (text("1767225600123.9"), Ok((NEW_YEAR + 123, None))),
            (text("1767225600123456"), Ok((NEW_YEAR + 123, Some(Unit::Microseconds)))),
            (text("1767225600123456789"), Ok((NEW_YEAR + 123, Some(Unit::Nanoseconds)))),
            (text("-5"), Ok((-5_000, Some(Unit::Seconds)))),
            (RawTime::Other, Err(NotATime::Unreadable)),
        ] {
            assert_eq!(unit(&time), expected, "{time:?}");
        }
    }

    #[test]
    fn suffixes_of_rfc_9557_are_read_or_refused() {
        let ten = Ok(NEW_YEAR + 10 * 3_600_000);
        for (text, expected) in [
            ("2026-01-01T11:00:00+01:00[Europe/Berlin]", ten),
            ("2026-01-01T11:00:00+01:00[!Europe/Berlin]", ten),
            ("2026-01-01T11:00:00[Europe/Berlin]", ten),
            ("2026-01-01T11:00:00+01:00[+01:00]", ten),
            ("2026-01-01T10:00:00Z[Europe/Berlin]", ten),
            ("2026-01-01T11:00:00+01:00[Europe/Berlin][u-ca=gregory]", ten),
            ("2026-01-01T10:00:00Z[u-ca=iso8601]", ten),
            ("2026-01-01T10:00:00+02:00[Europe/Berlin]", Err(NotATime::Contradiction)),
            ("2026-01-01T10:00:00+02:00[!Europe/Berlin]", Err(NotATime::Contradiction)),
            ("2026-01-01T10:00:00+02:00[+01:00]", Err(NotATime::Contradiction)),
            ("2026-01-01T10:00:00Z[Europe/Berln]", Err(NotATime::UnknownZone)),
            ("2026-01-01T10:00:00Z[u-ca=hebrew]", Err(NotATime::UnknownSuffix)),
            ("2026-01-01T10:00:00Z[!u-ca=hebrew]", Err(NotATime::UnknownSuffix)),
            ("2026-01-01T10:00:00Z[_x=y]", Err(NotATime::UnknownSuffix)),
            ("2026-01-01T10:00:00Z[UTC][UTC]", Err(NotATime::UnknownSuffix)),
            ("2026-01-01T10:00:00Z[UTC", Err(NotATime::Unreadable)),
            ("2026-01-01T10:00:00Z[]", Err(NotATime::UnknownZone)),
            ("soon[UTC]", Err(NotATime::Unreadable)),
        ] {
            assert_eq!(ms(text), expected, "{text:?}");
        }
    }
}
