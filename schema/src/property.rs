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
#[derive(Debug, Clone, PartialEq)]
pub struct Property<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: PropertyValue<'a>,
}
