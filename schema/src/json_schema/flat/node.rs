//! What the schema says of one property.

use std::borrow::Cow;

use regex::Regex;
use serde_json::Value;

use super::super::exact::Exact;
use super::super::formats::Format;
use super::super::patterns::MAX_MATCHED_BYTES;
use super::super::pointer::of_path;
use super::super::violation::Violations;
use super::super::whole::Whole;
use crate::property::{Kind, Property, PropertyValue};

/// A set of types of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(pub(super) u8);

impl Types {
    pub(super) const NULL: u8 = 1;
    pub(super) const BOOLEAN: u8 = 1 << 1;
    /// Whole numbers are numbers too: their values have both bits.
    pub(super) const INTEGER: u8 = 1 << 2;
    pub(super) const NUMBER: u8 = 1 << 3;
    pub(super) const STRING: u8 = 1 << 4;
    pub(super) const ARRAY: u8 = 1 << 5;
    pub(super) const OBJECT: u8 = 1 << 6;
    pub(super) const ANY: Self = Self(0x7f);

    pub(super) const NAMES: [(&'static str, u8); 7] = [
        ("null", Self::NULL),
        ("boolean", Self::BOOLEAN),
        ("integer", Self::INTEGER),
        ("number", Self::NUMBER),
        ("string", Self::STRING),
        ("array", Self::ARRAY),
        ("object", Self::OBJECT),
    ];

    /// Whether it has one of these.
    pub(super) const fn has(self, types: u8) -> bool {
        self.0 & types != 0
    }
}

/// What is said of what an object has beside its named properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Additional {
    Any,
    Refused,
    /// As this node, which takes no object.
    Like(usize),
}

/// Bounds of a number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    pub(super) minimum: Option<Exact>,
    pub(super) maximum: Option<Exact>,
    pub(super) above: Option<Exact>,
    pub(super) below: Option<Exact>,
    /// A whole number.
    pub(super) multiple_of: Option<Exact>,
}

/// What is said of a text.
#[derive(Debug, Default)]
pub(super) struct TextRules {
    pub(super) least: usize,
    pub(super) most: Option<usize>,
    pub(super) pattern: Option<Regex>,
    pub(super) format: Option<Format>,
}

/// Values that are allowed.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// In order.
    pub(super) texts: Vec<String>,
    pub(super) numbers: Vec<Exact>,
    pub(super) booleans: Vec<bool>,
    pub(super) has_null: bool,
    /// For messages.
    pub(super) written: String,
}

/// What is said of one path.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: Box<str>,
    /// The object that it is in.
    pub(super) parent: usize,
    pub(super) types: Types,
    pub(super) values: Option<Box<Values>>,
    pub(super) bounds: Option<Box<Bounds>>,
    pub(super) text: Option<Box<TextRules>>,
    /// Of an array, or of a number with a fraction: by the crate.
    pub(super) array: Option<Box<Whole>>,
    pub(super) additional: Additional,
}

impl Node {
    pub(super) fn at(path: impl Into<Box<str>>, parent: usize) -> Self {
        Self {
            path: path.into(),
            parent,
            types: Types::ANY,
            values: None,
            bounds: None,
            text: None,
            array: None,
            additional: Additional::Any,
        }
    }

    /// As a message says it.
    fn expected_type(&self) -> String {
        let names = Types::NAMES.iter().filter(|(_, bit)| self.types.has(*bit)).map(|(name, _)| *name);
        names.collect::<Vec<_>>().join(" or ")
    }

    fn check_type(&self, types: u8) -> Result<(), Cow<'_, str>> {
        if self.types.has(types) { Ok(()) } else { Err(self.expected_type().into()) }
    }

    /// Whether an object may stand here; `Err` is what was expected.
    pub(super) fn check_object(&self) -> Result<(), Cow<'_, str>> {
        self.check_type(Types::OBJECT)?;
        // None of the values is one.
        self.values.as_ref().map_or(Ok(()), |values| Err(values.expected().into()))
    }

    pub(super) fn check_null(&self) -> Result<(), Cow<'_, str>> {
        match &self.values {
            _ if !self.types.has(Types::NULL) => Err(self.expected_type().into()),
            Some(values) if !values.has_null => Err(values.expected().into()),
            _ => Ok(()),
        }
    }

    /// Checks a property that is no array with rules of its own; `Err` is what was expected.
    pub(super) fn check(&self, property: &Property<'_>) -> Result<(), Cow<'_, str>> {
        match (property.sent.kind, &property.value) {
            (Kind::Text, PropertyValue::Text(text)) => self.check_text(text),
            (Kind::Number, PropertyValue::Number(number)) => self.check_number(*number),
            // Too long for a double.
            (Kind::Number, PropertyValue::Text(text)) => self.check_long_number(text),
            (Kind::Boolean, PropertyValue::Text(text)) => self.check_boolean(text == "true"),
            (Kind::Array, _) => {
                self.check_type(Types::ARRAY)?;
                self.values.as_ref().map_or(Ok(()), |values| Err(values.expected().into()))
            }
            // No reader makes them.
            (Kind::Text | Kind::Boolean, PropertyValue::Number(number)) => self.check_number(*number),
        }
    }

    fn check_boolean(&self, given: bool) -> Result<(), Cow<'_, str>> {
        self.check_type(Types::BOOLEAN)?;
        match &self.values {
            Some(values) if !values.booleans.contains(&given) => Err(values.expected().into()),
            _ => Ok(()),
        }
    }

    fn check_long_number(&self, text: &str) -> Result<(), Cow<'_, str>> {
        self.check_exact(Exact::of_text(text), !text.contains(['.', 'e', 'E']))
    }

    fn check_number(&self, number: f64) -> Result<(), Cow<'_, str>> {
        self.check_exact(Exact::Double(number), number.fract() == 0.0)
    }

    fn check_exact(&self, number: Exact, is_whole: bool) -> Result<(), Cow<'_, str>> {
        self.check_type(if is_whole { Types::NUMBER | Types::INTEGER } else { Types::NUMBER })?;
        if let Some(values) = &self.values
            && !values.numbers.contains(&number)
        {
            return Err(values.expected().into());
        }
        self.bounds.as_ref().map_or(Ok(()), |bounds| bounds.check(number))
    }

    fn check_text(&self, text: &str) -> Result<(), Cow<'_, str>> {
        self.check_type(Types::STRING)?;
        if let Some(values) = &self.values
            && values.texts.binary_search_by(|known| known.as_str().cmp(text)).is_err()
        {
            return Err(values.expected().into());
        }
        self.text.as_ref().map_or(Ok(()), |rules| rules.check(text))
    }

    /// Whether this is an array whose items are looked at.
    pub(super) fn is_array_checked(&self, property: &Property<'_>) -> bool {
        property.sent.kind == Kind::Array && self.array.is_some() && self.types.has(Types::ARRAY)
    }

    pub(super) fn check_array(&self, property: &Property<'_>, violations: &mut Violations) {
        if let (Some(whole), PropertyValue::Text(text)) = (&self.array, &property.value) {
            let value = serde_json::from_str(text).unwrap_or(Value::Null);
            let place = of_path(&property.name, property.sent.place);
            whole.each(&value, violations, |inner| format!("{place}{inner}"));
        }
    }
}

impl Values {
    fn expected(&self) -> &str {
        &self.written
    }
}

impl Bounds {
    fn check(&self, number: Exact) -> Result<(), Cow<'static, str>> {
        let outside = |limit: Option<Exact>, is_outside: fn(Exact, Exact) -> bool| {
            limit.filter(|limit| is_outside(number, *limit))
        };
        let expected = if let Some(limit) = outside(self.minimum, |number, limit| number < limit) {
            format!("at least {limit}")
        } else if let Some(limit) = outside(self.maximum, |number, limit| number > limit) {
            format!("at most {limit}")
        } else if let Some(limit) = outside(self.above, |number, limit| number <= limit) {
            format!("more than {limit}")
        } else if let Some(limit) = outside(self.below, |number, limit| number >= limit) {
            format!("less than {limit}")
        } else if let Some(unit) = outside(self.multiple_of, |number, unit| number.is_multiple_of(unit) == Some(false))
        {
            format!("a multiple of {unit}")
        } else {
            return Ok(());
        };
        Err(expected.into())
    }
}

impl TextRules {
    fn check(&self, text: &str) -> Result<(), Cow<'static, str>> {
        // A character has one to four bytes, so most texts are not counted.
        if self.least > 0 && text.len() < self.least * 4 && text.chars().count() < self.least {
            return Err(format!("of at least {} characters", self.least).into());
        }
        if let Some(most) = self.most.filter(|most| text.len() > *most && text.chars().count() > *most) {
            return Err(format!("of at most {most} characters").into());
        }
        if let Some(pattern) = &self.pattern {
            if text.len() > MAX_MATCHED_BYTES {
                return Err(format!("a text of at most {MAX_MATCHED_BYTES} bytes, because it has a pattern").into());
            }
            if !pattern.is_match(text) {
                return Err(format!("text that matches {pattern}").into());
            }
        }
        match self.format {
            Some(format) if !format.holds(text) => Err(format!("of the format {}", format.name()).into()),
            _ => Ok(()),
        }
    }
}
