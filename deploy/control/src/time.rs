//! Times as people and documents write them.

use jiff::{SignedDuration, Timestamp};

/// Milliseconds since 1970 as RFC 3339, UTC.
pub fn text(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|time| time.to_string()).unwrap_or_default()
}

/// A date, RFC 3339, or a time from now such as `30d`, `12h` or `15m`; milliseconds since 1970.
pub fn parse(text: &str, now_ms: i64) -> Result<i64, String> {
    if let Some(after) = span_ms(text) {
        return now_ms
            .checked_add(after)
            .filter(|ms| Timestamp::from_millisecond(*ms).is_ok())
            .ok_or_else(|| wrong(text));
    }
    tallyhouse_schema::time::parse(text).map(|instant| instant.ms).map_err(|_| wrong(text))
}

/// A length of time such as `30d`, `12h`, `15m` or `90s`; milliseconds.
pub fn span_ms(text: &str) -> Option<i64> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: i64 = number.parse().ok()?;
    let hours = |hours: i64| SignedDuration::from_hours(hours).as_millis();
    let of_one = match unit {
        "d" => hours(24),
        "h" => hours(1),
        "m" => 60_000,
        "s" => 1_000,
        _ => return None,
    };
    number.checked_mul(i64::try_from(of_one).ok()?)
}

fn wrong(text: &str) -> String {
    format!("`{text}` is not a date, an RFC 3339 time or a time from now such as 30d, 12h or 15m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_a_span_from_now() {
        let now = 1_795_178_096_789;
        assert_eq!(parse("30d", now), Ok(now + 30 * 86_400_000));
        assert_eq!(parse("90s", now), Ok(now + 90_000));
        assert_eq!(parse("2027-01-15T08:00:00Z", now), Ok(1_800_000_000_000));
        assert_eq!(text(1_800_000_000_000), "2027-01-15T08:00:00Z");
        for wrong in
            ["", "d", "-1d", "1.5d", "tomorrow", "9223372036854775807d", "99999999999999999999d", "1y", "\u{e9}"]
        {
            assert!(parse(wrong, now).is_err(), "{wrong}");
        }
    }
}
