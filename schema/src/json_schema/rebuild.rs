//! Flat properties -> the object that they came from.

use serde_json::{Map, Number, Value};

use super::Sent;
use crate::property::{Kind, Place, Property, PropertyValue};

/// The object of all properties. Where a value and an object have one name, the entries of the object stand under their whole names.
pub(super) fn object(sent: &Sent<'_, '_>) -> Value {
    let mut object = Map::new();
    for property in sent.properties.iter().filter(|property| property.sent.place != Place::Context) {
        put(&mut object, &property.name, value(property));
    }
    // An object of empty objects comes after what it holds.
    let empty = sent.empty_objects.iter().rev().map(|name| (name, Value::Object(Map::new())));
    let given = Given::of(sent);
    let nulls = sent.nulls.iter().filter(|name| !given.has(name)).map(|name| (name, Value::Null));
    for (name, value) in empty.chain(nulls) {
        if !is_of_context(name) {
            put(&mut object, name, value);
        }
    }
    Value::Object(object)
}

/// Whether an object without entries was the context or within it.
pub(super) fn is_of_context(name: &str) -> bool {
    name.strip_prefix("context").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The names of which there are values, in order.
pub(super) struct Given<'p>(Vec<&'p str>);

impl<'p> Given<'p> {
    /// Nobody asks when there is no `null`.
    pub(super) fn of(sent: &'p Sent<'_, '_>) -> Self {
        if sent.nulls.is_empty() {
            return Self(Vec::new());
        }
        let properties = sent.properties.iter().filter(|property| property.sent.place != Place::Context);
        let mut names: Vec<&str> = properties.map(|property| &*property.name).collect();
        names.sort_unstable();
        Self(names)
    }

    /// Whether there is a value of this name too, or within it. It is what is kept, wherever a `null` of the name stands.
    pub(super) fn has(&self, name: &str) -> bool {
        let within = format!("{name}.");
        let first = self.0.partition_point(|given| *given < within.as_str());
        self.0.get(first).is_some_and(|given| given.starts_with(&within)) || self.0.binary_search(&name).is_ok()
    }
}

/// A property as JSON.
pub(super) fn value(property: &Property<'_>) -> Value {
    match (&property.value, property.sent.kind) {
        (PropertyValue::Number(number), _) => number_of(*number),
        (PropertyValue::Text(text), Kind::Text) => Value::from(&**text),
        // Written by the reader, so it is JSON.
        (PropertyValue::Text(text), Kind::Number | Kind::Boolean | Kind::Array) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(&**text))
        }
    }
}

fn number_of(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        Value::from(number as i64)
    } else {
        Number::from_f64(number).map_or(Value::Null, Value::Number)
    }
}

fn put(object: &mut Map<String, Value>, path: &str, value: Value) {
    if let Some((first, rest)) = path.split_once('.')
        && !first.is_empty()
        && !rest.is_empty()
    {
        let entry = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(entry) = entry {
            return put(entry, rest, value);
        }
    }
    object.insert(path.to_owned(), value);
}
