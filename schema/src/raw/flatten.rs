//! Nested values -> flat properties.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::exact::{self, Unwritten};
use super::{Name, Numbers, PropertyValue, Reader};
use crate::limits::{MAX_DEPTH, MAX_KEY_BYTES, MAX_PROPERTIES};
use crate::number::{self, MAYBE_LONG};
use crate::property::{Kind, Place, Sent};
use crate::rejection::Rejection;

impl Place {
    /// Of two properties with one name the greater rank counts.
    pub(super) fn rank(self, depth: usize) -> u8 {
        const LEVELS: u8 = MAX_DEPTH as u8 + 1;
        self as u8 * LEVELS + LEVELS.saturating_sub(depth as u8)
    }
}

/// Any value under a name: scalars become properties, objects are gone into, arrays are kept as JSON.
pub(super) struct Flatten<'r, 'a> {
    reader: &'r mut Reader<'a>,
    place: Place,
    name: Cow<'a, str>,
    depth: usize,
    /// The field that must hold an object, while we stand at it.
    root: Option<&'static str>,
}

impl<'r, 'a> Flatten<'r, 'a> {
    /// The value of `properties` or `context`, which must be an object. What is in the context is named `context.…`.
    pub(super) fn root(reader: &'r mut Reader<'a>, place: Place) -> Self {
        let (field, prefix) = if place == Place::Context { ("context", "context") } else { ("properties", "") };
        Self { reader, place, name: Cow::Borrowed(prefix), depth: 0, root: Some(field) }
    }

    /// The value of an unknown top-level field.
    pub(super) fn field(reader: &'r mut Reader<'a>, name: Cow<'a, str>) -> Self {
        Self { reader, place: Place::TopLevel, name, depth: 1, root: None }
    }
}

impl<'de> DeserializeSeed<'de> for Flatten<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.reader.numbers == Numbers::AsRead {
            return deserializer.deserialize_any(self);
        }
        let raw = <&RawValue>::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => self.keep(Kind::Number, number::written(Cow::Borrowed(raw.get()))),
            Some(b'[') => {
                let left = MAX_DEPTH.saturating_sub(self.depth);
                self.keep_array(exact::array(raw, left))
            }
            _ => serde_json::Deserializer::from_str(raw.get()).deserialize_any(self).map_err(D::Error::custom),
        }
    }
}

impl<'a> Flatten<'_, 'a> {
    fn keep<E>(self, kind: Kind, value: PropertyValue<'a>) -> Result<(), E> {
        match self.root {
            Some(field) => {
                let is_json = matches!(&value, PropertyValue::Text(text) if text.trim_start().starts_with('{'));
                let expected =
                    if is_json { "an object, not a text that holds JSON (it was encoded twice)" } else { "an object" };
                self.reader.fault(Rejection::WrongType { field, expected });
            }
            None => self.reader.add(Sent { kind, place: self.place }, self.depth, self.name, value),
        }
        Ok(())
    }

    fn keep_array<E: serde::de::Error>(self, array: Result<String, Unwritten>) -> Result<(), E> {
        match array {
            Ok(text) => self.keep(Kind::Array, PropertyValue::Text(Cow::Owned(text))),
            Err(Unwritten::TooDeep) => {
                self.reader.fault(Rejection::TooDeep);
                Ok(())
            }
            Err(Unwritten::Json(error)) => Err(E::custom(error)),
        }
    }
}

impl<'de> Visitor<'de> for Flatten<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        let is_kept = self.depth > 0 && self.place != Place::Context;
        if is_kept && self.reader.nulls.len() < MAX_PROPERTIES {
            self.reader.nulls.push(self.name);
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(Kind::Boolean, PropertyValue::Text(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(Kind::Number, PropertyValue::of_i64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(Kind::Number, PropertyValue::of_u64(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.reader.look_at(value);
        self.keep(Kind::Number, PropertyValue::of_f64(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        self.keep(Kind::Text, PropertyValue::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.keep(Kind::Text, PropertyValue::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        let array = serde_json::Value::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
        let depth = self.depth;
        self.reader.saw_long_number |= has_long_number(&array);
        self.keep_array(if depth + nesting(&array) > MAX_DEPTH {
            Err(Unwritten::TooDeep)
        } else {
            serde_json::to_string(&array).map_err(Unwritten::Json)
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { reader, place, name, depth, root: _ } = self;
        if depth >= MAX_DEPTH {
            reader.fault(Rejection::TooDeep);
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let before = reader.properties.len();
        while let Some(Name(key)) = map.next_key()? {
            // A name that is already too long only grows; it is cut when the event is normalised.
            let path = match name.len() {
                0 => key,
                1..=MAX_KEY_BYTES => joined(&name, &key),
                _ => name.clone(),
            };
            map.next_value_seed(Flatten { reader: &mut *reader, place, name: path, depth: depth + 1, root: None })?;
        }
        if reader.properties.len() == before && depth > 0 {
            reader.empty_objects.push(name);
        }
        Ok(())
    }
}

/// The path of an entry. Nearly every event has the first ones, so these cost no allocation.
fn joined(name: &str, key: &str) -> Cow<'static, str> {
    Cow::Borrowed(match (name, key) {
        ("context", "ip") => "context.ip",
        ("context", "userAgent") => "context.userAgent",
        ("context", "user_agent") => "context.user_agent",
        ("context", "country") => "context.country",
        ("context", "device") => "context.device",
        ("context", "locale") => "context.locale",
        ("context", "page") => "context.page",
        ("context.device", "type") => "context.device.type",
        ("context.page", "path") => "context.page.path",
        _ => {
            let mut path = String::with_capacity(name.len() + 1 + key.len());
            path.extend([name, ".", key]);
            return Cow::Owned(path);
        }
    })
}

fn nesting(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(nesting).max().unwrap_or_default(),
        serde_json::Value::Object(fields) => 1 + fields.values().map(nesting).max().unwrap_or_default(),
        _ => 0,
    }
}

fn has_long_number(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(items) => items.iter().any(has_long_number),
        serde_json::Value::Object(fields) => fields.values().any(has_long_number),
        serde_json::Value::Number(number) => number.is_f64() && number.as_f64().is_some_and(|n| n.abs() >= MAYBE_LONG),
        _ => false,
    }
}
