//! Whether a new version of a schema goes with the one in force.
//!
//! | rule | promise |
//! |---|---|
//! | `backward` | what the version in force takes, the new one takes: nobody has to change what they send |
//! | `forward` | what the new version takes, the one in force takes: whoever reads by the old one can read the new events |
//! | `full` | both |
//! | `none` | nothing |
//!
//! One exception to the letter of JSON Schema, where an object may have properties that nobody named: to name a further, optional property
//! is taken to be compatible, because that is how events grow. Whoever sent it before with another type is told by the answer's notes.
//! Else what is found compatible is: a pair of schemas that cannot be told by their keywords counts as incompatible.

mod coerced;
mod object;
mod widening;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EventSchema;
use widening::Widening;

/// What a new version has to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// What was valid stays valid.
    #[default]
    Backward,
    /// What is valid was valid.
    Forward,
    /// Both.
    Full,
    /// Nothing.
    None,
}

/// A place at which a new version breaks a promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// A JSON pointer into the schema.
    pub pointer: String,
    /// What is in the way.
    pub problem: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.pointer, self.problem)
    }
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// What breaks the promise.
    pub breaks: Vec<Break>,
    /// What does not, and should be known.
    pub notes: Vec<Break>,
}

impl Compatibility {
    /// Compares a new schema with the one in force. A version without a schema takes everything.
    pub fn compare(self, in_force: Option<&EventSchema>, new: Option<&EventSchema>) -> Comparison {
        let anything = Value::Bool(true);
        let schema = |version: Option<&EventSchema>| version.map_or_else(|| anything.clone(), |v| v.expanded().clone());
        let (old_schema, new_schema) = (schema(in_force), schema(new));
        let mut comparison = self.compare_schemas(&old_schema, &new_schema);
        if let (Some(old), Some(new)) = (in_force, new) {
            self.each(&mut comparison, (old, new), |widening, narrow, wide| {
                coerced::compare(widening, narrow, wide);
            });
        }
        comparison
    }

    /// The same of schemas without references, as they are without coercion.
    pub(super) fn compare_schemas(self, in_force: &Value, new: &Value) -> Comparison {
        let mut comparison = Comparison::default();
        self.each(&mut comparison, (in_force, new), |widening, narrow, wide| widening.schema(narrow, wide, "/schema"));
        comparison
    }

    /// Looks in each direction that is promised.
    fn each<T: ?Sized>(self, into: &mut Comparison, (old, new): (&T, &T), look: impl Fn(&mut Widening<'_>, &T, &T)) {
        const OLD: &str = "the version in force";
        const NEW: &str = "this version";
        if matches!(self, Self::Backward | Self::Full) {
            look(&mut Widening { narrower: OLD, wider: NEW, into: &mut *into }, old, new);
        }
        if matches!(self, Self::Forward | Self::Full) {
            look(&mut Widening { narrower: NEW, wider: OLD, into: &mut *into }, new, old);
        }
    }
}

#[cfg(test)]
mod tests;
