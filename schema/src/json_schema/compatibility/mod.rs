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

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::pointer::below;
use super::violation::cut;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// Compares a new schema with the one in force; both without references. A version without a schema takes everything.
    pub fn compare(self, in_force: Option<&Value>, new: Option<&Value>) -> Comparison {
        let anything = Value::Bool(true);
        let (old, new) = (in_force.unwrap_or(&anything), new.unwrap_or(&anything));
        let mut comparison = Comparison::default();
        if matches!(self, Self::Backward | Self::Full) {
            Widening { narrower: "the version in force", wider: "this version", into: &mut comparison }
                .schema(old, new, "/schema");
        }
        if matches!(self, Self::Forward | Self::Full) {
            Widening { narrower: "this version", wider: "the version in force", into: &mut comparison }
                .schema(new, old, "/schema");
        }
        comparison
    }
}

/// Looks for what the wider one refuses and the narrower one takes.
struct Widening<'c> {
    narrower: &'static str,
    wider: &'static str,
    into: &'c mut Comparison,
}

/// Keywords of which a greater number takes more, and of which a smaller one does.
const UPPER: [&str; 6] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"];
const LOWER: [&str; 6] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"];

/// Keywords that are the same, or not there in the wider one.
const SAME: [&str; 17] = [
    "allOf",
    "anyOf",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "format",
    "if",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedProperties",
    "uniqueItems",
];

impl Widening<'_> {
    fn breaks(&mut self, pointer: String, problem: String) {
        self.into.breaks.push(Break { pointer, problem });
    }

    fn schema(&mut self, narrow: &Value, wide: &Value, pointer: &str) {
        let empty = Map::new();
        let (narrow, wide) = match (narrow, wide) {
            (Value::Bool(false), _) | (_, Value::Bool(true)) => return,
            (narrow, wide) if narrow == wide => return,
            (_, Value::Bool(false)) => {
                return self.breaks(pointer.to_owned(), format!("{} takes no value here", self.wider));
            }
            (Value::Object(narrow), Value::Object(wide)) => (narrow, wide),
            (_, Value::Object(wide)) => (&empty, wide),
            _ => return,
        };
        self.types(narrow, wide, pointer);
        self.values(narrow, wide, pointer);
        self.numbers(narrow, wide, pointer);
        for keyword in
            SAME.iter().filter(|keyword| wide.get(**keyword).is_some_and(|wide| narrow.get(**keyword) != Some(wide)))
        {
            let problem = match narrow.get(*keyword) {
                None => format!("{} asks for it, and {} does not", self.wider, self.narrower),
                Some(_) => format!("it differs, and {} may refuse what {} takes", self.wider, self.narrower),
            };
            self.breaks(below(pointer, keyword), problem);
        }
        if let Some(items) = wide.get("items") {
            self.schema(narrow.get("items").unwrap_or(&Value::Bool(true)), items, &below(pointer, "items"));
        }
        self.object(narrow, wide, pointer);
    }

    fn types(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, pointer: &str) {
        let Some(wide) = wide.get("type") else { return };
        let list = |types: &Value| match types {
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            one => Vec::from_iter(one.as_str().map(str::to_owned)),
        };
        let wide = list(wide);
        let takes =
            |name: &String| wide.contains(name) || (name == "integer" && wide.iter().any(|wide| wide == "number"));
        match narrow.get("type").map(list) {
            None => self.breaks(
                below(pointer, "type"),
                format!("{} asks for {}, and {} for no type", self.wider, wide.join(" or "), self.narrower),
            ),
            Some(narrow) => {
                let missing: Vec<String> = narrow.into_iter().filter(|name| !takes(name)).collect();
                if !missing.is_empty() {
                    let problem = format!(
                        "{} takes {}, and {} only {}",
                        self.narrower,
                        missing.join(" or "),
                        self.wider,
                        wide.join(" or ")
                    );
                    self.breaks(below(pointer, "type"), problem);
                }
            }
        }
    }

    fn values(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, pointer: &str) {
        let Some((keyword, wide)) = allowed(wide) else { return };
        match allowed(narrow) {
            None => self.breaks(
                below(pointer, keyword),
                format!("{} takes only some values, and {} any", self.wider, self.narrower),
            ),
            Some((_, narrow)) => {
                let missing: Vec<String> =
                    narrow.iter().filter(|value| !wide.contains(value)).map(|value| value.to_string()).collect();
                if !missing.is_empty() {
                    let problem = format!(
                        "{} does not take {}, and {} does",
                        self.wider,
                        cut(&missing.join(", ")),
                        self.narrower
                    );
                    self.breaks(below(pointer, keyword), problem);
                }
            }
        }
    }

    fn numbers(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, pointer: &str) {
        let upper = UPPER.iter().map(|keyword| (*keyword, true));
        for (keyword, is_upper) in upper.chain(LOWER.iter().map(|keyword| (*keyword, false))) {
            let number = |fields: &Map<String, Value>| fields.get(keyword).and_then(Value::as_f64);
            let Some(limit) = number(wide) else { continue };
            let is_within = match number(narrow) {
                Some(narrow) if is_upper => narrow <= limit,
                Some(narrow) => narrow >= limit,
                None => false,
            };
            let says_nothing = keyword == "minLength" && limit == 0.0;
            if !is_within && !says_nothing {
                let given = narrow.get(keyword).map_or_else(|| "no such bound".to_owned(), Value::to_string);
                self.breaks(
                    below(pointer, keyword),
                    format!("{} has {limit}, and {} {given}", self.wider, self.narrower),
                );
            }
        }
        let unit = |fields: &Map<String, Value>| fields.get("multipleOf").and_then(Value::as_f64);
        if let Some(wide) = unit(wide)
            && unit(narrow).is_none_or(|narrow| narrow % wide != 0.0)
        {
            self.breaks(below(pointer, "multipleOf"), format!("{} takes multiples of {wide} alone", self.wider));
        }
    }

    fn object(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, pointer: &str) {
        let required = names(narrow);
        for name in names(wide).into_iter().filter(|name| !required.contains(name)) {
            let problem = format!("{} requires `{}`, and {} does not", self.wider, cut(name), self.narrower);
            self.breaks(below(pointer, "required"), problem);
        }
        let any = Value::Bool(true);
        let (named, others) = (properties(narrow), narrow.get("additionalProperties").unwrap_or(&any));
        let (wide_named, wide_others) = (properties(wide), wide.get("additionalProperties").unwrap_or(&any));
        for (name, schema) in wide_named.into_iter().flatten() {
            let pointer = below(&below(pointer, "properties"), name);
            match named.and_then(|named| named.get(name)) {
                Some(narrow) => self.schema(narrow, schema, &pointer),
                None if *others == any => {
                    let note = format!(
                        "`{}` is named now; events that had it already have to be as the schema says",
                        cut(name)
                    );
                    self.into.notes.push(Break { pointer, problem: note });
                }
                None => self.schema(others, schema, &pointer),
            }
        }
        for (name, schema) in
            named.into_iter().flatten().filter(|(name, _)| wide_named.is_none_or(|wide| !wide.contains_key(*name)))
        {
            self.schema(schema, wide_others, &below(&below(pointer, "properties"), name));
        }
        self.schema(others, wide_others, &below(pointer, "additionalProperties"));
    }
}

fn allowed(fields: &Map<String, Value>) -> Option<(&'static str, Vec<Value>)> {
    match (fields.get("enum"), fields.get("const")) {
        (Some(Value::Array(all)), _) => Some(("enum", all.clone())),
        (_, Some(one)) => Some(("const", vec![one.clone()])),
        _ => None,
    }
}

fn names(fields: &Map<String, Value>) -> Vec<&str> {
    fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn properties(fields: &Map<String, Value>) -> Option<&Map<String, Value>> {
    fields.get("properties").and_then(Value::as_object)
}
