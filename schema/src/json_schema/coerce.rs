//! Properties that come as text and are meant as something else.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::Value;

use super::Fault;
use super::formats::Format;
use crate::number;
use crate::property::{Kind, Property, PropertyValue};
use crate::time::{self, RawTime};

/// Properties of one schema that are coerced.
const MAX_COERCED: usize = 50;

/// What a text is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Number,
    Boolean,
    DateTime,
    Date,
}

/// Which properties are coerced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Coerced(Vec<(String, Target)>);

impl Coerced {
    /// The properties of these names; the schema says what they are to be.
    pub(super) fn of(names: &[String], schema: &Value) -> Result<Self, Fault> {
        if names.len() > MAX_COERCED {
            return Err(Fault::at("/coerce", format!("at most {MAX_COERCED} properties are coerced")));
        }
        let target = |(place, name): (usize, &String)| {
            let pointer = format!("/coerce/{place}");
            let declared = declared(schema, name).ok_or_else(|| {
                Fault::at(
                    &pointer,
                    format!("`{name}` is not among the `properties` of the schema, which say what it is to be"),
                )
            })?;
            let target = target(declared).ok_or_else(|| {
                let problem = format!(
                    "the schema says nothing of `{name}` that a text could be read as: `type` is to be number, integer or boolean, \
                     or `format` date-time or date"
                );
                Fault::at(&pointer, problem)
            })?;
            Ok((name.clone(), target))
        };
        names.iter().enumerate().map(target).collect::<Result<_, _>>().map(Self)
    }

    /// The properties that are coerced.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, Target)> {
        self.0.iter().map(|(name, target)| (name.as_str(), *target))
    }

    /// What a property is read as.
    pub(super) fn target(&self, name: &str) -> Option<Target> {
        self.each().find(|(known, _)| *known == name).map(|(_, target)| target)
    }

    /// Changes what can be read; the rest is left for the check.
    pub(super) fn apply(&self, properties: &mut [Property<'_>]) {
        for (name, target) in &self.0 {
            for property in properties.iter_mut().filter(|property| property.name == *name) {
                if let Some((kind, value)) = target.read(property) {
                    property.sent.kind = kind;
                    property.value = value;
                }
            }
        }
    }
}

/// The schema of the property of that path.
fn declared<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
    let properties = schema.get("properties")?.as_object()?;
    properties.get(path).or_else(|| {
        let nested = |(name, schema): (&String, &'s Value)| {
            path.strip_prefix(name.as_str())?.strip_prefix('.').and_then(|rest| declared(schema, rest))
        };
        properties.iter().find_map(nested)
    })
}

fn target(schema: &Value) -> Option<Target> {
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let format = schema.get("format").and_then(Value::as_str).and_then(Format::named);
    match format {
        Some(Format::DateTime) => return Some(Target::DateTime),
        Some(Format::Date) => return Some(Target::Date),
        _ if types.contains(&"string") => return None,
        _ => {}
    }
    if types.contains(&"number") || types.contains(&"integer") {
        Some(Target::Number)
    } else if types.contains(&"boolean") {
        Some(Target::Boolean)
    } else {
        None
    }
}

/// Whether a number may stand under a path, as far as its `type` says.
pub(super) fn may_be_number(schema: &Value, path: &str) -> bool {
    let is_number = |name: &Value| matches!(name.as_str(), Some("number" | "integer"));
    match declared(schema, path).map(|schema| schema.get("type")) {
        Some(Some(Value::Array(all))) => all.iter().any(is_number),
        Some(Some(one)) => is_number(one),
        Some(None) | None => true,
    }
}

impl Target {
    /// Whether numbers are changed too.
    pub(super) const fn reads_numbers(self) -> bool {
        matches!(self, Self::DateTime | Self::Date)
    }

    fn read(self, property: &Property<'_>) -> Option<(Kind, PropertyValue<'static>)> {
        match (self, property.sent.kind, &property.value) {
            (Self::Number, Kind::Text, PropertyValue::Text(text)) => {
                let text = text.trim();
                number::decimal(text)?;
                let digits = text.strip_prefix('+').unwrap_or(text);
                Some((Kind::Number, number::written(Cow::Owned(digits.to_owned()))))
            }
            (Self::Boolean, Kind::Text, PropertyValue::Text(text)) => {
                let text = ["true", "false"].into_iter().find(|known| text.trim().eq_ignore_ascii_case(known))?;
                Some((Kind::Boolean, PropertyValue::Text(text.into())))
            }
            (Self::DateTime | Self::Date, Kind::Text | Kind::Number, value) => {
                let format = if self == Self::Date { Format::Date } else { Format::DateTime };
                let ms = match value {
                    PropertyValue::Text(text) if format.holds(text) => return None,
                    PropertyValue::Text(text) => time::parse(text).ok()?.ms,
                    PropertyValue::Number(number) => time::read(&RawTime::Float(*number)).ok()?.ms,
                };
                let instant = Timestamp::from_millisecond(ms).ok()?;
                let date = || Some(instant.to_zoned(jiff::tz::TimeZone::UTC).date());
                let text =
                    if self == Self::Date { date().map(|date: Date| date.to_string())? } else { instant.to_string() };
                Some((Kind::Text, PropertyValue::Text(text.into())))
            }
            _ => None,
        }
    }
}
