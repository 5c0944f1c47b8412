//! Compares two schemas, keyword by keyword.

use serde_json::{Map, Value};

use super::super::exact::Exact;
use super::super::pointer::below;
use super::super::violation::cut;
use super::{Break, Comparison};

type Fields = Map<String, Value>;

/// Looks for what the wider one refuses and the narrower one takes.
pub(super) struct Widening<'c> {
    pub(super) narrower: &'static str,
    pub(super) wider: &'static str,
    pub(super) into: &'c mut Comparison,
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
    pub(super) fn breaks(&mut self, pointer: String, problem: String) {
        self.into.breaks.push(Break { pointer, problem });
    }

    pub(super) fn schema(&mut self, narrow: &Value, wide: &Value, pointer: &str) {
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
        self.items(narrow, wide, pointer);
        self.object(narrow, wide, pointer);
    }

    fn types(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
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

    /// Each of `enum` and `const` of the wider one has to hold all that one of the narrower one's does.
    fn values(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        let narrow: Vec<_> = allowed(narrow).collect();
        for (keyword, wide) in allowed(wide) {
            let missing = |values: &[&Value]| -> Vec<String> {
                values.iter().filter(|value| !wide.contains(value)).map(|value| value.to_string()).collect()
            };
            match narrow.iter().map(|(_, values)| missing(values)).min_by_key(Vec::len) {
                None => self.breaks(
                    below(pointer, keyword),
                    format!("{} takes only some values, and {} any", self.wider, self.narrower),
                ),
                Some(missing) if missing.is_empty() => {}
                Some(missing) => {
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

    fn numbers(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        let upper = UPPER.iter().map(|keyword| (*keyword, true));
        for (keyword, is_upper) in upper.chain(LOWER.iter().map(|keyword| (*keyword, false))) {
            let number = |fields: &Fields| fields.get(keyword).and_then(Value::as_number).map(Exact::of);
            let Some(limit) = number(wide) else { continue };
            let is_within = match number(narrow) {
                Some(narrow) if is_upper => narrow <= limit,
                Some(narrow) => narrow >= limit,
                None => false,
            };
            // No length is below 0.
            let says_nothing = keyword.starts_with("min") && keyword != "minimum" && limit == Exact::Double(0.0);
            if !is_within && !says_nothing {
                let given = narrow.get(keyword).map_or_else(|| "no such bound".to_owned(), Value::to_string);
                self.breaks(
                    below(pointer, keyword),
                    format!("{} has {limit}, and {} {given}", self.wider, self.narrower),
                );
            }
        }
        self.multiples(narrow, wide, pointer);
    }

    /// Fractions are the same or not: what is a multiple of 0.2 in doubles need not be one of 0.1.
    fn multiples(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        let Some(unit) = wide.get("multipleOf") else { return };
        let is_within = narrow.get("multipleOf").is_some_and(|narrow| {
            let whole = narrow.as_u64().zip(unit.as_u64());
            narrow == unit || whole.and_then(|(narrow, unit)| narrow.checked_rem(unit)) == Some(0)
        });
        if !is_within {
            self.breaks(below(pointer, "multipleOf"), format!("{} takes multiples of {unit} alone", self.wider));
        }
    }

    /// What the items of an array are.
    fn items(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        if let Some(items) = wide.get("items") {
            // `items` is about those after `prefixItems`.
            if narrow.get("prefixItems") != wide.get("prefixItems") {
                let problem = format!("{} says something else of which items come first", self.wider);
                self.breaks(below(pointer, "items"), problem);
            }
            self.schema(narrow.get("items").unwrap_or(&Value::Bool(true)), items, &below(pointer, "items"));
        }
        // With `contains` and nothing else, one item is asked for.
        let least = |fields: &Fields| fields.get("minContains").and_then(Value::as_u64).unwrap_or(1);
        if wide.contains_key("contains") && !wide.contains_key("minContains") && least(narrow) < 1 {
            let problem =
                format!("{} asks for an item that matches `contains`, and {} does not", self.wider, self.narrower);
            self.breaks(below(pointer, "contains"), problem);
        }
    }
}

/// The lists of values that are allowed.
fn allowed(fields: &Fields) -> impl Iterator<Item = (&'static str, Vec<&Value>)> {
    let one_of = fields.get("enum").and_then(Value::as_array).map(|all| ("enum", all.iter().collect()));
    let one = fields.get("const").map(|one| ("const", vec![one]));
    one_of.into_iter().chain(one)
}
