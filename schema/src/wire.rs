//! A normalised event as bytes: the record format of Kafka and of the local log.
//!
//! A record is a version byte and the fields in a fixed order: texts with their length in front, lengths as LEB128,
//! numbers little endian, times of the client as zigzag LEB128 of their distance to `received_at`. Nothing is optional and
//! nothing may follow, so a record that was cut or shifted does not decode. Bit errors are found by the checksums of
//! whatever carries the record (a Kafka batch, a group of the local log); this format has none of its own.
//!
//! Changing it: a new field goes to the end under a new version, and [`decode`] goes on reading every version that a topic
//! may still hold (seven days), filling what an older one lacks. Consumers are upgraded before gateways; a record of a
//! version that is not known is a dead letter, and can be replayed after the upgrade.

use std::borrow::Cow;

use crate::event::{Dim, Event, Flags};
use crate::property::{Property, PropertyValue};
use crate::value::{Bounded, bounded};

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;

/// A decoded record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    /// The project that the event belongs to.
    pub project: &'a str,
    /// The event.
    pub event: Event<'a>,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No bytes at all.
    #[error("the record is empty")]
    Empty,
    /// Written by another version of this program.
    #[error("the record has version {0}; this program reads version {VERSION}")]
    UnknownVersion(u8),
    /// It ends too early.
    #[error("the record ends within {field}")]
    Cut {
        /// Where.
        field: &'static str,
    },
    /// A text that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotText {
        /// Name of the field.
        field: &'static str,
    },
    /// A number that no writer writes.
    #[error("{field} is not a value that may stand there")]
    BadValue {
        /// Name of the field.
        field: &'static str,
    },
    /// Something follows.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
}

impl WireError {
    /// For programs and metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownVersion(_) => "unknown_version",
            Self::Empty | Self::Cut { .. } | Self::NotText { .. } | Self::BadValue { .. } | Self::Trailing(_) => {
                "undecodable"
            }
        }
    }
}

const TEXT: u8 = 0;
const NUMBER: u8 = 1;

/// Appends a record to `out`.
pub fn encode(project: &str, event: &Event<'_>, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&event.received_at.to_le_bytes());
    signed(out, event.ts.wrapping_sub(event.received_at));
    signed(out, event.original_ts.wrapping_sub(event.received_at));
    out.extend_from_slice(&event.user_hash.to_le_bytes());
    out.extend_from_slice(&event.flags.bits().to_le_bytes());
    out.extend_from_slice(&event.retention_days.to_le_bytes());
    match event.value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    text(out, project);
    for (_, field) in event.texts() {
        text(out, field);
    }
    unsigned(out, event.properties.len() as u64);
    for property in &event.properties {
        text(out, &property.name);
        match &property.value {
            PropertyValue::Text(value) => {
                out.push(TEXT);
                text(out, value);
            }
            PropertyValue::Number(value) => {
                out.push(NUMBER);
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }
    unsigned(out, event.dims.len() as u64);
    for dim in &event.dims {
        text(out, dim.set);
        text(out, &dim.value);
    }
}

/// Whose event a record is, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The project that the event belongs to.
    pub project: &'a str,
    /// The event's id.
    pub event_id: &'a str,
    /// What normalisation noted of the event.
    pub flags: Flags,
}

/// Reads of a record only whose it is.
pub fn identity(bytes: &[u8]) -> Result<Identity<'_>, WireError> {
    let Head { project, event_id, flags, .. } = Head::read(&mut Input { bytes })?;
    Ok(Identity { project, event_id, flags })
}

/// What a record begins with: up to the first text of [`Event::texts`], the id.
struct Head<'a> {
    received_at: i64,
    ts: i64,
    original_ts: i64,
    user_hash: u64,
    flags: Flags,
    retention_days: u16,
    value: Option<f64>,
    project: &'a str,
    event_id: &'a str,
}

impl<'a> Head<'a> {
    fn read(input: &mut Input<'a>) -> Result<Self, WireError> {
        match input.byte("the version") {
            Err(_) => return Err(WireError::Empty),
            Ok(VERSION) => {}
            Ok(other) => return Err(WireError::UnknownVersion(other)),
        }
        let received_at = i64::from_le_bytes(input.array("received_at")?);
        let ts = received_at.wrapping_add(input.signed("ts")?);
        let original_ts = received_at.wrapping_add(input.signed("original_ts")?);
        let user_hash = u64::from_le_bytes(input.array("user_hash")?);
        let mut flags = Flags::from_bits(u16::from_le_bytes(input.array("flags")?));
        let retention_days = u16::from_le_bytes(input.array("retention_days")?);
        let value = match input.byte("value")? {
            0 => None,
            // Versions before the bounds wrote any number, and a topic may still hold some that no state of quantiles takes.
            1 => match bounded(f64::from_le_bytes(input.array("value")?)) {
                Bounded::Counted(value) => Some(value),
                Bounded::Zero => {
                    flags.set(Flags::BAD_VALUE);
                    Some(0.0)
                }
                Bounded::Refused => {
                    flags.set(Flags::BAD_VALUE);
                    None
                }
            },
            _ => return Err(WireError::BadValue { field: "value" }),
        };
        let project = input.text("project")?;
        let event_id = input.text("event_id")?;
        Ok(Self { received_at, ts, original_ts, user_hash, flags, retention_days, value, project, event_id })
    }
}

/// Reads a record. What it returns borrows from `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, WireError> {
    let mut input = Input { bytes };
    let Head { received_at, ts, original_ts, user_hash, flags, retention_days, value, project, event_id } =
        Head::read(&mut input)?;
    let mut event = Event { received_at, ts, original_ts, user_hash, flags, retention_days, value, ..Event::default() };
    event.event_id = Cow::Borrowed(event_id);
    for (name, field) in event.texts_mut().into_iter().skip(1) {
        *field = Cow::Borrowed(input.text(name)?);
    }
    event.properties = input.many("properties", |input| {
        let name = Cow::Borrowed(input.text("a property's name")?);
        let value = match input.byte("a property")? {
            TEXT => PropertyValue::Text(Cow::Borrowed(input.text("a property")?)),
            NUMBER => PropertyValue::Number(f64::from_le_bytes(input.array("a property")?)),
            _ => return Err(WireError::BadValue { field: "a property" }),
        };
        Ok(Property::new(name, value))
    })?;
    event.dims = input.many("dims", |input| {
        Ok(Dim { set: input.text("a dimension's name")?, value: Cow::Borrowed(input.text("a dimension")?) })
    })?;
    if !input.bytes.is_empty() {
        return Err(WireError::Trailing(input.bytes.len()));
    }
    Ok(Record { project, event })
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(WireError::Cut { field })?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(WireError::Cut { field })?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn unsigned(&mut self, field: &'static str) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::BadValue { field })
    }

    fn signed(&mut self, field: &'static str) -> Result<i64, WireError> {
        let value = self.unsigned(field)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let length = usize::try_from(self.unsigned(field)?).map_err(|_| WireError::BadValue { field })?;
        std::str::from_utf8(self.take(length, field)?).map_err(|_| WireError::NotText { field })
    }

    /// A count and so many items. The count is not believed: memory is taken as items are really there.
    fn many<T>(
        &mut self,
        field: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.unsigned(field)?;
        let mut items = Vec::with_capacity(count.min(256) as usize);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    unsigned(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

fn signed(out: &mut Vec<u8>, value: i64) {
    unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> Event<'static> {
        Event {
            event_id: "order-1".into(),
            event_type: "purchase".into(),
            ts: 1_799_999_999_000,
            original_ts: -5,
            received_at: 1_800_000_000_000,
            value: Some(-12.5),
            user_id: "ü".into(),
            anonymous_id: "".into(),
            user_hash: u64::MAX,
            session_id: "s".into(),
            country: "DE".into(),
            device: "mobile".into(),
            os: "Android".into(),
            browser: "Firefox".into(),
            locale: "de-DE".into(),
            page: "/".into(),
            ip: "203.0.113.0".into(),
            properties: vec![
                Property::new("a.b", PropertyValue::Number(f64::MIN)),
                Property::new("c", PropertyValue::Text("x".repeat(300).into())),
            ],
            dims: vec![Dim { set: "country,device", value: "DE\u{1f}mobile".into() }],
            flags: Flags::SKEW,
            retention_days: 730,
        }
    }

    #[test]
    fn the_identity_is_that_of_the_whole_record() {
        for value in [None, Some(1.5)] {
            let (event, mut out) = (Event { value, ..event() }, Vec::new());
            encode("demo", &event, &mut out);
            let expected = Identity { project: "demo", event_id: "order-1", flags: Flags::SKEW };
            assert_eq!(identity(&out), Ok(expected));
            assert_eq!(identity(&out[..40]), decode(&out[..40]).map(|_| expected));
        }
    }

    fn bytes() -> Vec<u8> {
        let mut out = Vec::new();
        encode("demo", &event(), &mut out);
        out
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = bytes();
        assert_eq!(decode(&bytes), Ok(Record { project: "demo", event: event() }));
        let extreme = Event { ts: i64::MIN, original_ts: i64::MAX, value: None, dims: vec![], ..event() };
        let mut out = Vec::new();
        encode("", &extreme, &mut out);
        assert_eq!(decode(&out).map(|record| record.event), Ok(extreme));
    }

    #[test]
    fn a_value_that_an_older_version_wrote_is_within_the_bounds() {
        for (written, read) in
            [(1e300, None), (-1e31, None), (f64::NAN, None), (f64::INFINITY, None), (5e-324, Some(0.0))]
        {
            let mut out = Vec::new();
            encode("demo", &Event { value: Some(written), ..event() }, &mut out);
            let event = decode(&out).unwrap().event;
            assert_eq!((event.value, event.flags.has(Flags::BAD_VALUE)), (read, true), "{written}");
        }
    }

    #[test]
    fn other_versions_are_named() {
        for version in [0, 2, 255] {
            let mut bytes = bytes();
            bytes[0] = version;
            let error = decode(&bytes).unwrap_err();
            assert_eq!((error, error.code()), (WireError::UnknownVersion(version), "unknown_version"));
        }
        assert_eq!(decode(&[]), Err(WireError::Empty));
    }

    #[test]
    fn a_record_that_was_cut_anywhere_or_extended_does_not_decode() {
        let bytes = bytes();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        let extended = [&bytes[..], b"x"].concat();
        assert_eq!(decode(&extended), Err(WireError::Trailing(1)));
    }

    #[test]
    fn the_format_of_version_1_does_not_change() {
        // A topic may hold records of a week ago: this digest changes only together with VERSION.
        let sum: u64 = bytes().iter().fold(17, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        assert_eq!((bytes().len(), sum), (GOLDEN_LENGTH, GOLDEN_SUM));
    }

    const GOLDEN_LENGTH: usize = 457;
    const GOLDEN_SUM: u64 = 3_926_866_032_541_066_776;

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(decode(&bytes));
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            drop(decode(&bytes));
        }

        #[test]
        fn flipped_bits_never_panic(at in 0_usize..400, bit in 0_u8..8) {
            let mut bytes = bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            drop(decode(&bytes));
        }
    }
}
