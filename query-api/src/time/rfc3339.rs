//! Instants as RFC 3339 text: the one form in which answers write times.

use jiff::Timestamp;
use jiff::tz::Offset;

/// `2026-11-20T12:34:56Z`, or with milliseconds, or with an offset as in `2026-11-20T18:04:56+05:30`; `offset` is in seconds,
/// `None` for UTC.
///
/// RFC 3339 has no seconds in an offset, which some zones had (Monrovia until 1972). Such an offset is written in whole
/// minutes and the local time by that one, so that the text is the instant.
pub fn text(at: i64, ms: Option<i64>, offset: Option<i64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    write(&mut out, at, ms, offset);
    out
}

/// As [`text`], at the end of what is there.
pub fn write(out: &mut Vec<u8>, at: i64, ms: Option<i64>, offset: Option<i64>) {
    let minutes = offset.map_or(0, |offset| offset.div_euclid(60));
    let local = Timestamp::from_second(at.saturating_add(minutes * 60)).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = Offset::UTC.to_datetime(local);
    digits(out, 4, i64::from(local.year()));
    for (sign, part) in [
        (b'-', local.month()),
        (b'-', local.day()),
        (b'T', local.hour()),
        (b':', local.minute()),
        (b':', local.second()),
    ] {
        out.push(sign);
        digits(out, 2, i64::from(part));
    }
    if let Some(ms) = ms {
        out.push(b'.');
        digits(out, 3, ms);
    }
    if offset.is_none() {
        out.push(b'Z');
        return;
    }
    out.push(if minutes < 0 { b'-' } else { b'+' });
    digits(out, 2, minutes.abs() / 60);
    out.push(b':');
    digits(out, 2, minutes.abs() % 60);
}

/// The last digits of a number.
fn digits(out: &mut Vec<u8>, width: u32, number: i64) {
    for place in (0..width).rev() {
        let digit = number.div_euclid(10_i64.pow(place)).rem_euclid(10);
        out.push(b'0' + u8::try_from(digit).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_seconds_are_written_as_the_same_instant() {
        let shown = |at, ms, offset| String::from_utf8(text(at, ms, offset)).unwrap();
        assert_eq!(shown(0, None, None), "1970-01-01T00:00:00Z");
        assert_eq!(shown(-1, Some(7), Some(0)), "1969-12-31T23:59:59.007+00:00");
        assert_eq!(shown(0, None, Some(19_800)), "1970-01-01T05:30:00+05:30");
        // Monrovia, -00:44:30.
        let monrovia = shown(0, None, Some(-2_670));
        assert_eq!(monrovia, "1969-12-31T23:15:00-00:45");
        assert_eq!(monrovia.parse::<Timestamp>().unwrap().as_second(), 0);
    }
}
