//! One event as received: read, but not yet believed.
//!
//! Reading never stops at a field of the wrong type: the rest is read and the first fault is reported, with the field's
//! name. Texts are borrowed from the body wherever JSON has no escape in them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};

use crate::limits::{MAX_EVENT_BYTES, MAX_PROPERTIES};
use crate::rejection::Rejection;

mod flatten;
mod scalar;

use flatten::Flatten;
pub(crate) use scalar::{Name, Scalar};

/// A time as received.
#[derive(Debug, Clone, PartialEq)]
pub enum RawTime<'a> {
    /// Milliseconds since 1970.
    Millis(i64),
    /// A text, which should be RFC 3339.
    Text(Cow<'a, str>),
    /// Anything else.
    Other,
}

/// A property's value.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue<'a> {
    /// A text; booleans and arrays are kept as the JSON they were.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
}

/// A property after flattening: `{"a":{"b":1}}` is `a.b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Property<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: PropertyValue<'a>,
}

/// What an event may say about where it comes from.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct RawContext<'a> {
    pub ip: Option<Cow<'a, str>>,
    pub user_agent: Option<Cow<'a, str>>,
    pub country: Option<Cow<'a, str>>,
    pub device: Option<Cow<'a, str>>,
    pub locale: Option<Cow<'a, str>>,
    pub page: Option<Cow<'a, str>>,
}

/// One event as received.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct RawEvent<'a> {
    pub event_id: Option<Cow<'a, str>>,
    pub event_type: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, str>>,
    pub anonymous_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    pub timestamp: Option<RawTime<'a>>,
    pub sent_at: Option<RawTime<'a>>,
    pub context: RawContext<'a>,
    /// `properties`, flattened, and with them unknown top-level fields and unknown entries of the context (`context.…`).
    pub properties: Vec<Property<'a>>,
    /// Names of objects, after flattening, that came to no property.
    pub empty_objects: Vec<Cow<'a, str>>,
}

/// Reads one event.
pub fn read(text: &str) -> Result<RawEvent<'_>, Rejection> {
    if text.len() > MAX_EVENT_BYTES {
        return Err(Rejection::TooLarge { found: text.len() });
    }
    if !text.trim_start().starts_with('{') {
        return Err(Rejection::NotAnObject);
    }
    let mut reader = Reader::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(TopLevel(&mut reader));
    match (read, reader.fault.take()) {
        (_, Some(fault)) => Err(fault),
        (Err(error), None) => Err(Rejection::Unreadable(error.to_string())),
        (Ok(()), None) => Ok(reader.finish()),
    }
}

/// The event so far and the first thing that was wrong with it.
#[derive(Default)]
struct Reader<'a> {
    event: RawEvent<'a>,
    fault: Option<Rejection>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, rejection: Rejection) {
        self.fault.get_or_insert(rejection);
    }

    /// A text, or a number as text where `numbers` are ids that many senders hold as numbers.
    fn text(&mut self, field: &'static str, value: Scalar<'a>, numbers: Numbers) -> Option<Cow<'a, str>> {
        match (value, numbers) {
            (Scalar::Text(text), _) => Some(text),
            (Scalar::Null, _) => None,
            (Scalar::Integer(number), Numbers::AsText) => Some(number.to_string().into()),
            _ => {
                self.fault(Rejection::WrongType { field, expected: "a string" });
                None
            }
        }
    }

    /// Takes the known entries of the context out of the properties, among which they were flattened.
    fn finish(self) -> RawEvent<'a> {
        let mut event = self.event;
        let context = &mut event.context;
        event.properties.retain_mut(|property| {
            let Some(entry) = property.name.strip_prefix("context.") else { return true };
            let slot = match entry {
                "ip" => &mut context.ip,
                "userAgent" | "user_agent" => &mut context.user_agent,
                "country" => &mut context.country,
                "device" | "device.type" => &mut context.device,
                "locale" => &mut context.locale,
                "page" | "page.path" => &mut context.page,
                _ => return true,
            };
            match &mut property.value {
                PropertyValue::Text(text) => *slot = Some(std::mem::take(text)),
                PropertyValue::Number(_) => return true,
            }
            false
        });
        event
    }

    fn add(&mut self, name: Cow<'a, str>, value: PropertyValue<'a>) {
        if self.event.properties.len() == MAX_PROPERTIES {
            self.fault(Rejection::TooManyProperties);
        } else {
            self.event.properties.push(Property { name, value });
        }
    }
}

#[derive(Clone, Copy)]
enum Numbers {
    AsText,
    Refused,
}

struct TopLevel<'r, 'a>(&'r mut Reader<'a>);

impl<'de> Visitor<'de> for TopLevel<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        while let Some(Name(key)) = map.next_key()? {
            match &*key {
                "eventId" | "event_id" => {
                    reader.event.event_id = reader.text("eventId", map.next_value()?, Numbers::Refused);
                }
                "eventType" | "event_type" => {
                    reader.event.event_type = reader.text("eventType", map.next_value()?, Numbers::Refused);
                }
                "userId" | "user_id" => {
                    reader.event.user_id = reader.text("userId", map.next_value()?, Numbers::AsText);
                }
                "anonymousId" | "anonymous_id" => {
                    reader.event.anonymous_id = reader.text("anonymousId", map.next_value()?, Numbers::AsText);
                }
                "sessionId" | "session_id" => {
                    reader.event.session_id = reader.text("sessionId", map.next_value()?, Numbers::AsText);
                }
                "timestamp" => reader.event.timestamp = map.next_value::<Scalar<'de>>()?.into_time(),
                "sentAt" | "sent_at" => reader.event.sent_at = map.next_value::<Scalar<'de>>()?.into_time(),
                "properties" => map.next_value_seed(Flatten::root(reader, "properties", ""))?,
                "context" => map.next_value_seed(Flatten::root(reader, "context", "context"))?,
                _ => map.next_value_seed(Flatten::field(reader, key))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Rejection {
        read(text).unwrap_err()
    }

    #[test]
    fn both_spellings_and_numbers_as_user_ids() {
        let camel = read(r#"{"eventId":"1","eventType":"a","userId":7,"anonymousId":"x","sessionId":"s","sentAt":5}"#);
        let snake =
            read(r#"{"event_id":"1","event_type":"a","user_id":"7","anonymous_id":"x","session_id":"s","sent_at":5}"#);
        assert_eq!(camel, snake);
        assert_eq!(camel.unwrap().sent_at, Some(RawTime::Millis(5)));
    }

    #[test]
    fn properties_are_flattened_and_unknown_fields_join_them() {
        let event = read(
            r#"{"eventType":"a","colour":"red","properties":{"a":{"b":1,"c":{"d":"x"}},"t":[1,"2"],"n":null,"f":true},
                "context":{"country":"DE","page":{"path":"/p","title":"T"},"app":{"version":"1.2"}}}"#,
        )
        .unwrap();
        let names: Vec<_> = event.properties.iter().map(|p| (&*p.name, p.value.clone())).collect();
        let text = |t: &'static str| PropertyValue::Text(t.into());
        let expected = [
            ("colour", text("red")),
            ("a.b", PropertyValue::Number(1.0)),
            ("a.c.d", text("x")),
            ("t", text(r#"[1,"2"]"#)),
            ("f", text("true")),
            ("context.page.title", text("T")),
            ("context.app.version", text("1.2")),
        ];
        assert_eq!(names, expected);
        assert_eq!((event.context.country.as_deref(), event.context.page.as_deref()), (Some("DE"), Some("/p")));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (text, field) in [
            (r#"{"eventType":5}"#, "eventType"),
            (r#"{"eventId":{}}"#, "eventId"),
            (r#"{"userId":["a"]}"#, "userId"),
            (r#"{"userId":1.5}"#, "userId"),
            (r#"{"properties":"x"}"#, "properties"),
            (r#"{"properties":[1]}"#, "properties"),
            (r#"{"context":true}"#, "context"),
        ] {
            let fault = fault(text);
            assert_eq!((fault.code(), fault.field()), ("wrong_type", Some(field)), "{text}");
        }
    }

    #[test]
    fn nesting_size_and_number_of_properties_are_bounded() {
        let nested = |open: &str, close: &str, levels: usize| {
            format!(r#"{{"eventType":"a","properties":{{"p":{}1{}}}}}"#, open.repeat(levels), close.repeat(levels))
        };
        assert!(read(&nested(r#"{"a":"#, "}", 9)).is_ok());
        assert_eq!(fault(&nested(r#"{"a":"#, "}", 10)), Rejection::TooDeep);
        assert!(read(&nested("[", "]", 9)).is_ok());
        assert_eq!(fault(&nested("[", "]", 10)), Rejection::TooDeep);
        assert_eq!(fault(&nested("[", "]", 10_000)).code(), "unreadable");
        assert_eq!(fault(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES))).code(), "event_too_large");
        let many: Vec<String> = (0..=MAX_PROPERTIES).map(|i| format!(r#""p{i}":1"#)).collect();
        assert_eq!(fault(&format!("{{{}}}", many.join(","))), Rejection::TooManyProperties);
    }

    #[test]
    fn values_that_no_event_can_hold() {
        for text in [r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#] {
            assert_eq!(fault(text).code(), "unreadable", "{text}");
        }
        assert_eq!(fault("[1]"), Rejection::NotAnObject);
    }
}
