//! Makes dead letters of refused rows.
//!
//! A dead letter's id is the batch's token and the row's number in it, so that whoever repeats the batch knows from the dead letters which of
//! its rows are refused, and writes none twice. Its payload is the event as the API takes it, made from the row: what normalisation
//! changed stays changed, and `tallyhouse dlq replay` can send it again.

use serde_json::{Map, Value as Json, json};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::native::{Rows, Value};

use super::search::Cause;
use crate::dead_letters::{DeadLetter, DeadLetterState, Kind, Origin, cut};

/// The code of these dead letters.
pub const CODE: &str = "refused_by_store";

/// What the ids of a batch's dead letters begin with.
pub fn prefix(token: &str) -> String {
    format!("{token}-")
}

/// A row's dead letter.
pub fn dead_letter(token: &str, topic: &str, rows: &Rows, row: usize, cause: &Cause) -> DeadLetter {
    let now = now_ms();
    let origin = Origin {
        topic: topic.to_owned(),
        partition: integer(rows, "source_partition", row).and_then(|n| n.try_into().ok()).unwrap_or(-1),
        offset: integer(rows, "source_offset", row).unwrap_or(-1),
        key_id: String::new(),
    };
    DeadLetter {
        project: text(rows, "project_id", row),
        id: format!("{}{row}", prefix(token)),
        kind: Kind::Json,
        code: CODE.to_owned(),
        reason: cause.reason.clone(),
        payload: cut(payload(rows, row).to_string().as_bytes()),
        event_id: text(rows, "event_id", row),
        origin,
        received_at: integer(rows, "received_at", row).unwrap_or(now),
        failed_at: now,
        state: DeadLetterState::Open,
        updated_at: now,
    }
}

/// The event as a body of the API.
fn payload(rows: &Rows, row: usize) -> Json {
    let mut event = Map::new();
    let mut context = Map::new();
    let put = |into: &mut Map<String, Json>, name: &str, column: &str| {
        let value = text(rows, column, row);
        if !value.is_empty() {
            into.insert(name.to_owned(), value.into());
        }
    };
    for (name, column) in [
        ("eventId", "event_id"),
        ("eventType", "event_type"),
        ("userId", "user_id"),
        ("anonymousId", "anonymous_id"),
        ("sessionId", "session_id"),
    ] {
        put(&mut event, name, column);
    }
    // `os` and `browser` come from a user agent that is not kept; the API takes neither by itself.
    for name in ["country", "device", "locale", "page", "ip"] {
        put(&mut context, name, name);
    }
    event.insert("timestamp".to_owned(), integer(rows, "ts", row).into());
    let mut properties: Map<String, Json> = ["props", "num_props"]
        .into_iter()
        .flat_map(|column| match rows.value(column, row) {
            Some(Value::List(pairs)) => pairs,
            _ => Vec::new(),
        })
        .filter_map(pair)
        .collect();
    // Counted as the value although no property holds it, as of a record that another program wrote.
    if let Some(Value::Float(value)) = rows.value("value", row)
        && !properties.values().any(|property| number(property) == Some(value))
    {
        properties.insert("value".to_owned(), json!(value));
    }
    event.insert("properties".to_owned(), properties.into());
    event.insert("context".to_owned(), context.into());
    event.into()
}

fn pair(pair: Value<'_>) -> Option<(String, Json)> {
    let Value::List(pair) = pair else { return None };
    let [Value::Text(name), value] = <[Value<'_>; 2]>::try_from(pair).ok()? else { return None };
    let value = match value {
        Value::Text(text) => String::from_utf8_lossy(text).into(),
        Value::Float(number) => json!(number),
        _ => return None,
    };
    Some((String::from_utf8_lossy(name).into_owned(), value))
}

/// A number, or a text that is one: either may be the value.
fn number(property: &Json) -> Option<f64> {
    property.as_f64().or_else(|| property.as_str()?.trim().parse().ok())
}

/// A text of a row; empty when there is no such column.
pub fn text(rows: &Rows, column: &str, row: usize) -> String {
    match rows.value(column, row) {
        Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    }
}

/// A number or a time of a row.
pub fn integer(rows: &Rows, column: &str, row: usize) -> Option<i64> {
    match rows.value(column, row)? {
        Value::Integer(number) => number.try_into().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;
    use tallyhouse_schema::normalise::{Agent, Context, ProjectRules, normalise};
    use tallyhouse_schema::raw::read;
    use tallyhouse_schema::user_hash::UserHasher;

    use super::*;
    use crate::batch::Builder;

    #[test]
    fn a_dead_letter_is_the_event_as_it_can_be_sent_again() {
        let (catalogue, hasher) = (Catalogue::built_in().unwrap(), UserHasher::new([7; 16]));
        let rules = ProjectRules { project: "p".into(), late_window_days: 7, retention_days: 730, may_import: false };
        let context = Context {
            catalogue: &catalogue,
            rules: &rules,
            hasher: &hasher,
            agent: &|_| Agent::default(),
            new_id: &String::new,
            received_at: 1_700_000_001_000,
        };
        let sent = r#"{"eventId":"e","eventType":"a","userId":"u","timestamp":1700000000000,"properties":{"plan":"pro","amount":12.5},
            "context":{"country":"DE","page":"/x"}}"#;
        let mut builder = Builder::default();
        let event = normalise(read(sent).unwrap(), None, context).unwrap().event;
        builder.push("p", &event);
        builder.push("p", &event);
        let rows = Rows::read(&builder.finish().chunks).unwrap();
        let dead_letter = dead_letter("t", "", &rows, 1, &Cause { code: 469, reason: "why".into() });
        assert_eq!(
            (dead_letter.id.as_str(), dead_letter.event_id.as_str(), dead_letter.project.as_str()),
            ("t-1", "e", "p")
        );
        assert_eq!(
            (dead_letter.origin.partition, dead_letter.origin.offset, dead_letter.received_at),
            (-1, -1, 1_700_000_001_000)
        );
        let payload: Json = serde_json::from_slice(&dead_letter.payload).unwrap();
        let expected = json!({"eventId": "e", "eventType": "a", "userId": "u", "timestamp": 1_700_000_000_000_i64,
            "properties": {"plan": "pro", "amount": 12.5}, "context": {"country": "DE", "page": "/x"}});
        assert_eq!(payload, expected);
        let again =
            normalise(read(std::str::from_utf8(&dead_letter.payload).unwrap()).unwrap(), None, context).unwrap().event;
        assert_eq!((again.value, again.ts, again.user_hash), (event.value, event.ts, event.user_hash));
        // The order of a JSON object's members tells nothing.
        let (mut again, mut sent) = (again, event.clone());
        again.properties.sort_by(|a, b| a.name.cmp(&b.name));
        sent.properties.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!((again.properties, again.dims), (sent.properties, sent.dims));
    }
}
