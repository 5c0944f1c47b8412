//! Reads a JSON body field by field: every error says where in the document it is.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tallyhouse_schema::number;

use super::error::{BadRequest, quoted};
use super::suggest::nearest;
use super::unique::{self, Fault};

/// The longest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 10 * 1024;

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 16;

/// A value and the path to it, such as `filters[0][1]`.
#[derive(Debug, Clone)]
pub struct JsonPart<'a> {
    path: String,
    value: &'a Value,
}

/// Reads a body.
pub fn parse(body: &[u8]) -> Result<Value, BadRequest> {
    if body.len() > MAX_BODY_BYTES {
        return Err(BadRequest::BodyTooLong { bytes: body.len(), limit: MAX_BODY_BYTES });
    }
    let value = unique::parse(body).map_err(|fault| match fault {
        Fault::Syntax(error) => {
            BadRequest::NotJson { line: error.line(), column: error.column(), problem: error.to_string() }
        }
        Fault::Twice { path } => {
            BadRequest::BadField { path, problem: "it is given more than once".to_owned(), near: Vec::new() }
        }
    })?;
    if depth(&value) > MAX_DEPTH {
        let problem = format!("it is nested more than {MAX_DEPTH} deep");
        return Err(BadRequest::BadField { path: String::new(), problem, near: Vec::new() });
    }
    Ok(value)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(several) => 1 + several.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

impl<'a> JsonPart<'a> {
    /// The whole document.
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn bad(&self, problem: impl Into<String>) -> BadRequest {
        BadRequest::BadField { path: self.path.clone(), problem: problem.into(), near: Vec::new() }
    }

    /// It is a name, and none of those that are known.
    pub fn unknown<S: AsRef<str>>(&self, what: &str, known: impl IntoIterator<Item = S>) -> BadRequest {
        let given = self.value.as_str().unwrap_or_default();
        let known: Vec<S> = known.into_iter().collect();
        let list = known.iter().map(AsRef::as_ref).take(40).collect::<Vec<_>>().join(", ");
        let problem = format!("there is no {what} `{}`; known: {list}", quoted(given));
        BadRequest::BadField { path: self.path.clone(), problem, near: nearest(given, known) }
    }

    /// It is a time zone that is not known.
    pub fn unknown_zone(&self, name: &str) -> BadRequest {
        let problem = format!("`{}` is not an IANA time zone", quoted(name));
        BadRequest::BadField { path: self.path.clone(), problem, near: nearest(name, crate::time::Zone::names()) }
    }

    /// It is not what it must be.
    pub fn not(&self, expected: &str) -> BadRequest {
        let kind = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) | Value::Number(_) => format!("`{}`", self.value),
            Value::String(text) => format!("`{}`", quoted(text)),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        self.bad(format!("{kind} is not {expected}"))
    }

    /// The fields of an object, all of whose names must be `known`. A `null` counts as not given.
    pub fn fields(&self, known: &[&'static str]) -> Result<Fields<'a>, BadRequest> {
        let Value::Object(fields) = self.value else { return Err(self.not("an object")) };
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(Fields { path: self.path.clone(), fields }),
            Some(name) => {
                let path = join(&self.path, name);
                let problem = format!("there is no such field; known: {}", known.join(", "));
                Err(BadRequest::BadField { path: quoted(&path), problem, near: nearest(name, known) })
            }
        }
    }

    /// One field of an object that must be given, whatever others there are.
    pub fn member(&self, name: &str) -> Result<JsonPart<'a>, BadRequest> {
        let Value::Object(fields) = self.value else { return Err(self.not("an object")) };
        Fields { path: self.path.clone(), fields }.required(name)
    }

    /// The items of a list of at most `most`.
    pub fn items(&self, most: usize) -> Result<Vec<JsonPart<'a>>, BadRequest> {
        let Value::Array(items) = self.value else { return Err(self.not("a list")) };
        if items.len() > most {
            return Err(self.bad(format!("{} items are too many, at most {most} are read", items.len())));
        }
        let part = |(index, value)| JsonPart { path: format!("{}[{index}]", self.path), value };
        Ok(items.iter().enumerate().map(part).collect())
    }

    pub const fn value(&self) -> &'a Value {
        self.value
    }

    /// Another value in its place, so that complaints about that one are about this place.
    pub fn instead<'b>(&self, value: &'b Value) -> JsonPart<'b> {
        JsonPart { path: self.path.clone(), value }
    }

    /// Whether it is an object that has the field.
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    /// A number, if it is one.
    pub fn any_number(&self) -> Option<f64> {
        self.value.as_f64()
    }

    /// Whether it is a text.
    pub fn is_text(&self) -> bool {
        self.value.is_string()
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// A text, empty or not.
    pub fn any_text(&self) -> Result<&'a str, BadRequest> {
        self.value.as_str().ok_or_else(|| self.not("a text"))
    }

    /// A value that a dimension may have: a text, or a number as it is counted.
    pub fn dimension_value(&self) -> Result<Cow<'a, str>, BadRequest> {
        match self.value {
            Value::Number(number) if number.is_f64() => match number.as_f64() {
                Some(float) if float.abs() < number::MAYBE_LONG => Ok(number::canonical(float).into()),
                _ => Err(self.bad("write a number this large as a text, as it is counted: \"1e21\", or all digits of an integer that a 64-bit float would change")),
            },
            Value::Number(number) => Ok(number.to_string().into()),
            Value::String(text) => Ok(text.into()),
            _ => Err(self.not("a text or a number")),
        }
    }

    /// A text without control characters.
    pub fn text(&self) -> Result<&'a str, BadRequest> {
        let text = self.any_text()?;
        if text.contains(char::is_control) { Err(self.not("text without control characters")) } else { Ok(text) }
    }

    /// `true` or `false`.
    pub fn switch(&self) -> Result<bool, BadRequest> {
        self.value.as_bool().ok_or_else(|| self.not("true or false"))
    }

    /// A whole number within bounds.
    pub fn number(&self, from: u64, to: u64) -> Result<u64, BadRequest> {
        let number = self.value.as_u64().filter(|number| (from..=to).contains(number));
        number.ok_or_else(|| self.not(&format!("a whole number from {from} to {to}")))
    }
}

/// The fields of an object.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A field, if it was given.
    pub fn get(&self, name: &str) -> Option<JsonPart<'a>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some(JsonPart { path: join(&self.path, name), value })
    }

    /// A field that must be given.
    pub fn required(&self, name: &str) -> Result<JsonPart<'a>, BadRequest> {
        self.get(name).ok_or_else(|| BadRequest::BadField {
            path: join(&self.path, name),
            problem: "it must be given".to_owned(),
            near: Vec::new(),
        })
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_say_where() {
        let value = parse(br#"{"a":{"b":[1,"x\u0000"]},"limt":3}"#).unwrap();
        let root = JsonPart::root(&value);
        let error = root.fields(&["a", "limit"]).unwrap_err().to_string();
        assert_eq!(error, "`limt`: there is no such field; known: a, limit; did you mean limit?");
        let a = root.fields(&["a", "limt"]).unwrap().required("a").unwrap();
        let items = a.fields(&["b"]).unwrap().required("b").unwrap().items(2).unwrap();
        assert_eq!(items[0].text().unwrap_err().to_string(), "`a.b[0]`: `1` is not a text");
        assert!(items[1].text().unwrap_err().to_string().contains("`a.b[1]`"));
        assert!(a.items(2).unwrap_err().to_string().contains("`a`: an object is not a list"));
        let missing = root.fields(&["a", "limt", "c"]).unwrap().required("c").unwrap_err();
        assert_eq!(missing.to_string(), "`c`: it must be given");
    }

    #[test]
    fn what_is_not_json_is_told_with_its_position() {
        assert!(matches!(parse(b"{\n \"a\": }"), Err(BadRequest::NotJson { line: 2, column: 7, .. })));
        let twice = parse(br#"{"metrics":["events"],"metrics":["users"]}"#).unwrap_err();
        assert_eq!(twice.to_string(), "`metrics`: it is given more than once");
        assert!(matches!(parse(&vec![b' '; MAX_BODY_BYTES + 1]), Err(BadRequest::BodyTooLong { .. })));
        let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
        assert!(matches!(parse(deep.as_bytes()), Err(BadRequest::BadField { .. })));
    }
}
