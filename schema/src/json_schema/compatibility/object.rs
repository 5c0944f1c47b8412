//! Compares what two schemas say of the properties of an object.

use serde_json::{Map, Value};

use super::super::dotted;
use super::super::patterns;
use super::super::pointer::below;
use super::super::violation::cut;
use super::Break;
use super::widening::Widening;

type Fields = Map<String, Value>;

/// Keywords by which `unevaluatedProperties` knows what was evaluated, beside `properties`.
const EVALUATING: [&str; 9] =
    ["additionalProperties", "allOf", "anyOf", "dependentSchemas", "else", "if", "oneOf", "patternProperties", "then"];

const ANY: Value = Value::Bool(true);

/// What an object says of its properties.
struct Properties<'s> {
    named: &'s Fields,
    by_pattern: Option<&'s Fields>,
    others: &'s Value,
}

impl<'s> Properties<'s> {
    fn of(fields: &'s Fields, none: &'s Fields) -> Self {
        let object = |keyword: &str| fields.get(keyword).and_then(Value::as_object);
        let others = fields.get("additionalProperties").unwrap_or(&ANY);
        let says_nothing = others.as_object().is_some_and(Map::is_empty);
        Self {
            named: object("properties").unwrap_or(none),
            by_pattern: object("patternProperties").filter(|patterns| !patterns.is_empty()),
            others: if says_nothing { &ANY } else { others },
        }
    }

    /// What is said of a property that is not named.
    fn of_unnamed(&self, name: &str) -> &'s Value {
        let matches = |pattern: &str| patterns::compile(pattern).is_ok_and(|pattern| pattern.is_match(name));
        let mut by_pattern = self.by_pattern.into_iter().flatten();
        by_pattern.find(|(pattern, _)| matches(pattern)).map_or(self.others, |(_, schema)| schema)
    }
}

impl Widening<'_> {
    pub(super) fn object(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        let none = Map::new();
        self.required(narrow, wide, pointer);
        self.unevaluated(narrow, wide, pointer);
        let (narrow, wide) = (Properties::of(narrow, &none), Properties::of(wide, &none));
        for (outer, name) in dotted::overlaps(narrow.named, wide.named) {
            let problem = format!("`{}` is within `{}`: write both versions alike", cut(name), cut(outer));
            self.breaks(below(&below(pointer, "properties"), name), problem);
        }
        for (name, schema) in wide.named {
            let pointer = below(&below(pointer, "properties"), name);
            match (narrow.named.get(name), narrow.of_unnamed(name)) {
                (Some(named), _) => self.schema(named, schema, &pointer),
                (None, unnamed) if *unnamed == ANY => {
                    let problem = format!(
                        "`{}` is named now; events that had it already have to be as the schema says",
                        cut(name)
                    );
                    self.into.notes.push(Break { pointer, problem });
                }
                (None, unnamed) => self.schema(unnamed, schema, &pointer),
            }
        }
        for (name, schema) in narrow.named.iter().filter(|(name, _)| !wide.named.contains_key(*name)) {
            self.schema(schema, wide.others, &below(&below(pointer, "properties"), name));
        }
        let pointer = below(pointer, "additionalProperties");
        if let Some(by_pattern) = narrow.by_pattern.filter(|by_pattern| wide.by_pattern != Some(by_pattern)) {
            // What a pattern of the narrower one takes is among the others of the wider one.
            by_pattern.values().for_each(|schema| self.schema(schema, wide.others, &pointer));
        }
        self.schema(narrow.others, wide.others, &pointer);
    }

    fn required(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        let required = names(narrow);
        for name in names(wide).into_iter().filter(|name| !required.contains(name)) {
            let problem = format!("{} requires `{}`, and {} does not", self.wider, cut(name), self.narrower);
            self.breaks(below(pointer, "required"), problem);
        }
    }

    /// What the narrower one evaluates the wider one has to evaluate too.
    fn unevaluated(&mut self, narrow: &Fields, wide: &Fields, pointer: &str) {
        if wide.get("unevaluatedProperties").is_none_or(|schema| *schema == ANY) {
            return;
        }
        let is_lost = |keyword: &&str| narrow.contains_key(*keyword) && narrow.get(*keyword) != wide.get(*keyword);
        let names = |fields: &Fields| -> Vec<String> {
            fields.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect()
        };
        let known = names(wide);
        let lost = EVALUATING.into_iter().find(is_lost).map(str::to_owned);
        let lost = lost.or_else(|| names(narrow).into_iter().find(|name| !known.contains(name)));
        if let Some(lost) = lost {
            let problem = format!("{} may refuse what {} names by `{}`", self.wider, self.narrower, cut(&lost));
            self.breaks(below(pointer, "unevaluatedProperties"), problem);
        }
    }
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}
