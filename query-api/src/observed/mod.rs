//! Proposes a declaration from stored events: `GET /v1/schemas/{type}/observed`.
//!
//! A bounded sample of the last days is looked at, in the class of raw events and within its deadline. What is proposed fits every event of the
//! sample, and begins in the mode `report`: what did not happen in the sample may still be right.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::sql::{self, ObservedRow};
use crate::store::{AdmissionRequest, Class, ReadError, Store};

/// Events that a property has to be in to be an enumeration, for each of its values.
const EVENTS_A_VALUE: u64 = 20;

/// Events of a sample in which a property has always been there before it is proposed as required.
const ENOUGH: u64 = 20;

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
    // What is said of the context is not for a schema of properties.
    properties.retain(|name, _| !name.starts_with("context."));
    let (mut schemas, mut required, mut coerce) = (Map::new(), Vec::new(), Vec::new());
    for (name, property) in properties {
        let seen = property.events();
        let is_always = seen == events && events >= ENOUGH;
        if is_always {
            required.push(Value::from(name.as_str()));
        }
        let (mut schema, is_coerced) = property.schema();
        let share = if events == 0 { 0.0 } else { (seen as f64 / events as f64 * 1_000.0).round() / 1_000.0 };
        schema.insert("x-observed".to_owned(), property.observed(share));
        if is_coerced {
            coerce.push(Value::from(name.as_str()));
        }
        schemas.insert(name, Value::Object(schema));
    }
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

impl Property {
    /// Events that have it. An event has it once: as text or as a number.
    fn events(&self) -> u64 {
        [&self.texts, &self.numbers].into_iter().flatten().map(|row| row.events).sum()
    }

    /// Its schema, and whether texts are to be read as what it says.
    fn schema(&self) -> (Map<String, Value>, bool) {
        let mut schema = Map::new();
        let is_coerced = match (&self.texts, &self.numbers) {
            (Some(texts), numbers) if texts.decimals == texts.events => {
                let is_whole = numbers.as_ref().is_none_or(|numbers| numbers.whole == numbers.events)
                    && texts.values.iter().all(|text| !text.contains('.'));
                schema.insert("type".to_owned(), json!(if is_whole { "integer" } else { "number" }));
                true
            }
            (Some(texts), None) => {
                of_texts(texts, &mut schema);
                false
            }
            (None, Some(numbers)) => {
                let is_whole = numbers.whole == numbers.events;
                schema.insert("type".to_owned(), json!(if is_whole { "integer" } else { "number" }));
                if numbers.least >= 0.0 {
                    schema.insert("minimum".to_owned(), json!(0));
                }
                false
            }
            (Some(texts), Some(_)) => {
                of_texts(texts, &mut schema);
                let kind = schema.get("type").cloned().unwrap_or_else(|| json!("string"));
                schema = Map::from_iter([("type".to_owned(), json!([kind, "number"]))]);
                false
            }
            (None, None) => false,
        };
        (schema, is_coerced)
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

fn of_texts(texts: &ObservedRow, schema: &mut Map<String, Value>) {
    let are_all = |count: u64| count == texts.events;
    let kind = if are_all(texts.booleans) {
        "boolean"
    } else if are_all(texts.arrays) {
        "array"
    } else {
        "string"
    };
    schema.insert("type".to_owned(), json!(kind));
    if kind != "string" {
        return;
    }
    let formats = [("date-time", texts.times), ("date", texts.dates), ("uuid", texts.uuids)];
    if let Some((format, _)) = formats.into_iter().find(|(_, count)| are_all(*count)) {
        schema.insert("format".to_owned(), json!(format));
    } else if texts.values.len() <= sql::MOST_VALUES && texts.events >= EVENTS_A_VALUE * texts.values.len() as u64 {
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
        assert_eq!((property("tax"), &observed.declaration["coerce"]), (json!({"type": "number"}), &json!(["tax"])));
        assert_eq!(property("mixed"), json!({"type": ["string", "number"]}));
        assert_eq!(observed.declaration["schema"]["required"], json!(["channel", "items"]));
        let declaration = EventTypeDeclaration::read(&observed.declaration.to_string()).unwrap();
        assert!(EventType::declared(&declaration).is_ok() && !observed.is_cut);
    }
}
