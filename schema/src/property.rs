//! A property as received: a name, and a text or a number.

use std::borrow::Cow;

/// A property's value.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue<'a> {
    /// A text; booleans and arrays are kept as the JSON they were, and so are integers of which a double would lose digits.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
}

/// A property after flattening: `{"a":{"b":1}}` is `a.b`.
#[derive(Debug, Clone)]
pub struct Property<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: PropertyValue<'a>,
    /// How it was sent: what schemas are checked against. Not kept.
    pub sent: Sent,
}

impl<'a> Property<'a> {
    /// A property whose value tells its type.
    pub fn new(name: impl Into<Cow<'a, str>>, value: PropertyValue<'a>) -> Self {
        let kind = match &value {
            PropertyValue::Text(_) => Kind::Text,
            PropertyValue::Number(_) => Kind::Number,
        };
        Self { name: name.into(), value, sent: Sent { kind, place: Place::Properties } }
    }
}

/// Of what is kept: a boolean and its text are the same.
impl PartialEq for Property<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value == other.value
    }
}

/// The type of a property in JSON, and where in the event it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its type in JSON.
    pub kind: Kind,
    /// Where it stood.
    pub place: Place,
}

/// A type of JSON that becomes one property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Text,
    Number,
    Boolean,
    Array,
}

/// Where in an event a property stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An unknown entry of `context`.
    Context,
    /// An unknown top-level field.
    TopLevel,
    /// `properties`.
    Properties,
}
