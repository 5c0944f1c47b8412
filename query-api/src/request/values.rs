//! Values that several kinds of request share, read by the same rules from a parameter or from a field of a document.

use tallyhouse_schema::dimension::stored_event_type;

use super::body::JsonPart;
use super::error::{BadRequest, quoted};
use super::params::Params;
use super::suggest::nearest;
use crate::time::{DAY, MINUTE, Zone};

/// The longest event type that is asked for, in characters: longer ones are not stored.
const MAX_EVENT_TYPE_CHARS: usize = tallyhouse_schema::limits::MAX_ID_CHARS;

/// The parameter `timezone`; UTC without it.
pub fn zone_parameter(params: &Params) -> Result<Zone, BadRequest> {
    let Some(name) = params.get("timezone") else { return Ok(Zone::utc()) };
    Zone::named(name).ok_or_else(|| BadRequest::UnknownZone { name: quoted(name), near: nearest(name, Zone::names()) })
}

/// A field that holds a time zone; UTC without it.
pub fn zone_field(part: Option<&JsonPart<'_>>) -> Result<Zone, BadRequest> {
    let Some(part) = part else { return Ok(Zone::utc()) };
    let name = part.text()?;
    Zone::named(name).ok_or_else(|| part.unknown_zone(name))
}

/// The parameter `eventType`, as it is stored.
pub fn event_type_parameter(params: &Params) -> Result<Option<String>, BadRequest> {
    let Some(given) = params.get("eventType") else { return Ok(None) };
    event_type(given).map(Some).ok_or_else(|| BadRequest::Malformed {
        parameter: "eventType",
        given: quoted(given),
        expected: expected(),
    })
}

/// A field that holds an event type, as it is stored.
pub fn event_type_field(part: &JsonPart<'_>) -> Result<String, BadRequest> {
    event_type(part.any_text()?).ok_or_else(|| part.not(&expected()))
}

fn event_type(name: &str) -> Option<String> {
    let stored = stored_event_type(name.into());
    is_event_type(&stored).then(|| stored.into_owned())
}

/// Whether a text can be an event type.
pub fn is_event_type(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= MAX_EVENT_TYPE_CHARS
}

fn expected() -> String {
    format!("an event type, of 1 to {MAX_EVENT_TYPE_CHARS} characters")
}

/// Whether a name among dimensions is that of time, of whatever width of buckets. `timezone` is a dimension as any other.
pub fn is_time(name: &str) -> bool {
    name == "time" || name.starts_with("time:")
}

/// Seconds of a length of time: a number of minutes, hours or days, such as `30m`, `12h` or `7d`.
pub fn seconds(text: &str) -> Option<i64> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit {
        "m" => MINUTE,
        "h" => 60 * MINUTE,
        "d" => DAY,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A number and what it counts.
pub fn number_and_unit(text: &str) -> Option<(i64, &str)> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_numbers_with_a_unit() {
        for (text, expected) in [
            ("30m", Some(1_800)),
            ("12h", Some(43_200)),
            ("7d", Some(604_800)),
            ("0d", Some(0)),
            ("5", None),
            ("m", None),
            ("-5m", None),
            ("1.5h", None),
            ("5M", None),
            ("5\u{e4}", None),
            ("9223372036854775807d", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn names_that_only_begin_like_time_are_not() {
        assert!(["time", "time:", "time:day"].into_iter().all(is_time));
        assert!(!["", "timezone", "time_of_day", "times", "Time", "a:time"].into_iter().any(is_time));
    }

    #[test]
    fn an_event_type_is_as_long_as_one_that_is_stored() {
        let read = |length: usize| {
            let raw = format!("eventType={}", "\u{e4}".repeat(length));
            event_type_parameter(&Params::parse(Some(&raw), &["eventType"]).unwrap())
                .map(|found| found.map(|name| name.len()))
        };
        assert_eq!(read(100), Ok(Some(200)));
        assert!(!is_event_type("") && !is_event_type(" "));
        assert!(read(101).unwrap_err().to_string().contains("is not an event type, of 1 to 100 characters"));
    }
}
