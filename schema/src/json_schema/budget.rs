//! What a schema may have in all, counted while its references are written out.

use serde_json::Value;

use super::Fault;

/// A document in bytes, as it comes and once its references are written out.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;

/// Keywords of one schema, once its references are written out.
pub const MAX_KEYWORDS: usize = 1_000;

/// Of those, below the items of an array: an event can have thousands of items.
const MAX_ITEM_KEYWORDS: usize = 64;

/// Values of `enum` and `const` below the items of an array: each item may be compared with each of them.
const MAX_ITEM_VALUES: usize = 256;

/// Patterns of one schema: each takes memory of its own.
const MAX_PATTERNS: usize = 50;

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Budget {
    keywords: usize,
    values: usize,
    bytes: usize,
    patterns: usize,
}

impl Budget {
    /// Counts a keyword. `items` is what was counted before the items of an array that it is below.
    pub(super) fn keyword(&mut self, pointer: &str, items: Option<Self>) -> Result<(), Fault> {
        self.keywords += 1;
        if self.keywords > MAX_KEYWORDS {
            let problem =
                format!("the schema has more than {MAX_KEYWORDS} keywords, once its references are written out");
            return Err(Fault::at(pointer, problem));
        }
        match items {
            Some(before) if self.keywords - before.keywords > MAX_ITEM_KEYWORDS => Err(Fault::at(
                pointer,
                format!("there are more than {MAX_ITEM_KEYWORDS} keywords below the items of an array"),
            )),
            _ => Ok(()),
        }
    }

    /// Counts a value that properties are compared with, and what is in it.
    pub(super) fn compared(&mut self, value: &Value, pointer: &str, items: Option<Self>) -> Result<(), Fault> {
        self.values += values(value);
        match items {
            Some(before) if self.values - before.values > MAX_ITEM_VALUES => Err(Fault::at(
                pointer,
                format!(
                    "there are more than {MAX_ITEM_VALUES} values of `enum` and `const` below the items of an array"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Counts a name that is written out.
    pub(super) fn name(&mut self, name: &str, pointer: &str) -> Result<(), Fault> {
        // With its quotes, colon and comma.
        self.bytes(name.len() + 4, pointer)
    }

    /// Counts a value that is written out.
    pub(super) fn written(&mut self, value: &Value, pointer: &str) -> Result<(), Fault> {
        self.bytes(value.to_string().len(), pointer)
    }

    fn bytes(&mut self, bytes: usize, pointer: &str) -> Result<(), Fault> {
        self.bytes += bytes;
        if self.bytes > MAX_SCHEMA_BYTES {
            let problem =
                format!("the schema has more than {MAX_SCHEMA_BYTES} bytes, once its references are written out");
            return Err(Fault::at(pointer, problem));
        }
        Ok(())
    }

    pub(super) fn pattern(&mut self, pointer: &str) -> Result<(), Fault> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(Fault::at(pointer, format!("the schema has more than {MAX_PATTERNS} patterns")));
        }
        Ok(())
    }
}

fn values(value: &Value) -> usize {
    match value {
        Value::Array(all) => all.iter().map(values).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(values).sum::<usize>() + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{EventSchema, Mode};
    use super::*;

    fn problem(schema: &Value) -> Option<String> {
        EventSchema::compile(schema, &[], Mode::Enforce).err().map(|fault| fault.to_string())
    }

    #[test]
    fn values_below_items_are_counted() {
        let values = |count: usize| json!({"enum": (0..count).collect::<Vec<_>>()});
        let items = |schema: Value| json!({"properties": {"a": {"items": schema}}});
        assert_eq!(problem(&items(values(256))), None);
        assert_eq!(problem(&json!({"properties": {"a": values(1_000)}})), None, "an event has it once");
        let nested = json!({"const": (0..300).collect::<Vec<_>>()});
        for too_many in [values(257), nested, json!({"anyOf": [values(200), {"items": values(100)}]})] {
            assert!(problem(&items(too_many)).unwrap().contains("more than 256 values"));
        }
    }

    #[test]
    fn bytes_are_counted_once_references_are_written_out() {
        let referred = |times: usize| {
            let properties: serde_json::Map<_, _> =
                (0..times).map(|number| (format!("p{number}"), json!({"$ref": "#/$defs/e"}))).collect();
            json!({"$defs": {"e": {"enum": ["x".repeat(10_000)]}}, "properties": properties})
        };
        assert_eq!(problem(&referred(6)), None);
        assert!(problem(&referred(7)).unwrap().contains("more than 65536 bytes, once its references"));
        let named = json!({"$defs": {"o": {"properties": {"x".repeat(10_000): true}}},
            "properties": {"a": {"$ref": "#/$defs/o"}, "b": {"$ref": "#/$defs/o"}, "c": {"$ref": "#/$defs/o"},
            "d": {"$ref": "#/$defs/o"}, "e": {"$ref": "#/$defs/o"}, "f": {"$ref": "#/$defs/o"}, "g": {"$ref": "#/$defs/o"}}});
        assert!(problem(&named).unwrap().contains("more than 65536 bytes"));
    }
}
