//! Proposes a declaration from stored events: `GET /v1/schemas/{type}/observed`.
//!
//! A bounded sample of the last days is looked at, in the class of raw events and within its deadline. What is proposed fits every event of the
//! sample, and begins in the mode `report`: what did not happen in the sample may still be right.
//!
//! A text that is stored may have been a boolean, an array or a long number, so the proposal takes each that it may have been. A `null` is
//! not kept, so nothing tells of those that were sent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tallyhouse_schema::json_schema::MAX_SCHEMA_BYTES;

use crate::sql::{self, ObservedRow};
use crate::store::{AdmissionRequest, Class, ReadError, Store};

/// Events that a property has to be in to be an enumeration, for each of its values.
const EVENTS_A_VALUE: u64 = 20;

/// Events of a sample in which a property has always been there before it is proposed as required.
const ENOUGH: u64 = 20;

/// Properties of one schema that are coerced.
const MOST_COERCED: usize = 50;

/// What a sample says.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Events that were looked at.
    pub events: u64,
    /// Whether there are more properties than are told.
    pub is_cut: bool,
    /// A declaration that every one of them matches.
    pub declaration: Value,
}

/// Looks at a sample of the events of a type before an instant, in milliseconds since 1970.
pub async fn observe(store: &Store, project: &str, event_type: &str, now_ms: i64) -> Result<Observed, ReadError> {
    // An event may be said to happen some minutes from now.
    let to = now_ms.div_euclid(1_000) + 600;
    let ask = AdmissionRequest { class: Class::AdHoc, project: project.to_owned(), deadline: None };
    let rows: Vec<ObservedRow> = store.rows(&sql::observed(project, event_type, to), &ask).await?;
    Ok(proposed(event_type, rows))
}

/// A property as texts and as numbers.
#[derive(Default)]
struct Property {
    texts: Option<ObservedRow>,
    numbers: Option<ObservedRow>,
}

fn proposed(event_type: &str, rows: Vec<ObservedRow>) -> Observed {
    let is_cut = rows.len() > sql::MOST_PROPERTIES;
    let mut events = 0;
    let mut properties = BTreeMap::<String, Property>::new();
    for row in rows.into_iter().take(sql::MOST_PROPERTIES) {
        if row.kind > 1 {
            events = row.events;
            continue;
        }
        let property = properties.entry(row.name.clone()).or_default();
        let slot = if row.kind == 0 { &mut property.texts } else { &mut property.numbers };
        *slot = Some(row);
    }
    // What is said of the context is not for a schema of properties, and a name without letters is none of a schema.
    properties.retain(|name, _| !name.starts_with("context.") && !name.is_empty());
    let (mut schemas, mut required, mut coerce) = (Map::new(), Vec::new(), Vec::new());
    for (name, property) in properties {
        let seen = property.events();
        let is_always = seen == events && events >= ENOUGH;
        if is_always {
            required.push(Value::from(name.as_str()));
        }
        let (mut schema, is_coerced) = property.schema(coerce.len() < MOST_COERCED);
        let share = if events == 0 { 0.0 } else { (seen as f64 / events as f64 * 1_000.0).round() / 1_000.0 };
        schema.insert("x-observed".to_owned(), property.observed(share));
        if is_coerced {
            coerce.push(Value::from(name.as_str()));
        }
        schemas.insert(name, Value::Object(schema));
    }
    fit(&mut schemas);
    let mut schema =
        Map::from_iter([("type".to_owned(), json!("object")), ("properties".to_owned(), Value::Object(schemas))]);
    if !required.is_empty() {
        schema.insert("required".to_owned(), Value::Array(required));
    }
    let mut declaration = Map::from_iter([
        ("eventType".to_owned(), json!(event_type)),
        ("mode".to_owned(), json!("report")),
        ("schema".to_owned(), Value::Object(schema)),
    ]);
    if !coerce.is_empty() {
        declaration.insert("coerce".to_owned(), Value::Array(coerce));
    }
    Observed { events, is_cut, declaration: Value::Object(declaration) }
}

/// Leaves out what is not needed while the schemas are too large to be registered.
fn fit(schemas: &mut Map<String, Value>) {
    // The names once more, as required ones.
    let names: usize = schemas.keys().map(|name| name.len() * 2).sum();
    for keyword in ["enum", "x-observed"] {
        let bytes = serde_json::to_string(&*schemas).map_or(0, |text| text.len());
        if bytes + names > MAX_SCHEMA_BYTES * 3 / 4 {
            schemas.values_mut().filter_map(Value::as_object_mut).for_each(|schema| drop(schema.remove(keyword)));
        }
    }
}

impl Property {
    /// Events that have it. An event has it once: as text or as a number.
    fn events(&self) -> u64 {
        [&self.texts, &self.numbers].into_iter().flatten().map(|row| row.events).sum()
    }

    /// Its schema, and whether texts are to be read as what it says.
    fn schema(&self, may_coerce: bool) -> (Map<String, Value>, bool) {
        let (texts, numbers) = (self.texts.as_ref(), self.numbers.as_ref());
        let is_all =
            |of: Option<&ObservedRow>, count: fn(&ObservedRow) -> u64| of.is_none_or(|row| count(row) == row.events);
        let number =
            if is_all(texts, |row| row.whole) && is_all(numbers, |row| row.whole) { "integer" } else { "number" };
        let mut schema = Map::new();
        let kinds = match (texts, numbers) {
            (Some(texts), _) if may_coerce && texts.decimals == texts.events => {
                schema.insert("type".to_owned(), json!(number));
                return (schema, true);
            }
            (Some(texts), None) if may_coerce && texts.booleans == texts.events => {
                schema.insert("type".to_owned(), json!("boolean"));
                return (schema, true);
            }
            (Some(texts), numbers) => kinds(texts, numbers),
            (None, Some(numbers)) => {
                if numbers.least >= 0.0 {
                    schema.insert("minimum".to_owned(), json!(0));
                }
                vec![number]
            }
            (None, None) => return (schema, false),
        };
        match (kinds.as_slice(), texts) {
            (["string"], Some(texts)) => of_texts(texts, &mut schema),
            ([one], _) => drop(schema.insert("type".to_owned(), json!(one))),
            (several, _) => drop(schema.insert("type".to_owned(), json!(several))),
        }
        (schema, false)
    }

    /// For people: in how many events it is, and within what.
    fn observed(&self, share: f64) -> Value {
        let mut observed = Map::from_iter([("share".to_owned(), json!(share))]);
        if let Some(numbers) = &self.numbers {
            observed.insert(
                "numbers".to_owned(),
                json!({"events": numbers.events, "least": numbers.least, "most": numbers.most}),
            );
        }
        if let Some(texts) = &self.texts {
            observed.insert(
                "texts".to_owned(),
                json!({"events": texts.events, "shortest": texts.least, "longest": texts.most}),
            );
        }
        Value::Object(observed)
    }
}

/// What stored texts may have been when they were sent.
fn kinds(texts: &ObservedRow, numbers: Option<&ObservedRow>) -> Vec<&'static str> {
    let may_be = [
        ("string", true),
        ("boolean", texts.booleans > 0),
        ("array", texts.arrays > 0),
        ("number", texts.long_numbers > 0 || numbers.is_some()),
    ];
    may_be.into_iter().filter(|(_, may_be)| *may_be).map(|(kind, _)| kind).collect()
}

fn of_texts(texts: &ObservedRow, schema: &mut Map<String, Value>) {
    schema.insert("type".to_owned(), json!("string"));
    let formats = [("date-time", texts.times), ("date", texts.dates), ("uuid", texts.uuids)];
    let are_few = texts.values.len() <= sql::MOST_VALUES && texts.events >= EVENTS_A_VALUE * texts.values.len() as u64;
    // Longer ones are cut.
    let are_whole = texts.values.iter().all(|text| text.chars().count() < sql::MOST_CHARS);
    if let Some((format, _)) = formats.into_iter().find(|(_, count)| *count == texts.events) {
        schema.insert("format".to_owned(), json!(format));
    } else if are_few && are_whole {
        let mut values = texts.values.clone();
        values.sort();
        schema.insert("enum".to_owned(), json!(values));
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::catalogue::{EventType, EventTypeDeclaration};

    use super::*;

    fn row(kind: u8, name: &str, events: u64) -> ObservedRow {
        ObservedRow {
            kind,
            name: name.to_owned(),
            events,
            least: 1.0,
            most: 9.0,
            whole: 0,
            booleans: 0,
            arrays: 0,
            times: 0,
            dates: 0,
            uuids: 0,
            decimals: 0,
            long_numbers: 0,
            values: Vec::new(),
        }
    }

    #[test]
    fn what_was_seen_is_proposed_and_can_be_registered() {
        let values = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let observed = proposed(
            "order",
            vec![
                row(2, "", 100),
                ObservedRow { whole: 100, ..row(1, "items", 100) },
                row(1, "amount", 90),
                ObservedRow { values: values(&["web", "app"]), ..row(0, "channel", 100) },
                ObservedRow { values: (0..13).map(|n| n.to_string()).collect(), ..row(0, "note", 50) },
                ObservedRow { booleans: 40, values: values(&["true"]), ..row(0, "paid", 40) },
                ObservedRow { times: 30, ..row(0, "at", 30) },
                ObservedRow { decimals: 20, values: values(&["1.5"]), ..row(0, "tax", 20) },
                row(1, "mixed", 10),
                ObservedRow { values: values(&["x"]), ..row(0, "mixed", 10) },
                row(0, "context.app", 5),
            ],
        );
        let property = |name: &str| {
            let mut property = observed.declaration["schema"]["properties"][name].clone();
            drop(property.as_object_mut().unwrap().remove("x-observed"));
            property
        };
        assert_eq!(property("items"), json!({"type": "integer", "minimum": 0}));
        assert_eq!(property("amount"), json!({"type": "number", "minimum": 0}));
        assert_eq!(property("channel"), json!({"type": "string", "enum": ["app", "web"]}));
        assert_eq!(property("note"), json!({"type": "string"}));
        assert_eq!(property("paid"), json!({"type": "boolean"}));
        assert_eq!(property("at"), json!({"type": "string", "format": "date-time"}));
        // A text that says `true` is kept as a boolean is.
        assert_eq!(observed.declaration["coerce"], json!(["paid", "tax"]));
        assert_eq!(property("tax"), json!({"type": "number"}));
        assert_eq!(property("mixed"), json!({"type": ["string", "number"]}));
        assert_eq!(observed.declaration["schema"]["required"], json!(["channel", "items"]));
        let declaration = EventTypeDeclaration::read(&observed.declaration.to_string()).unwrap();
        assert!(EventType::declared(&declaration).is_ok() && !observed.is_cut);
    }

    /// Whether what was proposed takes properties, when they are sent so.
    fn takes(observed: &Observed, properties: &str) -> bool {
        let declaration = EventTypeDeclaration::read(&observed.declaration.to_string()).unwrap();
        let schema = EventType::declared(&declaration).unwrap().schema.unwrap();
        let event = format!(r#"{{"eventType":"order","properties":{properties}}}"#);
        let mut event = tallyhouse_schema::raw::read(&event).unwrap();
        schema
            .check(tallyhouse_schema::json_schema::Sent {
                properties: &mut event.properties,
                empty_objects: &event.empty_objects,
                nulls: &event.nulls,
            })
            .is_empty()
    }

    #[test]
    fn what_was_seen_is_taken_however_it_was_sent() {
        let texts = |events| ObservedRow { values: vec!["a".to_owned()], ..row(0, "p", events) };
        for (rows, sent) in [
            (vec![ObservedRow { booleans: 9, ..texts(9) }], vec!["true", r#""false""#]),
            (vec![ObservedRow { booleans: 1, ..texts(9) }], vec!["true", r#""maybe""#]),
            (vec![ObservedRow { arrays: 9, ..texts(9) }], vec!["[1]", r#""[draft]""#]),
            (vec![ObservedRow { long_numbers: 1, ..texts(9) }], vec!["9007199254740993", r#""a""#]),
            (vec![ObservedRow { booleans: 1, ..texts(9) }, row(1, "p", 9)], vec!["true", "1.5", r#""a""#]),
            (vec![ObservedRow { decimals: 9, whole: 8, ..texts(9) }], vec![r#""7""#, r#""1.5""#]),
            (
                vec![ObservedRow { decimals: 9, whole: 9, long_numbers: 1, ..texts(9) }],
                vec![r#""7""#, "9007199254740993"],
            ),
            (
                vec![ObservedRow { values: vec!["x".repeat(sql::MOST_CHARS)], ..row(0, "p", 100) }],
                vec![
                    r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
                ],
            ),
        ] {
            let observed = proposed("order", rows);
            for value in sent {
                assert!(takes(&observed, &format!(r#"{{"p":{value}}}"#)), "{value}: {}", observed.declaration);
            }
        }
    }

    #[test]
    fn what_is_proposed_is_within_the_bounds_of_schemas() {
        let long = |n: usize| format!("{n:0>80}");
        let values = || (0..12).map(|n| "v".repeat(80 + n)).collect();
        let rows = |n: usize| match n % 3 {
            0 => ObservedRow { decimals: 500, whole: 500, values: values(), ..row(0, &long(n), 500) },
            1 => ObservedRow { booleans: 500, values: values(), ..row(0, &long(n), 500) },
            _ => ObservedRow { values: values(), ..row(0, &long(n), 500) },
        };
        let observed =
            proposed("order", [row(2, "", 500), row(0, "", 3)].into_iter().chain((0..198).map(rows)).collect());
        let event: Map<String, Value> =
            (0..198).map(|n| (long(n), json!(if n % 3 == 1 { "true" } else { "7" }))).collect();
        assert!(takes(&observed, &Value::Object(event).to_string()));
        assert_eq!(observed.declaration["coerce"].as_array().unwrap().len(), MOST_COERCED);
    }
}
