//! `date_range`: a name such as `7d`, or a pair of dates or instants.

use jiff::civil::Date;
use jiff::{Span, ToSpan};

use super::body::JsonPart;
use super::error::BadRequest;
use super::values;
use super::window::{MAX_DAYS, Window};
use crate::time::Zone;

const EXPECTED: &str = "`day`, `yesterday`, `week`, `month`, `year`, a number of minutes, hours, days or months until now \
                        (`30m`, `24h`, `7d`, `6mo`), or a pair of dates (both included) or of instants (RFC 3339; the second \
                        not included)";

/// Reads a range. Days and months are those of the zone, and the present one counts.
pub fn parse(part: &JsonPart<'_>, zone: &Zone, now_ms: i64) -> Result<Window, BadRequest> {
    if part.is_list() {
        return between(part, zone, now_ms);
    }
    let today = zone.date(now_ms.div_euclid(1_000));
    let since = |first: Option<Date>, span: Span| {
        let first = first?;
        let until = first.checked_add(span).ok().map(|date| zone.day_start(date));
        Some(Window::Open { from: zone.day_start(first), until })
    };
    let name = part.text()?;
    let window = match name {
        "day" => since(Some(today), 1.day()),
        "yesterday" => {
            today.yesterday().ok().map(|date| Window::Closed { from: zone.day_start(date), to: zone.day_start(today) })
        }
        "week" => since(today.checked_sub(i64::from(today.weekday().to_monday_zero_offset()).days()).ok(), 1.week()),
        "month" => since(Some(today.first_of_month()), 1.month()),
        "year" => since(Some(today.first_of_year()), 1.year()),
        _ => counted(name, today, zone),
    };
    window.ok_or_else(|| part.not(EXPECTED))
}

/// A number and a unit.
fn counted(name: &str, today: Date, zone: &Zone) -> Option<Window> {
    let (number, unit) = values::number_and_unit(name).filter(|(number, _)| *number > 0)?;
    let within = |most: i64| (number <= most).then_some(number);
    let since = |first: Date, after: Option<Date>| Window::Open {
        from: zone.day_start(first),
        until: after.map(|date| zone.day_start(date)),
    };
    Some(match unit {
        "m" => Window::Last { seconds: within(MAX_DAYS * 1_440)? * 60 },
        "h" => Window::Last { seconds: within(MAX_DAYS * 24)? * 3_600 },
        "d" => since(today.checked_sub((within(MAX_DAYS)? - 1).days()).ok()?, today.tomorrow().ok()),
        "mo" => {
            let month = today.first_of_month();
            since(month.checked_sub((within(12)? - 1).months()).ok()?, month.checked_add(1.month()).ok())
        }
        _ => return None,
    })
}

fn between(part: &JsonPart<'_>, zone: &Zone, now_ms: i64) -> Result<Window, BadRequest> {
    let pair = part.items(2)?;
    let [start, end] = pair.as_slice() else { return Err(part.not(EXPECTED)) };
    // A date as the end is the whole day: as text, the day after.
    let end_text = match end.text()?.parse::<Date>() {
        Ok(date) if end.text()?.len() == 10 => {
            date.tomorrow().map_or_else(|_| date.to_string(), |next| next.to_string())
        }
        _ => end.text()?.to_owned(),
    };
    Window::parse(Some(start.text()?), Some(&end_text), zone, now_ms).map_err(|bad| match bad {
        BadRequest::Malformed { parameter: "startTime", .. } => {
            start.not("a date (2026-01-31) or an instant (RFC 3339)")
        }
        BadRequest::Malformed { .. } => end.not("a date (2026-01-31) or an instant (RFC 3339)"),
        BadRequest::BadTime { parameter: "startTime", problem, .. } => start.bad(problem.to_string()),
        BadRequest::BadTime { problem, .. } => end.bad(problem.to_string()),
        BadRequest::BadRange { parameter: "startTime", problem } => start.bad(problem),
        BadRequest::BadRange { .. } => end.bad("it is not after the first one"),
        BadRequest::RangeTooLong { days, limit, earliest } => part
            .bad(format!("it spans {days} days, at most {limit} are answered at once: begin with {earliest} or later")),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn parsed(text: &str, zone: &str) -> Result<Window, BadRequest> {
        let value = body::parse(text.as_bytes())?;
        parse(&JsonPart::root(&value), &Zone::named(zone).unwrap(), NOW)
    }

    fn shown(text: &str, zone: &str) -> String {
        let show = |at| Zone::named(zone).unwrap().rfc3339(at);
        match parsed(text, zone).unwrap() {
            Window::Open { from, .. } => format!("{} …", show(from)),
            Window::Last { seconds } => format!("last {seconds}"),
            Window::Closed { from, to } => format!("{} {}", show(from), show(to)),
        }
    }

    #[test]
    fn names_follow_the_calendar_of_the_zone() {
        for (text, zone, expected) in [
            (r#""day""#, "UTC", "2026-11-20T00:00:00Z …"),
            (r#""day""#, "Pacific/Kiritimati", "2026-11-21T00:00:00+14:00 …"),
            (r#""yesterday""#, "UTC", "2026-11-19T00:00:00Z 2026-11-20T00:00:00Z"),
            (r#""week""#, "UTC", "2026-11-16T00:00:00Z …"),
            (r#""month""#, "UTC", "2026-11-01T00:00:00Z …"),
            (r#""year""#, "Europe/Berlin", "2026-01-01T00:00:00+01:00 …"),
            (r#""7d""#, "UTC", "2026-11-14T00:00:00Z …"),
            (r#""28d""#, "America/New_York", "2026-10-24T00:00:00-04:00 …"),
            (r#""6mo""#, "UTC", "2026-06-01T00:00:00Z …"),
            (r#""24h""#, "UTC", "last 86400"),
            (r#""30m""#, "UTC", "last 1800"),
            (r#"["2026-11-01","2026-11-02"]"#, "UTC", "2026-11-01T00:00:00Z 2026-11-03T00:00:00Z"),
            (
                r#"["2026-11-01","2026-11-01"]"#,
                "America/New_York",
                "2026-11-01T00:00:00-04:00 2026-11-02T00:00:00-05:00",
            ),
            (r#"["2026-11-01T10:00:00Z","2026-11-01T11:30:00Z"]"#, "UTC", "2026-11-01T10:00:00Z 2026-11-01T11:30:00Z"),
        ] {
            assert_eq!(shown(text, zone), expected, "{text} {zone}");
        }
    }

    #[test]
    fn bad_ranges_say_what_would_do() {
        for (text, expected) in [
            (r#""7days""#, "`7days` is not `day`"),
            (r#""0d""#, "is not `day`"),
            (r#""367d""#, "is not `day`"),
            (r#""99999999999999999999d""#, "is not `day`"),
            (r#"["2026-11-01"]"#, "a list is not `day`"),
            (
                r#"["2026-11-01T10:00:00Z","2026-11-02T10:00:00+05:00[Europe/Berlin]"]"#,
                "`[1]`: its offset is not that of",
            ),
            (r#"["2026-11-01T10:00:00Z[x=y]","2026-11-02"]"#, "`[0]`: of what may stand in brackets"),
            (r#"["x","2026-11-02"]"#, "`[0]`: `x` is not a date"),
            (r#"["2026-11-01","x"]"#, "`[1]`: `x` is not a date"),
            (r#"["2026-11-03","2026-11-01"]"#, "`[1]`: it is not after the first one"),
            (r#"["2024-11-03","2026-11-01"]"#, "begin with"),
            ("7", "`7` is not a text"),
        ] {
            let error = parsed(text, "UTC").unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
