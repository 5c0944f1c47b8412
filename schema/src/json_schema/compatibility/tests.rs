use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::super::{EventSchema, Mode, Sent};
use super::*;
use crate::raw;

fn compile(schema: &Value, coerce: &[String]) -> Option<EventSchema> {
    EventSchema::compile(schema, coerce, Mode::Enforce).ok()
}

fn takes(schema: &EventSchema, properties: &Value) -> bool {
    let event = json!({"eventType": "a", "properties": properties}).to_string();
    let mut event = raw::read(&event).unwrap();
    let sent = Sent { properties: &mut event.properties, empty_objects: &event.empty_objects, nulls: &event.nulls };
    schema.check(sent).is_empty()
}

/// Pairs that look alike: old, new, and properties that the old one takes and the new one does not.
#[test]
fn a_version_that_refuses_what_was_taken_is_told() {
    let p = |schema: Value| json!({"properties": {"p": schema}});
    for (old, new, properties) in [
        (p(json!({"enum": [1, 2]})), p(json!({"enum": [1, 2], "const": 1})), json!({"p": 2})),
        (
            p(json!({"contains": {"const": 1}, "minContains": 0})),
            p(json!({"contains": {"const": 1}})),
            json!({"p": [2]}),
        ),
        (
            p(json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}})),
            p(json!({"items": {"type": "integer"}})),
            json!({"p": ["a"]}),
        ),
        (
            p(json!({"maximum": 9_007_199_254_740_993_u64})),
            p(json!({"maximum": 9_007_199_254_740_992_u64})),
            json!({"p": 9_007_199_254_740_993_u64}),
        ),
        (
            json!({"patternProperties": {"^x": {}}, "additionalProperties": false}),
            json!({"additionalProperties": false}),
            json!({"x": 1}),
        ),
        (
            json!({"patternProperties": {"^x": {"type": "string"}}, "additionalProperties": false}),
            json!({"patternProperties": {"^x": {"type": "string"}}, "additionalProperties": false,
                   "properties": {"x1": {"type": "number"}}}),
            json!({"x1": "a"}),
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": 1}),
        ),
        (
            json!({"additionalProperties": {"type": "string"}, "unevaluatedProperties": false}),
            json!({"unevaluatedProperties": false}),
            json!({"a": "b"}),
        ),
        (
            json!({"properties": {"a.b": {"type": "number"}}, "additionalProperties": false}),
            json!({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}),
            json!({"a": {"b": 1}}),
        ),
    ] {
        let (old_schema, new_schema) = (compile(&old, &[]).unwrap(), compile(&new, &[]).unwrap());
        assert!(takes(&old_schema, &properties), "{old} {properties}");
        assert!(!takes(&new_schema, &properties), "{new} {properties}");
        let found = Compatibility::Backward.compare(Some(&old_schema), Some(&new_schema));
        assert!(!found.breaks.is_empty(), "{old} {new}");
        let same = Compatibility::Full.compare(Some(&old_schema), Some(&old_schema));
        assert!(same.breaks.is_empty(), "{old}");
    }
}

#[test]
fn names_with_dots_are_for_schemas_of_flat_properties() {
    let flat = json!({"properties": {"a.b": {"type": "number"}}, "required": ["a.b"]});
    assert!(compile(&flat, &[]).unwrap().is_flat());
    for (whole, pointer) in [
        (json!({"properties": {"a.b": {}}, "maxProperties": 3}), "/schema/properties"),
        (json!({"required": ["a.b"], "maxProperties": 3}), "/schema/required"),
        (json!({"anyOf": [{"properties": {"a.b": {}}}]}), "/schema/anyOf/0/properties"),
    ] {
        let fault = EventSchema::compile(&whole, &[], Mode::Enforce).unwrap_err();
        assert_eq!((fault.pointer.as_str(), fault.problem.contains("the object `a`")), (pointer, true), "{fault}");
    }
    let of_items = json!({"maxProperties": 3, "properties": {"a": {"items": {"properties": {"b.c": {}}}}}});
    assert!(compile(&of_items, &[]).is_some(), "items are not flat");
}

#[test]
fn what_is_coerced_stays_coerced() {
    let schema =
        json!({"properties": {"n": {"type": "number"}, "at": {"type": ["string", "number"], "format": "date-time"}}});
    let of =
        |names: &[&str]| compile(&schema, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let breaks =
        |rule: Compatibility, old: &[&str], new: &[&str]| rule.compare(Some(&of(old)), Some(&of(new))).breaks.len();
    assert_eq!(breaks(Compatibility::Backward, &["n"], &[]), 1, "a text was taken");
    assert_eq!(breaks(Compatibility::Backward, &[], &["n"]), 0);
    assert_eq!(breaks(Compatibility::Forward, &[], &["n"]), 1, "a text is taken that was not");
    assert_eq!(breaks(Compatibility::Backward, &[], &["at"]), 1, "a number becomes a text");
    assert_eq!(breaks(Compatibility::Full, &["n", "at"], &["at", "n"]), 0);
}

fn leaf() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!(true),
        json!(false),
        json!({"type": "string"}),
        json!({"type": "number"}),
        json!({"type": "integer"}),
        json!({"type": ["integer", "string"]}),
        json!({"type": ["number", "string"], "format": "date"}),
        json!({"type": "number", "maximum": 1}),
        json!({"type": "boolean"}),
        json!({"type": "object"}),
        json!({"enum": [1, 2, "a"]}),
        json!({"enum": [1, 2], "const": 1}),
        json!({"const": 1}),
        json!({"minimum": 1}),
        json!({"exclusiveMinimum": 1}),
        json!({"multipleOf": 2}),
        json!({"multipleOf": 4}),
        json!({"minLength": 0}),
        json!({"minLength": 1}),
        json!({"maxLength": 1, "minimum": 0}),
        json!({"contains": {"const": 1}}),
        json!({"contains": {"const": 1}, "minContains": 0}),
        json!({"contains": {"const": 1}, "minContains": 1}),
        json!({"items": {"type": "integer"}}),
        json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
        json!({"minItems": 1, "items": {"type": ["integer", "string"]}}),
        json!({"uniqueItems": true}),
        json!({"not": {"const": 1}}),
        json!({"anyOf": [{"type": "integer"}, {"type": "array"}]}),
    ])
}

/// Two schemas that are alike often enough to be compatible.
fn pair() -> impl Strategy<Value = (Value, Value)> {
    let leaves = prop_oneof![leaf().prop_map(|one| (one.clone(), one)), (leaf(), leaf())];
    leaves.prop_recursive(3, 10, 3, |inner| object(inner.boxed()))
}

fn object(inner: BoxedStrategy<(Value, Value)>) -> impl Strategy<Value = (Value, Value)> {
    let both = |values: Vec<Value>| {
        let values = select(values);
        prop_oneof![values.clone().prop_map(|one| (one.clone(), one)), (values.clone(), values)]
    };
    let names = || select(vec!["a", "b", "c", "a.b", "x1"]);
    let required = both(vec![json!([]), json!([]), json!(["a"]), json!(["a", "a"]), json!(["a.b"])]);
    let others = both(vec![json!(true), json!({}), json!(false), json!(false), json!({"type": "string"})]);
    let rest = both(vec![
        json!({}),
        json!({}),
        json!({}),
        json!({"unevaluatedProperties": false}),
        json!({"patternProperties": {"^x": {"type": "string"}}}),
        json!({"propertyNames": {"maxLength": 1}}),
        json!({"minProperties": 1}),
        json!({"maxProperties": 1}),
        json!({"allOf": [{"properties": {"c": {"type": "integer"}}}]}),
        json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
        json!({"then": {"required": ["b"]}}),
    ]);
    // In which of the two a property is named.
    let sides = select(vec![(true, true), (true, true), (true, true), (true, false), (false, true)]);
    let properties = prop::collection::btree_map(names(), (inner, sides), 0..4);
    (properties, required, others, rest, any::<bool>()).prop_map(|(properties, required, others, rest, says_others)| {
        let one = |is_old: bool| {
            let side = |(old, new): &(Value, Value)| if is_old { old.clone() } else { new.clone() };
            let is_named = |(old, new): (bool, bool)| if is_old { old } else { new };
            let named = properties.iter().filter(|(_, (_, sides))| is_named(*sides));
            let named: serde_json::Map<_, _> =
                named.map(|(name, (schemas, _))| ((*name).to_owned(), side(schemas))).collect();
            let mut schema = side(&rest);
            let fields = schema.as_object_mut().unwrap();
            fields.insert("type".to_owned(), json!("object"));
            fields.insert("properties".to_owned(), named.into());
            fields.insert("required".to_owned(), side(&required));
            if says_others {
                fields.insert("additionalProperties".to_owned(), side(&others));
            }
            schema
        };
        (one(true), one(false))
    })
}

fn properties() -> impl Strategy<Value = Value> {
    let leaf = select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(1.5),
        json!(2),
        json!(4),
        json!(""),
        json!("a"),
        json!("1"),
        json!("aa"),
        json!("2026-11-28"),
        json!([]),
        json!([1]),
        json!(["a", 1]),
        json!([2, 2]),
    ]);
    let map = |inner: BoxedStrategy<Value>, names: Vec<&'static str>| {
        prop::collection::btree_map(select(names), inner, 0..3).prop_map(|map| json!(map))
    };
    let names = vec!["a", "b", "c", "x1"];
    let value = leaf.prop_recursive(2, 6, 2, move |inner| map(inner.boxed(), vec!["a", "b", "c", "x1"]));
    map(value.boxed(), names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// What the version in force takes, a version that is found compatible takes.
    #[test]
    fn what_was_valid_is_valid_in_a_compatible_version(
        (old, new) in object(pair().boxed()),
        coerced in prop::array::uniform2(prop::collection::btree_set(select(vec!["a", "b", "a.b"]), 0..2)),
        events in prop::collection::vec(properties(), 12),
    ) {
        let version = |schema: &Value, coerced: &std::collections::BTreeSet<&str>| {
            let names: Vec<String> = coerced.iter().map(|name| (*name).to_owned()).collect();
            compile(schema, &names).or_else(|| compile(schema, &[]))
        };
        let [old_coerced, new_coerced] = coerced;
        let (Some(old_version), Some(new_version)) = (version(&old, &old_coerced), version(&new, &new_coerced)) else {
            return Ok(());
        };
        let found = Compatibility::Backward.compare(Some(&old_version), Some(&new_version));
        if !found.breaks.is_empty() || !found.notes.is_empty() {
            return Ok(());
        }
        for event in events.iter().filter(|event| takes(&old_version, event)) {
            prop_assert!(takes(&new_version, event), "{} -> {}: {}", old, new, event);
        }
    }
}
