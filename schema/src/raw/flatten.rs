//! Nested values -> flat properties.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Name, PropertyValue, Reader};
use crate::limits::{MAX_DEPTH, MAX_KEY_BYTES};
use crate::rejection::Rejection;

/// Any value under a name: scalars become properties, objects are gone into, arrays are kept as JSON.
pub(super) struct Flatten<'r, 'a> {
    reader: &'r mut Reader<'a>,
    name: Cow<'a, str>,
    depth: usize,
    /// The field that must hold an object, while we stand at it.
    root: Option<&'static str>,
}

impl<'r, 'a> Flatten<'r, 'a> {
    /// The value of `field`, which must be an object; its entries are named `prefix.…`.
    pub(super) fn root(reader: &'r mut Reader<'a>, field: &'static str, prefix: &'static str) -> Self {
        Self { reader, name: Cow::Borrowed(prefix), depth: 0, root: Some(field) }
    }

    /// The value of an unknown top-level field.
    pub(super) fn field(reader: &'r mut Reader<'a>, name: Cow<'a, str>) -> Self {
        Self { reader, name, depth: 1, root: None }
    }
}

impl<'de> DeserializeSeed<'de> for Flatten<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Flatten<'_, 'a> {
    fn keep<E>(self, value: PropertyValue<'a>) -> Result<(), E> {
        match self.root {
            Some(field) => self.reader.fault(Rejection::WrongType { field, expected: "an object" }),
            None => self.reader.add(self.name, value),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Flatten<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(PropertyValue::Text(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(PropertyValue::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(PropertyValue::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.keep(PropertyValue::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        self.keep(PropertyValue::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.keep(PropertyValue::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        let array = serde_json::Value::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
        if self.depth + nesting(&array) > MAX_DEPTH {
            self.reader.fault(Rejection::TooDeep);
            return Ok(());
        }
        let text = serde_json::to_string(&array).map_err(A::Error::custom)?;
        self.keep(PropertyValue::Text(Cow::Owned(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { reader, name, depth, root: _ } = self;
        if depth >= MAX_DEPTH {
            reader.fault(Rejection::TooDeep);
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let before = reader.event.properties.len();
        while let Some(Name(key)) = map.next_key()? {
            // A name that is already too long only grows; it is cut when the event is normalised.
            let path = match name.len() {
                0 => key,
                1..=MAX_KEY_BYTES => format!("{name}.{key}").into(),
                _ => name.clone(),
            };
            map.next_value_seed(Flatten { reader: &mut *reader, name: path, depth: depth + 1, root: None })?;
        }
        if reader.event.properties.len() == before && depth > 0 {
            reader.event.empty_objects.push(name);
        }
        Ok(())
    }
}

fn nesting(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(nesting).max().unwrap_or_default(),
        serde_json::Value::Object(fields) => 1 + fields.values().map(nesting).max().unwrap_or_default(),
        _ => 0,
    }
}
