//! Reads a schema within its bounds, and writes its references out.
//!
//! What comes out has no references, annotations or definitions, and as many keywords as are checked: `a` of two `b`, each of two `c`, …
//! is counted as it would be checked, and ends at the bound.

use serde_json::{Map, Value};

use super::budget::{Budget, MAX_SCHEMA_BYTES};
use super::keywords::{self, Shape};
use super::{Fault, formats, patterns, pointer};
use crate::limits::MAX_PROPERTIES;

/// Schemas within schemas.
const MAX_NESTING: usize = 24;

/// Values of one enumeration.
const MAX_VALUES: usize = 1_000;

/// Schemas of one list.
const MAX_LISTED: usize = 50;

/// The largest number that a length may be.
const MAX_LENGTH: u64 = 1_000_000;

/// Draft versions that `$schema` may name; all are read as the last one.
const DRAFTS: [&str; 5] = ["draft-04", "draft-06", "draft-07", "2019-09", "2020-12"];

/// Reads a schema.
pub(super) fn expand(schema: &Value) -> Result<Value, Fault> {
    let bytes = schema.to_string().len();
    if bytes > MAX_SCHEMA_BYTES {
        return Err(Fault::at(
            "/schema",
            format!("the schema has {bytes} bytes, at most {MAX_SCHEMA_BYTES} are taken"),
        ));
    }
    let Value::Object(fields) = schema else {
        return Err(Fault::at("/schema", "a schema of an event's properties is an object"));
    };
    if let Some(kind) = fields.get("type").filter(|kind| *kind != "object") {
        return Err(Fault::at("/schema/type", format!("properties are an object: `type` is \"object\", not {kind}")));
    }
    let mut expander = Expander { root: schema, open: Vec::new(), budget: Budget::default() };
    let mut expanded = expander.schema(schema, "/schema", At::ROOT)?;
    if let Value::Object(fields) = &mut expanded {
        fields.insert("type".to_owned(), "object".into());
    }
    Ok(expanded)
}

/// Where in the schema something stands.
#[derive(Clone, Copy)]
struct At {
    depth: usize,
    /// What was counted before the items that it is below.
    items: Option<Budget>,
}

impl At {
    const ROOT: Self = Self { depth: 0, items: None };

    const fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

struct Expander<'a> {
    root: &'a Value,
    /// References that are being written out.
    open: Vec<&'a str>,
    budget: Budget,
}

impl<'a> Expander<'a> {
    fn schema(&mut self, schema: &'a Value, pointer: &str, at: At) -> Result<Value, Fault> {
        if at.depth > MAX_NESTING {
            return Err(Fault::at(pointer, format!("schemas are nested deeper than {MAX_NESTING} levels")));
        }
        self.budget.keyword(pointer, at.items)?;
        let fields = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(fields) => fields,
            other => {
                return Err(Fault::at(
                    pointer,
                    format!("a schema is an object, `true` or `false`, not {}", kind(other)),
                ));
            }
        };
        let mut out = Map::new();
        let mut referred = None;
        for (keyword, value) in fields {
            let pointer = pointer::below(pointer, keyword);
            if keyword.starts_with("x-") || (at.depth == 0 && is_root_only(keyword, value, &pointer)?) {
                continue;
            }
            let Some(shape) = keywords::shape(keyword) else {
                let meant =
                    keywords::nearest(keyword).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                return Err(Fault::at(
                    pointer,
                    format!(
                        "`{}` is no keyword that is checked{meant}; names of your own begin with `x-`",
                        short(keyword)
                    ),
                ));
            };
            self.budget.keyword(&pointer, at.items)?;
            match shape {
                Shape::Annotation | Shape::Definitions => {}
                Shape::Reference => referred = Some(self.reference(value, &pointer, at)?),
                shape => {
                    self.budget.name(keyword, &pointer)?;
                    out.insert(keyword.clone(), self.value(shape, keyword, value, &pointer, at)?);
                }
            }
        }
        Ok(match referred {
            None => Value::Object(out),
            Some(referred) if out.is_empty() => referred,
            Some(referred) => {
                let others = out.remove("allOf");
                let mut all = vec![referred];
                all.extend(others.into_iter().flat_map(|others| match others {
                    Value::Array(others) => others,
                    other => vec![other],
                }));
                out.insert("allOf".to_owned(), Value::Array(all));
                Value::Object(out)
            }
        })
    }

    fn reference(&mut self, value: &'a Value, pointer: &str, at: At) -> Result<Value, Fault> {
        let Some(target) = value.as_str() else { return Err(Fault::at(pointer, "a reference is a text")) };
        let Some(path) = target.strip_prefix('#').filter(|path| path.is_empty() || path.starts_with('/')) else {
            let problem = format!(
                "`{}` leads out of this document; nothing is fetched: use a reference such as `#/$defs/name`",
                short(target)
            );
            return Err(Fault::at(pointer, problem));
        };
        if path.is_empty() || self.open.contains(&target) {
            let problem = "the reference leads back to itself; recursive schemas are not taken: write the levels out";
            return Err(Fault::at(pointer, problem));
        }
        let Some(found) = self.root.pointer(path) else {
            return Err(Fault::at(pointer, format!("`{}` leads to nothing", short(target))));
        };
        self.open.push(target);
        let written = self.schema(found, pointer, at.below());
        self.open.pop();
        written
    }

    fn value(&mut self, shape: Shape, keyword: &str, value: &'a Value, pointer: &str, at: At) -> Result<Value, Fault> {
        let wrong = |expected: &str| Fault::at(pointer, format!("`{keyword}` is {expected}, not {}", kind(value)));
        let ensure = |is_right: bool, expected: &str| if is_right { Ok(()) } else { Err(wrong(expected)) };
        match shape {
            Shape::Types => types(value, pointer)?,
            Shape::Number => ensure(value.is_number(), "a number")?,
            Shape::PositiveNumber => ensure(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0")?,
            Shape::Length => {
                ensure(
                    value.as_u64().is_some_and(|length| length <= MAX_LENGTH),
                    "a whole number from 0 to 1,000,000",
                )?;
            }
            Shape::Boolean => ensure(value.is_boolean(), "`true` or `false`")?,
            Shape::Pattern => self.pattern(value.as_str().ok_or_else(|| wrong("a text"))?, pointer)?,
            Shape::Format => {
                let name = value.as_str().ok_or_else(|| wrong("a text"))?;
                if formats::Format::named(name).is_none() {
                    let problem = format!(
                        "`{}` is no format that is checked; known are {}",
                        short(name),
                        formats::Format::names()
                    );
                    return Err(Fault::at(pointer, problem));
                }
            }
            Shape::Values => {
                let values = value.as_array().ok_or_else(|| wrong("a list of values"))?;
                if values.is_empty() || values.len() > MAX_VALUES {
                    return Err(Fault::at(
                        pointer,
                        format!("an enumeration has 1 to {MAX_VALUES} values, not {}", values.len()),
                    ));
                }
                values.iter().try_for_each(|value| self.budget.compared(value, pointer, at.items))?;
            }
            Shape::Value => self.budget.compared(value, pointer, at.items)?,
            Shape::Names => names(value).ok_or_else(|| wrong("a list of at most 200 names"))?,
            Shape::NamesByName => {
                let are_lists = value.as_object().is_some_and(|lists| lists.values().all(|list| names(list).is_some()));
                ensure(are_lists, "an object of lists of names")?;
            }
            Shape::Schema => {
                let is_items = matches!(keyword, "items" | "contains");
                let items = at.items.or_else(|| is_items.then_some(self.budget));
                return self.schema(value, pointer, At { items, ..at.below() });
            }
            Shape::SchemaList => {
                let list = value.as_array().filter(|list| (1..=MAX_LISTED).contains(&list.len()));
                let list = list.ok_or_else(|| wrong("a list of 1 to 50 schemas"))?;
                let each = list.iter().enumerate();
                return each
                    .map(|(place, schema)| self.schema(schema, &format!("{pointer}/{place}"), at.below()))
                    .collect();
            }
            Shape::Schemas | Shape::SchemasByPattern => {
                let schemas = value.as_object().filter(|schemas| schemas.len() <= MAX_PROPERTIES);
                let schemas = schemas.ok_or_else(|| wrong("an object of at most 200 schemas"))?;
                let mut out = Map::new();
                for (name, schema) in schemas {
                    let pointer = pointer::below(pointer, name);
                    if shape == Shape::SchemasByPattern {
                        self.pattern(name, &pointer)?;
                    }
                    self.budget.name(name, &pointer)?;
                    out.insert(name.clone(), self.schema(schema, &pointer, at.below())?);
                }
                return Ok(Value::Object(out));
            }
            Shape::Annotation | Shape::Definitions | Shape::Reference => {}
        }
        self.budget.written(value, pointer)?;
        Ok(value.clone())
    }

    fn pattern(&mut self, pattern: &str, pointer: &str) -> Result<(), Fault> {
        self.budget.pattern(pointer)?;
        patterns::compile(pattern).map(drop).map_err(|problem| Fault::at(pointer, problem))
    }
}

/// `$schema` and `$id`, which say nothing that is checked.
fn is_root_only(keyword: &str, value: &Value, pointer: &str) -> Result<bool, Fault> {
    match keyword {
        "$id" => Ok(true),
        "$schema" => {
            let is_known = value.as_str().is_some_and(|uri| DRAFTS.iter().any(|draft| uri.contains(draft)));
            if is_known {
                Ok(true)
            } else {
                Err(Fault::at(pointer, "`$schema` names no draft of JSON Schema from 04 to 2020-12"))
            }
        }
        _ => Ok(false),
    }
}

fn types(value: &Value, pointer: &str) -> Result<(), Fault> {
    const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_known = match value {
        Value::Array(all) => !all.is_empty() && all.len() <= TYPES.len() && all.iter().all(is_type),
        one => is_type(one),
    };
    if is_known { Ok(()) } else { Err(Fault::at(pointer, format!("`type` is one or several of {}", TYPES.join(", ")))) }
}

fn names(value: &Value) -> Option<()> {
    let names = value.as_array()?;
    (names.len() <= MAX_PROPERTIES && names.iter().all(Value::is_string)).then_some(())
}

/// What a value is, in a sentence.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "a text",
        Value::Array(_) => "this list",
        Value::Object(_) => "this object",
    }
}

fn short(text: &str) -> String {
    super::violation::cut(text)
}
