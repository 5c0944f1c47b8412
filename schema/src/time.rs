//! Times as clients write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::raw::RawTime;

/// Milliseconds since 1970, or `None` for what is no time. A time without an offset is UTC; a text of digits is
/// milliseconds.
pub fn millis(time: &RawTime<'_>) -> Option<i64> {
    match time {
        RawTime::Millis(millis) => Some(*millis),
        RawTime::Text(text) => parse(text.trim()),
        RawTime::Other => None,
    }
}

/// The same for a bare text.
pub fn parse(text: &str) -> Option<i64> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_millisecond());
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_millisecond());
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_time() {
        for (text, expected) in [
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2026-01-01T01:00:00.250+01:00", Some(1_767_225_600_250)),
            ("2026-01-01 00:00:00", Some(1_767_225_600_000)),
            ("2026-01-01", Some(1_767_225_600_000)),
            ("1767225600000", Some(1_767_225_600_000)),
            ("yesterday", None),
            ("", None),
            ("2026-02-30T00:00:00Z", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
