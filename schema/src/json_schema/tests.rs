use proptest::prelude::*;
use serde_json::json;

use super::compatibility::Compatibility;
use super::*;
use crate::raw;

#[allow(clippy::needless_pass_by_value, reason = "a literal of the tests")]
fn compile(schema: Value) -> EventSchema {
    EventSchema::compile(&schema, &[], Mode::Enforce).unwrap_or_else(|fault| panic!("{schema}: {fault}"))
}

fn check(schema: &EventSchema, event: &str) -> Violations {
    let mut event = raw::read(event).unwrap();
    let sent = Sent { properties: &mut event.properties, empty_objects: &event.empty_objects, nulls: &event.nulls };
    schema.check(sent)
}

fn pointers(violations: &Violations) -> Vec<&str> {
    violations.listed().iter().map(|violation| violation.pointer.as_str()).collect()
}

/// Schema of `properties.p`, a value that matches, and values that do not, each with what was expected and found.
#[test]
fn each_keyword_is_checked_with_pointer_expectation_and_value() {
    for (schema, good, bad) in [
        (
            json!({"type": "number"}),
            "1.5",
            vec![(r#""1.5""#, "number", r#""1.5""#), ("true", "number", "true"), ("null", "number", "null")],
        ),
        (json!({"type": "integer"}), "2.0", vec![("2.5", "integer", "2.5")]),
        (json!({"type": ["string", "null"]}), "null", vec![("1", "null or string", "1")]),
        (json!({"type": "boolean"}), "false", vec![(r#""false""#, "boolean", r#""false""#)]),
        (json!({"type": "object"}), r#"{"a":1}"#, vec![("[1]", "object", "[1]")]),
        (json!({"type": "object"}), "{}", vec![("1", "object", "1")]),
        (
            json!({"type": "string"}),
            r#""x""#,
            vec![("{}", "string", "an object"), (r#"{"a":1}"#, "string", "an object")],
        ),
        (
            json!({"enum": ["a", "b", 1, null]}),
            r#""b""#,
            vec![(r#""c""#, r#"one of ["a","b",1,null]"#, r#""c""#), ("2", r#"one of ["a","b",1,null]"#, "2")],
        ),
        (json!({"const": true}), "true", vec![("false", "true", "false"), (r#""true""#, "true", r#""true""#)]),
        (json!({"minimum": 0, "maximum": 10}), "10", vec![("-0.5", "at least 0", "-0.5"), ("11", "at most 10", "11")]),
        (
            json!({"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
            "0.5",
            vec![("0", "more than 0", "0"), ("1", "less than 1", "1")],
        ),
        (json!({"multipleOf": 5}), "15", vec![("7", "a multiple of 5", "7")]),
        (
            json!({"minLength": 2, "maxLength": 3}),
            r#""äöü""#,
            vec![
                (r#""ä""#, "of at least 2 characters", r#""ä""#),
                (r#""äöüß""#, "of at most 3 characters", r#""äöüß""#),
            ],
        ),
        (
            json!({"pattern": "^[A-Z]{3}$"}),
            r#""EUR""#,
            vec![(r#""Euro""#, "text that matches ^[A-Z]{3}$", r#""Euro""#)],
        ),
        (json!({"format": "date"}), r#""2026-11-28""#, vec![(r#""today""#, "of the format date", r#""today""#)]),
        (
            json!({"items": {"type": "integer"}, "maxItems": 2}),
            "[1,2]",
            vec![("[1,2,3]", "of at most 2 items", "[1,2,3]")],
        ),
        (json!({"uniqueItems": true}), "[1,2]", vec![("[1,1]", "without equal items", "[1,1]")]),
        (
            json!({"anyOf": [{"type": "number"}, {"const": "n/a"}]}),
            r#""n/a""#,
            vec![(r#""x""#, "as one of `anyOf` says", r#""x""#)],
        ),
        (json!({"not": {"const": 0}}), "1", vec![("0", "other than `not` says", "0")]),
    ] {
        let compiled = compile(json!({"properties": {"p": schema}}));
        let event = |value: &str| format!(r#"{{"eventType":"a","properties":{{"p":{value}}}}}"#);
        assert!(check(&compiled, &event(good)).is_empty(), "{schema} {good}: {}", check(&compiled, &event(good)));
        for (value, expected, found) in bad {
            let violations = check(&compiled, &event(value));
            let expected =
                Violation { pointer: "/properties/p".into(), expected: expected.into(), found: found.into() };
            assert_eq!(violations.listed(), [expected], "{schema} {value}");
        }
        assert!(check(&compiled, r#"{"eventType":"a"}"#).is_empty(), "it is not required");
    }
}

#[test]
fn objects_are_checked_at_any_depth_and_a_pointer_leads_to_the_place() {
    let schema = compile(json!({
        "required": ["order"],
        "additionalProperties": false,
        "properties": {
            "order": {
                "type": "object",
                "required": ["id", "lines"],
                "properties": {
                    "id": {"type": "string"},
                    "lines": {"type": "array", "items": {"type": "object", "required": ["sku"], "properties": {"qty": {"minimum": 1}}}},
                    "tags": {"type": "object", "additionalProperties": {"type": "string"}}
                }
            }
        }
    }));
    assert!(schema.is_flat());
    let good = r#"{"eventType":"a","context":{"app":{"v":1},"n":null,"e":{}},"properties":{"order":{"id":"1","lines":[{"sku":"x","qty":2}],"tags":{"a":"b"}}}}"#;
    assert!(check(&schema, good).is_empty(), "{}", check(&schema, good));
    for (event, expected) in [
        (r#"{"eventType":"a"}"#, vec!["/properties/order"]),
        (r#"{"properties":{"order":{}}}"#, vec!["/properties/order/lines", "/properties/order/id"]),
        (r#"{"properties":{"order":7}}"#, vec!["/properties/order", "/properties/order/lines", "/properties/order/id"]),
        (
            r#"{"properties":{"order":{"id":1,"lines":[{"qty":0}]}}}"#,
            vec!["/properties/order/id", "/properties/order/lines/0/qty", "/properties/order/lines/0/sku"],
        ),
        (
            r#"{"properties":{"order":{"id":"1","lines":[],"tags":{"a":1,"b":{"c":1}}}}}"#,
            vec!["/properties/order/tags/a", "/properties/order/tags/b"],
        ),
        (
            r#"{"colour":1,"properties":{"other":{"x":1},"order":{"id":"1","lines":[]}}}"#,
            vec!["/colour", "/properties/other/x"],
        ),
        (r#"{"order":{"id":2,"lines":[]}}"#, vec!["/order/id"]),
        (r#"{"properties":{"order.id":"1","order.lines":[]}}"#, vec![]),
        (r#"{"properties":{"order.id":5,"order.id":"1","order":{"lines":[]}}}"#, vec![]),
    ] {
        let mut found = check(&schema, event).listed().iter().map(|v| v.pointer.clone()).collect::<Vec<_>>();
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{event}");
    }
}

#[test]
fn of_many_violations_some_are_listed_and_values_are_cut() {
    let schema = compile(json!({"additionalProperties": {"type": "integer"}}));
    let long = "ä".repeat(3_000);
    let many: Vec<String> = (0..25).map(|n| format!(r#""p{n}":"{long}""#)).collect();
    let many = format!(r#"{{"eventType":"a","properties":{{{}}}}}"#, many.get(..2).unwrap().join(","));
    let violations = check(&schema, &many);
    assert!(violations.listed().iter().all(|violation| violation.found.chars().count() == 101), "{violations}");
    let many: Vec<String> = (0..25).map(|n| format!(r#""p{n}":"x""#)).collect();
    let violations = check(&schema, &format!(r#"{{"properties":{{{}}}}}"#, many.join(",")));
    assert_eq!((violations.listed().len(), violations.omitted()), (10, 15));
    assert!(violations.to_string().ends_with("(and 24 more violations)"), "{violations}");
}

#[test]
fn bombs_and_mistakes_are_refused_with_a_pointer() {
    let nested = (0..40).fold(json!({"type": "string"}), |inner, _| json!({"properties": {"a": inner}}));
    let doubling = Value::Object(
        (0..30).map(|n| (format!("d{n}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", n + 1)}, {"$ref": format!("#/$defs/d{}", n + 1)}]}))).collect(),
    );
    let mut doubling = json!({"$defs": doubling, "$ref": "#/$defs/d0"});
    doubling["$defs"]["d30"] = json!({"type": "object"});
    let many: Map = (0..250).map(|n| (format!("p{n}"), json!({}))).collect();
    type Map = serde_json::Map<String, Value>;
    let wide = |most: usize| -> Map {
        (0..most)
            .map(|n| {
                (format!("p{n}"), json!({"minimum": 1, "maximum": 2, "type": "number", "multipleOf": 1, "enum": [1]}))
            })
            .collect()
    };
    for (schema, pointer, problem) in [
        (json!([]), "/schema", "is an object"),
        (json!({"type": "string"}), "/schema/type", "properties are an object"),
        (json!({"requierd": ["a"]}), "/schema/requierd", "did you mean `required`?"),
        (json!({"properties": {"a": {"type": "text"}}}), "/schema/properties/a/type", "one or several of"),
        (
            json!({"properties": {"a/b": {"minimum": "1"}}}),
            "/schema/properties/a~1b/minimum",
            "is a number, not a text",
        ),
        (json!({"properties": {"a": {"minLength": -1}}}), "/schema/properties/a/minLength", "whole number"),
        (json!({"properties": {"a": {"pattern": "(a)\\1"}}}), "/schema/properties/a/pattern", "linear time"),
        (json!({"properties": {"a": {"pattern": "^(?=a)"}}}), "/schema/properties/a/pattern", "linear time"),
        (
            json!({"properties": {"a": {"pattern": "((a{1,99}){1,99}){1,99}"}}}),
            "/schema/properties/a/pattern",
            "too large",
        ),
        (json!({"properties": {"a": {"pattern": "a".repeat(2_000)}}}), "/schema/properties/a/pattern", "bytes"),
        (json!({"patternProperties": {"(?!x)": {}}}), "/schema/patternProperties/(?!x)", "linear time"),
        (json!({"properties": {"a": {"format": "colour"}}}), "/schema/properties/a/format", "known are date-time"),
        (json!({"$ref": "https://example.org/schema.json"}), "/schema/$ref", "nothing is fetched"),
        (json!({"$ref": "file:///etc/passwd"}), "/schema/$ref", "nothing is fetched"),
        (json!({"properties": {"a": {"$ref": "#/$defs/b"}}}), "/schema/properties/a/$ref", "leads to nothing"),
        (json!({"properties": {"a": {"$ref": "#"}}}), "/schema/properties/a/$ref", "leads back to itself"),
        (
            json!({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "properties": {"b": {"$ref": "#/$defs/a"}}}),
            "/schema/properties/b/$ref/items/$ref",
            "leads back to itself",
        ),
        (nested, "", "nested deeper"),
        (doubling, "", "more than 1000 keywords|nested deeper"),
        (json!({"properties": many}), "/schema/properties", "at most 200"),
        (json!({"properties": wide(200)}), "", "more than 1000 keywords"),
        (json!({"properties": {"a": {"items": {"properties": wide(20)}}}}), "", "below the items"),
        (json!({"properties": {"a": {"enum": []}}}), "/schema/properties/a/enum", "1 to 1000"),
        (json!({"properties": {"a": {"description": "x".repeat(70_000)}}}), "/schema", "bytes"),
    ] {
        let fault = EventSchema::compile(&schema, &[], Mode::Enforce).unwrap_err();
        assert!(fault.pointer.starts_with(pointer) && (pointer.is_empty() || fault.pointer == pointer), "{fault}");
        assert!(problem.split('|').any(|problem| fault.problem.contains(problem)), "{fault}");
    }
}

#[test]
fn local_references_are_written_out_and_annotations_left_out() {
    let schema = compile(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/a", "title": "A", "x-owner": "me",
        "$defs": {"money": {"description": "cents", "type": "integer", "minimum": 0}},
        "properties": {"price": {"$ref": "#/$defs/money"}, "tax": {"$ref": "#/$defs/money", "maximum": 10}}
    }));
    assert_eq!(
        schema.expanded(),
        &json!({"type": "object", "properties": {"price": {"type": "integer", "minimum": 0},
                "tax": {"maximum": 10, "allOf": [{"type": "integer", "minimum": 0}]}}})
    );
    let violations = check(&schema, r#"{"properties":{"price":-1,"tax":11}}"#);
    assert_eq!(pointers(&violations), ["/properties/price", "/properties/tax"]);
}

#[test]
fn what_comes_as_text_is_coerced_where_that_is_declared() {
    let schema = json!({"properties": {
        "amount": {"type": "number"}, "count": {"type": ["integer", "null"]}, "paid": {"type": "boolean"},
        "at": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"}, "name": {"type": "string"},
        "a": {"properties": {"b": {"type": "integer"}}}
    }});
    let all = ["amount", "count", "paid", "at", "day", "a.b"].map(str::to_owned);
    let compiled = EventSchema::compile(&schema, &all, Mode::Enforce).unwrap();
    let read = |event: &str| -> (Vec<String>, usize) {
        let mut event = raw::read(event).unwrap();
        let sent = Sent { properties: &mut event.properties, empty_objects: &event.empty_objects, nulls: &event.nulls };
        let violations = compiled.check(sent).count();
        (event.properties.iter().map(|p| format!("{:?}", p.value)).collect(), violations)
    };
    let sent = r#"{"properties":{"amount":" 12.50","count":"+7","paid":"TRUE","at":1795178096789,"day":"2026-11-28T10:00:00Z","a":{"b":"9007199254740993"}}}"#;
    let (values, violations) = read(sent);
    assert_eq!(violations, 0);
    assert_eq!(
        values,
        [
            r#"Text("9007199254740993")"#,
            "Number(12.5)",
            "Number(7.0)",
            r#"Text("true")"#,
            r#"Text("2026-11-20T12:34:56.789Z")"#,
            r#"Text("2026-11-28")"#
        ]
    );
    let (values, violations) =
        read(r#"{"properties":{"amount":"12,50","count":"7.5","paid":"yes","at":"soon","day":true}}"#);
    assert_eq!((values.len(), violations), (5, 5), "what cannot be read is left, and violates");
    for (names, pointer) in [(["name"], "/coerce/0"), (["nothing"], "/coerce/0")] {
        let fault = EventSchema::compile(&schema, &names.map(str::to_owned), Mode::Enforce).unwrap_err();
        assert_eq!(fault.pointer, pointer);
    }
}

#[test]
fn whole_numbers_beyond_doubles_are_compared_exactly() {
    for (schema, good, bad) in [
        (json!({"enum": [9_007_199_254_740_993_u64]}), "9007199254740993", "9007199254740992"),
        (json!({"const": 9_007_199_254_740_993_u64}), "9007199254740993", "9007199254740995"),
        (json!({"maximum": 9_007_199_254_740_993_u64}), "9007199254740993", "9007199254740994"),
        (json!({"exclusiveMinimum": 9_007_199_254_740_992_u64}), "9007199254740993", "9007199254740992"),
        (json!({"multipleOf": 3}), "9007199254740993", "9007199254740994"),
    ] {
        let schema = compile(json!({"properties": {"p": schema}}));
        let event = |value: &str| format!(r#"{{"eventType":"a","properties":{{"p":{value}}}}}"#);
        assert!(schema.is_flat() && check(&schema, &event(good)).is_empty(), "{good}");
        assert_eq!(check(&schema, &event(bad)).count(), 1, "{bad}");
    }
}

#[test]
fn a_value_takes_the_place_of_a_null() {
    let flat = compile(json!({"properties": {"a": {"type": "number"}}}));
    let whole = compile(json!({"properties": {"a": {"type": "number"}}, "maxProperties": 3}));
    for schema in [&flat, &whole] {
        for event in [r#"{"a":null,"a":1}"#, r#"{"a":1,"a":null}"#] {
            let found = check(schema, &format!(r#"{{"eventType":"a","properties":{event}}}"#));
            assert!(found.is_empty(), "{event}: {found}");
        }
        assert_eq!(check(schema, r#"{"eventType":"a","properties":{"a":null}}"#).count(), 1);
    }
    assert!(flat.is_flat() && !whole.is_flat());
}

#[test]
fn a_name_that_is_required_twice_is_missed_once() {
    let schema = compile(json!({"required": ["a", "b", "a"]}));
    assert_eq!(pointers(&check(&schema, r#"{"eventType":"a"}"#)), ["/properties/a", "/properties/b"]);
}

#[test]
fn nothing_is_checked_or_coerced_when_it_is_off() {
    let schema =
        EventSchema::compile(&json!({"properties": {"a": {"type": "number"}}}), &["a".to_owned()], Mode::Off).unwrap();
    let mut event = raw::read(r#"{"properties":{"a":"1"}}"#).unwrap();
    let sent = Sent { properties: &mut event.properties, empty_objects: &[], nulls: &[] };
    assert!(schema.check(sent).is_empty());
    assert_eq!(event.properties.first().unwrap().value, crate::property::PropertyValue::Text("1".into()));
}

#[test]
fn a_new_version_is_compared_with_the_one_in_force() {
    let base = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 10}, "b": {"enum": ["x", "y"]}, "c": {"type": "string"}}});
    let with = |change: fn(&mut Value)| {
        let mut new = base.clone();
        change(&mut new);
        new
    };
    // What changed, where backward breaks, and where forward breaks.
    for (new, backward, forward) in [
        (base.clone(), vec![], vec![]),
        (with(|s| s["properties"]["d"] = json!({"type": "string"})), vec![], vec![]),
        (with(|s| s["properties"]["a"]["type"] = json!("number")), vec![], vec!["/schema/properties/a/type"]),
        (
            with(|s| s["properties"]["c"]["type"] = json!("number")),
            vec!["/schema/properties/c/type"],
            vec!["/schema/properties/c/type"],
        ),
        (with(|s| s["properties"]["a"]["minimum"] = json!(1)), vec!["/schema/properties/a/minimum"], vec![]),
        (with(|s| s["properties"]["a"]["maximum"] = json!(11)), vec![], vec!["/schema/properties/a/maximum"]),
        (with(|s| s["properties"]["b"]["enum"] = json!(["x"])), vec!["/schema/properties/b/enum"], vec![]),
        (with(|s| s["properties"]["b"]["enum"] = json!(["x", "y", "z"])), vec![], vec!["/schema/properties/b/enum"]),
        (with(|s| s["required"] = json!(["a", "b"])), vec!["/schema/required"], vec![]),
        (with(|s| s["required"] = json!([])), vec![], vec!["/schema/required"]),
        (with(|s| s["properties"]["c"]["pattern"] = json!("x")), vec!["/schema/properties/c/pattern"], vec![]),
        (with(|s| s["additionalProperties"] = json!(false)), vec!["/schema/additionalProperties"], vec![]),
        (with(|s| drop(s["properties"].as_object_mut().unwrap().remove("c"))), vec![], vec![]),
        (json!(true), vec![], vec!["/schema/type", "/schema/required"]),
    ] {
        for (rule, expected) in [(Compatibility::Backward, &backward), (Compatibility::Forward, &forward)] {
            let found = rule.compare_schemas(&base, &new);
            let at: Vec<_> = found.breaks.iter().map(|found| found.pointer.as_str()).collect();
            assert_eq!(&at, expected, "{rule:?} {new}");
        }
        assert!(Compatibility::None.compare_schemas(&base, &new).breaks.is_empty());
        let full = Compatibility::Full.compare_schemas(&base, &new).breaks.len();
        assert_eq!(full, backward.len() + forward.len());
    }
    let closed = with(|s| s["additionalProperties"] = json!(false));
    let fewer = {
        let mut fewer = closed.clone();
        drop(fewer["properties"].as_object_mut().unwrap().remove("c"));
        fewer
    };
    let found = Compatibility::Backward.compare_schemas(&closed, &fewer);
    assert_eq!(found.breaks.first().unwrap().pointer, "/schema/properties/c", "it is no longer taken");
    let named = with(|s| s["properties"]["d"] = json!({"type": "string"}));
    assert_eq!(Compatibility::Backward.compare_schemas(&base, &named).notes.len(), 1);
}

fn scalar_schema() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        prop::sample::select(vec!["string", "number", "integer", "boolean", "null", "array", "object"])
            .prop_map(|kind| json!({"type": kind})),
        Just(json!({"type": ["string", "null"]})),
        Just(json!({"enum": ["a", 1, true, null]})),
        Just(json!({"const": 2})),
        (-2..3_i32, -2..3_i32).prop_map(|(least, most)| json!({"minimum": least, "exclusiveMaximum": most})),
        Just(json!({"multipleOf": 2})),
        Just(json!({"type": "string", "minLength": 1, "maxLength": 2, "pattern": "^a"})),
        Just(json!({"items": {"type": "integer"}, "maxItems": 2})),
    ]
}

fn object_schema() -> impl Strategy<Value = Value> {
    scalar_schema().prop_recursive(3, 12, 3, |inner| {
        (
            prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), inner, 0..3),
            prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]), 0..2),
            prop_oneof![Just(json!(true)), Just(json!(false)), Just(json!({"type": "string"}))],
        )
            .prop_map(|(properties, required, additional)| {
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": additional})
            })
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i64).prop_map(Value::from),
        Just(json!(0.5)),
        prop::sample::select(vec!["", "a", "aa", "aaa", "b", "true", "1"]).prop_map(Value::from),
        prop::collection::vec(-1..2_i64, 0..4).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "d"]), inner, 0..4)
            .prop_map(|map| json!(map))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The table by name says what the crate says of the object itself.
    #[test]
    fn flat_checks_agree_with_the_crate(schema in object_schema(), properties in value()) {
        prop_assume!(properties.is_object() && schema.get("properties").is_some());
        let compiled = compile(schema.clone());
        let event = json!({"eventType": "a", "properties": properties}).to_string();
        let found = check(&compiled, &event);
        let validator = jsonschema::draft202012::new(compiled.expanded()).unwrap();
        prop_assert_eq!(found.is_empty(), validator.is_valid(&properties), "{}: {}", compiled.is_flat(), found);
    }

    #[test]
    fn properties_are_put_together_as_they_came(properties in value()) {
        prop_assume!(properties.is_object());
        let event = json!({"eventType": "a", "properties": properties}).to_string();
        let mut event = raw::read(&event).unwrap();
        let sent = Sent { properties: &mut event.properties, empty_objects: &event.empty_objects, nulls: &event.nulls };
        prop_assert_eq!(rebuild::object(&sent), properties);
    }
}
