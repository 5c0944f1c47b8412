//! Formats that are checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use jiff::civil::Date;

/// A format that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    DateTime,
    Date,
    Time,
    Uuid,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Uri,
}

impl Format {
    pub(super) const ALL: [Self; 9] = [
        Self::DateTime,
        Self::Date,
        Self::Time,
        Self::Uuid,
        Self::Email,
        Self::Hostname,
        Self::Ipv4,
        Self::Ipv6,
        Self::Uri,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DateTime => "date-time",
            Self::Date => "date",
            Self::Time => "time",
            Self::Uuid => "uuid",
            Self::Email => "email",
            Self::Hostname => "hostname",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Uri => "uri",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether a text is of this format.
    pub(super) fn holds(self, text: &str) -> bool {
        match self {
            Self::DateTime => is_date_time(text),
            Self::Date => text.len() == 10 && text.parse::<Date>().is_ok(),
            Self::Time => text.len() < 40 && is_date_time(&format!("1970-01-02T{text}")),
            Self::Uuid => is_uuid(text),
            Self::Email => is_email(text),
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Uri => is_uri(text),
        }
    }
}

/// RFC 3339: with a `T`, seconds, and an offset.
fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let has = |place: usize, byte: u8| bytes.get(place).is_some_and(|found| found.eq_ignore_ascii_case(&byte));
    let has_offset = bytes.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'z'))
        || bytes.len().checked_sub(6).and_then(|place| bytes.get(place)).is_some_and(|sign| b"+-".contains(sign));
    let is_shaped = (20..=40).contains(&bytes.len()) && has(10, b't') && has(13, b':') && has(16, b':');
    is_shaped && has_offset && text.parse::<Timestamp>().is_ok()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// An address as mail programs take them; no quoted local part.
fn is_email(text: &str) -> bool {
    let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte) || byte >= 0x80;
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        (1..=64).contains(&local.len())
            && local.bytes().all(is_local)
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && is_hostname(domain)
    })
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A scheme, a colon, and no blank or control character after it.
fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_takes_its_own_and_nothing_else() {
        for (format, holds, others) in [
            (
                Format::DateTime,
                vec!["2026-11-28T10:00:00Z", "2026-11-28t10:00:00.123+01:00"],
                vec!["2026-11-28", "2026-11-28 10:00:00Z", "2026-11-28T10:00:00", "2026-13-28T10:00:00Z", ""],
            ),
            (Format::Date, vec!["2026-11-28"], vec!["2026-02-30", "28.11.2026", "20261128"]),
            (Format::Time, vec!["10:00:00Z", "10:00:00.5+02:00"], vec!["10:00", "10:00:00", "25:00:00Z"]),
            (
                Format::Uuid,
                vec!["7C9e6679-7425-40de-944b-e07fc1f90ae7"],
                vec!["7c9e6679742540de944be07fc1f90ae7", "7c9e6679-7425-40de-944b-e07fc1f90aeg"],
            ),
            (Format::Email, vec!["a.b+c@example.org"], vec!["a@", "@b", "a b@c.d", ".a@b.c", "a..b@c.d", "a@-b.c"]),
            (Format::Hostname, vec!["example.org", "a"], vec!["", "a..b", "-a", "a_b"]),
            (Format::Ipv4, vec!["203.0.113.7"], vec!["203.0.113", "::1", "203.0.113.256"]),
            (Format::Ipv6, vec!["::1"], vec!["203.0.113.7", "::g"]),
            (Format::Uri, vec!["https://example.org/a?b#c", "mailto:a@b.c"], vec!["/a", "https://a b", ":x", "http:"]),
        ] {
            assert!(holds.iter().all(|text| format.holds(text)), "{format:?}");
            for other in others {
                assert!(!format.holds(other), "{format:?} {other:?}");
            }
            assert_eq!(Format::named(format.name()), Some(format));
        }
    }
}
