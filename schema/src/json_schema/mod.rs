//! What the properties of an event type must be: a JSON Schema (2020-12), compiled once, checked for every event.
//!
//! ```text
//! document -> bounds (limits, local references written out) -> flat, where the schema allows it   -> check
//!                                                           -> whole, by the crate `jsonschema`   -> check
//! ```
//!
//! Checked are the properties as they are kept: flattened, the last of several values for one name, unknown top-level fields among them,
//! `context` not. `{"a":{"b":1}}` and `{"a.b":1}` are the same, here as everywhere. A `null` is a `null` of JSON Schema, although it is
//! not kept.
//!
//! **Cost.** What nearly every schema is made of (types, bounds, lengths, patterns, formats, enumerations, required and additional
//! properties, at any depth) becomes a table by name, which is checked against what [`crate::raw`] read anyway. Items of arrays go to the
//! crate, one array at a time. Other keywords (`anyOf`, `if`, …) have the properties put together again as one value for the crate; there no name has a dot.
//!
//! **Bounds.** A schema is a tenant's text that runs on our processors: its size, depth and keywords are bounded after every reference is
//! written out, references lead nowhere but into the same document and not back to themselves, and patterns run in linear time.

mod bounds;
mod budget;
mod coerce;
pub mod compatibility;
mod dotted;
mod exact;
mod flat;
mod formats;
mod keywords;
mod patterns;
mod pointer;
mod rebuild;
mod violation;
mod whole;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::property::Property;
pub use budget::{MAX_KEYWORDS, MAX_SCHEMA_BYTES};
use coerce::Coerced;
use flat::Flat;
pub use violation::{Violation, Violations};
use whole::Whole;

/// What happens to an event that violates its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is rejected.
    #[default]
    Enforce,
    /// It is taken, its sender is warned, and it is counted.
    Report,
    /// Nothing is checked.
    Off,
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pointer}`: {problem}")]
pub struct Fault {
    /// A JSON pointer into the document.
    pub pointer: String,
    /// What is wrong there, and what to do.
    pub problem: String,
}

impl Fault {
    pub(crate) fn at(pointer: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), problem: problem.into() }
    }
}

/// The properties of an event as they were read.
#[derive(Debug)]
pub struct Sent<'p, 'a> {
    /// The properties; what is coerced is changed.
    pub properties: &'p mut [Property<'a>],
    /// Names of objects without an entry.
    pub empty_objects: &'p [Cow<'a, str>],
    /// Names of those that are `null`.
    pub nulls: &'p [Cow<'a, str>],
}

/// A compiled schema.
#[derive(Debug)]
pub struct EventSchema {
    mode: Mode,
    /// As it was compiled, for comparisons.
    expanded: Value,
    coerced: Coerced,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Flat(Flat),
    Whole(Box<Whole>),
}

impl PartialEq for EventSchema {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.expanded == other.expanded && self.coerced == other.coerced
    }
}

impl Eq for EventSchema {}

impl EventSchema {
    /// Compiles the schema of a document. Pointers of faults are into the document: `/schema/…`, `/coerce/…`.
    pub fn compile(schema: &Value, coerce: &[String], mode: Mode) -> Result<Self, Fault> {
        let expanded = bounds::expand(schema)?;
        let coerced = Coerced::of(coerce, &expanded)?;
        let form = match Flat::compile(&expanded)? {
            Some(flat) => Form::Flat(flat),
            None => {
                dotted::refuse(&expanded, "/schema")?;
                Form::Whole(Box::new(Whole::compile(&expanded, "/schema")?))
            }
        };
        Ok(Self { mode, expanded, coerced, form })
    }

    /// What happens to events that violate it.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The schema without references and annotations.
    pub const fn expanded(&self) -> &Value {
        &self.expanded
    }

    /// Whether it is checked without putting the properties together again.
    pub const fn is_flat(&self) -> bool {
        matches!(self.form, Form::Flat(_))
    }

    /// Coerces what is declared so, then checks. Nothing is checked in the mode `off`.
    #[allow(clippy::needless_pass_by_value, reason = "what is coerced is changed in place")]
    pub fn check(&self, sent: Sent<'_, '_>) -> Violations {
        let mut violations = Violations::default();
        if self.mode != Mode::Off {
            self.coerced.apply(sent.properties);
            match &self.form {
                Form::Flat(flat) => flat.check(&sent, &mut violations),
                Form::Whole(whole) => whole.check(&rebuild::object(&sent), sent.properties, &mut violations),
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests;
