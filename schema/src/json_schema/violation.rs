//! In what an event does not match its schema.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::property::{Kind, Property, PropertyValue};

/// Violations of one event that are listed.
const MAX_LISTED: usize = 10;

/// Characters of a value or of an expectation that are repeated.
const MAX_CHARS: usize = 100;

/// One thing in which an event does not match its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// A JSON pointer into the event.
    pub pointer: String,
    /// What the schema asks for.
    pub expected: String,
    /// What came, as JSON; cut.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` must be {}, and is {}", self.pointer, self.expected, self.found)
    }
}

/// All violations of one event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Violations {
    listed: Vec<Violation>,
    omitted: usize,
}

impl Violations {
    /// Counts one. Only when it is listed is it written.
    pub(super) fn add(&mut self, pointer: impl FnOnce() -> String, expected: &str, found: impl FnOnce() -> String) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Violation { pointer: pointer(), expected: cut(expected), found: found() });
        } else {
            self.omitted += 1;
        }
    }

    /// Forgets those after the first `count`.
    pub(super) fn back_to(&mut self, count: usize) {
        self.omitted = count.saturating_sub(self.listed.len().min(count));
        self.listed.truncate(count);
    }

    /// Whether the list is full: the rest is only counted.
    pub(super) const fn is_full(&self) -> bool {
        self.listed.len() >= MAX_LISTED
    }

    /// Whether the event matches.
    pub const fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Those that are listed; the first is there unless the event matches.
    pub fn listed(&self) -> &[Violation] {
        &self.listed
    }

    /// How many more there are.
    pub const fn omitted(&self) -> usize {
        self.omitted
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.listed.len() + self.omitted
    }
}

/// One line: the first, and how many more.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.listed.first() else { return f.write_str("it matches") };
        write!(f, "{first}")?;
        match self.count() - 1 {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more violation)"),
            more => write!(f, " (and {more} more violations)"),
        }
    }
}

/// At most [`MAX_CHARS`] characters.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A value as JSON, cut.
pub(super) fn excerpt(value: &Value) -> String {
    match value {
        Value::String(text) => excerpt_of_text(text),
        Value::Object(_) => "an object".to_owned(),
        value => cut(&value.to_string()),
    }
}

fn excerpt_of_text(text: &str) -> String {
    // Of a long text no more is escaped than is shown.
    let end = text.char_indices().nth(MAX_CHARS + 1).map_or(text.len(), |(end, _)| end);
    cut(&Value::from(text.get(..end).unwrap_or_default()).to_string())
}

/// A property as JSON, cut.
pub(super) fn excerpt_of_property(property: &Property<'_>) -> String {
    match (&property.value, property.sent.kind) {
        (PropertyValue::Number(number), _) => crate::number::canonical(*number),
        (PropertyValue::Text(text), Kind::Text) => excerpt_of_text(text),
        (PropertyValue::Text(text), Kind::Number | Kind::Boolean | Kind::Array) => cut(text),
    }
}
