//! Recognises bodies and events of other shapes, to suggest what was probably meant.

use crate::property::{Property, PropertyValue};

/// Names that other APIs have for `events`.
const BATCH_NAMES: [&str; 15] = [
    "batch",
    "data",
    "records",
    "messages",
    "items",
    "event",
    "Events",
    "EVENTS",
    "eventList",
    "event_list",
    "payload",
    "logs",
    "rows",
    "list",
    "resourceLogs",
];

/// Names that other APIs, and people, have for `eventType`, the surest first.
const TYPE_NAMES: [&str; 8] = ["event", "event_name", "eventName", "type", "name", "action", "kind", "e"];

/// Fields of an event that mean nothing beside `events`.
pub(crate) const EVENT_FIELDS: [&str; 11] = [
    "context",
    "properties",
    "userId",
    "user_id",
    "anonymousId",
    "anonymous_id",
    "sessionId",
    "session_id",
    "eventId",
    "event_id",
    "timestamp",
];

/// One of [`EVENT_FIELDS`].
pub(crate) fn event_field(name: &str) -> Option<&'static str> {
    EVENT_FIELDS.into_iter().find(|known| *known == name)
}

/// Whether a field of this name, which holds an array, may hold events.
pub(crate) fn batch_name(name: &str) -> Option<&'static str> {
    BATCH_NAMES.into_iter().find(|known| *known == name)
}

/// Whether a JSON text holds an object or an array as JSON.
pub(crate) fn holds_json(text: &str) -> bool {
    serde_json::from_str::<String>(text).is_ok_and(|inner| inner.trim_start().starts_with(['{', '[']))
}

/// Whether this is what a web form sends: `name=value&…`.
pub(crate) fn is_form(text: &str) -> bool {
    let name = text.trim_start().split('=').next().unwrap_or_default();
    let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.%+[]$".contains(&byte);
    name.len() < text.trim_start().len() && !name.is_empty() && name.bytes().all(is_in_name)
}

/// What an event without `eventType` may have meant, as the end of a sentence.
pub(crate) fn meant_type(properties: &[Property<'_>]) -> String {
    let has = |name: &str| properties.iter().any(|property| property.name == name);
    if has("specversion") && has("type") {
        return "; this is a CloudEvent: send its `type` as `eventType`, `id` as `eventId`, `time` as `timestamp`, `data` as `properties`"
            .to_owned();
    }
    if let Some(hint) = properties.iter().find_map(|property| misplaced(&property.name)) {
        return hint;
    }
    let is_text = |name: &&str| {
        properties
            .iter()
            .any(|p| p.name == *name && matches!(&p.value, PropertyValue::Text(text) if !text.starts_with(['[', '{'])))
    };
    if let Some(name) = TYPE_NAMES.into_iter().find(is_text) {
        let ids = [("messageId", "eventId"), ("insert_id", "eventId"), ("distinct_id", "userId")];
        let others: String = ids
            .into_iter()
            .filter(|(theirs, _)| has(theirs))
            .map(|(theirs, ours)| format!(", and `{theirs}` as `{ours}`"))
            .collect();
        return format!("; you sent `{name}`: did you mean `eventType`? Send it as `eventType`{others}");
    }
    let batch = BATCH_NAMES.into_iter().chain(["events"]).find(|name| {
        properties
            .iter()
            .any(|p| p.name == *name && matches!(&p.value, PropertyValue::Text(text) if text.starts_with("[{")))
    });
    match batch {
        Some(name) => format!(
            "; you sent an array in `{name}`: a batch is {{\"events\": […]}} or an array, as one value of `application/json`, and not within another"
        ),
        None => String::new(),
    }
}

/// `eventType` in another place or spelling.
fn misplaced(name: &str) -> Option<String> {
    let last = name.rsplit('.').next().unwrap_or_default();
    if !last.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).eq(*b"eventtype") {
        return None;
    }
    let is_ours = last == "eventType" || last == "event_type";
    Some(if name.contains('.') {
        format!("; you sent `{name}`: the fields of an event stand at its top level")
    } else if is_ours {
        format!("; you sent `{name}` within `properties`: it stands at the top level")
    } else {
        format!("; you sent `{name}`: did you mean `eventType`?")
    })
}
