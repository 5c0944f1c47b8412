//! When a certificate begins and ends. rustls looks at that when it verifies somebody else's, and does not tell it of our own; a whole parser
//! of X.509 for two fields would be the largest dependency of this crate.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `[0]`, the version, which the first version of X.509 leaves out.
const VERSION: u8 = 0xa0;

impl Validity {
    /// Reads it from a certificate in DER; `None` when it is not one.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = content(certificate, SEQUENCE)?;
        let (signed, _) = content(certificate, SEQUENCE)?;
        let (tag, _, after) = element(signed)?;
        let rest = if tag == VERSION { after } else { signed };
        // Serial number, algorithm of the signature, issuer.
        let rest = skip(skip(skip(rest)?)?)?;
        let (validity, _) = content(rest, SEQUENCE)?;
        let (kind, from, rest) = element(validity)?;
        let from = time(kind, from)?;
        let (kind, until, _) = element(rest)?;
        Some(Self { from, until: time(kind, until)? })
    }
}

/// The first element of some DER: its tag, what it holds, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Nothing in a certificate is longer than four bytes can say.
        // `0x80` is a length that DER does not have.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (held, after) = rest.split_at_checked(length)?;
    Some((tag, held, after))
}

fn content(der: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    let (tag, held, after) = element(der)?;
    (tag == expected).then_some((held, after))
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    element(der).map(|(_, _, after)| after)
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, the only forms that RFC 5280 allows.
fn time(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_i16, |all, digit| all * 10 + i16::from(digit - b'0'));
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            (year + if year < 50 { 2_000 } else { 1_900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
        _ => return None,
    };
    let fields: Vec<i8> = rest.chunks_exact(2).filter_map(|two| i8::try_from(number(two)).ok()).collect();
    let [month, day, hour, minute, second] = fields.as_slice() else { return None };
    let time = DateTime::new(year, *month, *day, *hour, *minute, *second, 0).ok()?;
    Offset::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Issued, Lifetime};
    use super::*;

    #[test]
    fn both_ends_are_read_in_both_forms() {
        // UTCTime before 2050, GeneralizedTime from then on.
        for (from, until) in
            [((2026, 1, 2), (2026, 4, 2)), ((2049, 12, 31), (2061, 1, 1)), ((1999, 5, 6), (2050, 1, 1))]
        {
            let issued = Issued::new(&["a.example"], Lifetime::Dates(from, until), None);
            let at = |(year, month, day): (i32, u8, u8)| {
                format!("{year}-{month:02}-{day:02}T00:00:00Z").parse::<Timestamp>().unwrap()
            };
            let expected = Validity { from: at(from), until: at(until) };
            assert_eq!(Validity::of(issued.certificate.der()), Some(expected));
        }
    }

    #[test]
    fn no_bytes_do_harm() {
        let whole = Issued::new(&["a.example"], Lifetime::Days(-1, 90), None).certificate.der().to_vec();
        for end in 0..whole.len() {
            // Cut anywhere, and changed anywhere.
            assert_eq!(Validity::of(&whole[..end]), None);
            let mut changed = whole.clone();
            changed[end] ^= 0xff;
            let _any = Validity::of(&changed);
        }
        assert_eq!(time(UTC_TIME, b"261332000000Z"), None);
        assert_eq!(time(UTC_TIME, b"2613Z"), None);
        assert_eq!(time(GENERALIZED_TIME, b"20260102000000+0100"), None);
    }
}
