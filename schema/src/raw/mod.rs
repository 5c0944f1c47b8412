//! One event as received: parsed, not validated.
//!
//! Reading never stops at a field of the wrong type: the rest is read and the first fault is reported, with the field's
//! name. Texts are borrowed from the body wherever JSON has no escape in them.
//!
//! Numbers are read as serde hands them over, which is fastest, and loses digits of integers beyond 64 bits. An event with a
//! number that large is read once more, with every number as the text it is (`Numbers::AsWritten`).
//!
//! Of two values for one name one counts, by one rule:
//! * a field of the event: `camelCase` before `snake_case`, else the last; `null` is as good as absent;
//! * a property: of `properties` before a top-level field before the context; then the one that is nested less
//!   (`"a.b": 1` before `"a": {"b": 1}`), else the last.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{MAX_EVENT_BYTES, MAX_PROPERTIES};
use crate::number::{self, MAYBE_LONG};
use crate::property::{Place, Sent};
pub use crate::property::{Property, PropertyValue};
use crate::rejection::Rejection;
use crate::shape;
pub use crate::time::RawTime;

mod exact;
mod flatten;
mod scalar;
mod slot;

use flatten::Flatten;
pub(crate) use scalar::{Name, Scalar};
pub(crate) use slot::Slot;

impl<'a> RawTime<'a> {
    /// A JSON value as a time; `null` is none.
    pub fn of_json(value: &'a RawValue) -> Option<Self> {
        exact::scalar(value).into_time()
    }
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
    /// `properties`, flattened, and with them unknown top-level fields and unknown entries of the context (`context.…`). Of
    /// several with one name the last counts.
    pub properties: Vec<Property<'a>>,
    /// Names of objects, after flattening, that came to no property.
    pub empty_objects: Vec<Cow<'a, str>>,
    /// Names of properties, after flattening, that are `null`; those of the context are left out, and those beyond as many as properties may be:
    /// of them a schema alone is told, and nothing is kept.
    pub nulls: Vec<Cow<'a, str>>,
    /// Fields of the event and its context that were given two different values.
    pub collisions: Vec<&'static str>,
    /// Whether something of its text was replaced before it was read; the caller says so.
    pub is_repaired: bool,
}

/// Reads one event.
pub fn read(text: &str) -> Result<RawEvent<'_>, Rejection> {
    if text.len() > MAX_EVENT_BYTES {
        return Err(Rejection::TooLarge { found: text.len() });
    }
    match text.trim_start().as_bytes().first() {
        Some(b'{') => {}
        Some(b'[') => return Err(Rejection::ArrayOfEvents),
        Some(b'"') if shape::holds_json(text) => return Err(Rejection::DoubleEncoded),
        _ => return Err(Rejection::NotAnObject),
    }
    let mut reader = Reader::of(Numbers::AsRead);
    let mut read = reader.read(text);
    if reader.saw_long_number || read.as_ref().is_err_and(is_out_of_range) {
        reader = Reader::of(Numbers::AsWritten);
        read = reader.read(text);
    }
    match (read, reader.fault.take()) {
        (_, Some(fault)) => Err(fault),
        // The parser's own limit, far beyond ours.
        (Err(error), None) if error.to_string().starts_with("recursion limit") => Err(Rejection::TooDeep),
        (Err(error), None) => Err(Rejection::Unreadable(error.to_string())),
        (Ok(()), None) => Ok(reader.finish()),
    }
}

/// Reads the event that a text begins with, in one go, and tells its length. `None` where [`read`] has more to do, or something to refuse.
/// No more than an event may have is looked at: a longer one, of which every part would be built, is refused by its length.
pub(crate) fn read_first(text: &str) -> Option<(RawEvent<'_>, usize)> {
    if !text.starts_with('{') {
        return None;
    }
    let longest = text.get(..text.floor_char_boundary(MAX_EVENT_BYTES + 1))?;
    let mut values = serde_json::Deserializer::from_str(longest).into_iter::<Reader<'_>>();
    let reader = values.next()?.ok()?;
    let is_read = reader.fault.is_none() && !reader.saw_long_number;
    is_read.then(|| (reader.finish(), values.byte_offset()))
}

/// Whether a number is beyond doubles. `serde_json` has no kind for that.
fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

/// How numbers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// As `i64`, `u64` or, what fits neither, `f64`.
    AsRead,
    /// As the text they are.
    AsWritten,
}

/// Whether a field takes a number for a text.
#[derive(Clone, Copy)]
enum Ids {
    /// Many senders hold them as numbers.
    MayBeNumbers,
    Texts,
}

/// The event so far and the first thing that was wrong with it.
struct Reader<'a> {
    numbers: Numbers,
    /// A number may have had more digits than serde handed over.
    saw_long_number: bool,
    fields: slot::Fields<'a>,
    properties: Vec<Property<'a>>,
    /// Of each property: a greater one counts before a smaller one. In place, because every event has them.
    ranks: [u8; MAX_PROPERTIES],
    /// Names of objects, after flattening, that came to no property.
    empty_objects: Vec<Cow<'a, str>>,
    nulls: Vec<Cow<'a, str>>,
    fault: Option<Rejection>,
}

impl<'a> Reader<'a> {
    fn of(numbers: Numbers) -> Self {
        Self {
            numbers,
            saw_long_number: false,
            fields: slot::Fields::default(),
            properties: Vec::with_capacity(8),
            ranks: [0; MAX_PROPERTIES],
            empty_objects: Vec::new(),
            nulls: Vec::new(),
            fault: None,
        }
    }

    fn read(&mut self, text: &'a str) -> Result<(), serde_json::Error> {
        serde_json::Deserializer::from_str(text).deserialize_map(TopLevel(self))
    }

    fn fault(&mut self, rejection: Rejection) {
        self.fault.get_or_insert(rejection);
    }

    /// A text, or a number as text where ids may be numbers.
    fn text(&mut self, field: &'static str, value: Scalar<'a>, ids: Ids) -> Option<Cow<'a, str>> {
        match (value, ids) {
            (Scalar::Text(text), _) => Some(text),
            (Scalar::Null, _) => None,
            (Scalar::Integer(number), Ids::MayBeNumbers) => Some(number.to_string().into()),
            (Scalar::Digits(text), Ids::MayBeNumbers) => Some(text),
            (value, _) => {
                if let Scalar::Float(number) = value {
                    self.look_at(number);
                }
                self.fault(Rejection::WrongType { field, expected: "a string" });
                None
            }
        }
    }

    fn look_at(&mut self, number: f64) {
        self.saw_long_number |= number.abs() >= MAYBE_LONG;
    }

    fn scalar<A: MapAccess<'a>>(&self, map: &mut A) -> Result<Scalar<'a>, A::Error> {
        match self.numbers {
            Numbers::AsRead => map.next_value(),
            Numbers::AsWritten => map.next_value::<&'a RawValue>().map(exact::scalar),
        }
    }

    /// Puts properties in the order in which the last of a name counts.
    fn finish(self) -> RawEvent<'a> {
        let Self { fields, mut properties, ranks, empty_objects, nulls, .. } = self;
        if ranks.get(..properties.len()).is_some_and(|ranks| !ranks.is_sorted()) {
            let mut ranked: Vec<_> = ranks.into_iter().zip(properties).collect();
            ranked.sort_by_key(|(rank, _)| *rank);
            properties = ranked.into_iter().map(|(_, property)| property).collect();
        }
        RawEvent { properties, empty_objects, nulls, ..fields.finish() }
    }

    fn add(&mut self, sent: Sent, depth: usize, name: Cow<'a, str>, value: PropertyValue<'a>) {
        if sent.place == Place::Context
            && let Some(field) = self.fields.of_context(&name)
        {
            let text = match value {
                PropertyValue::Text(text) => text,
                // As in other dimensions: one number is one value.
                PropertyValue::Number(number) => number::canonical(number).into(),
            };
            return field.put(Some(text), &name);
        }
        let Some(rank) = self.ranks.get_mut(self.properties.len()) else {
            return self.fault(Rejection::TooManyProperties);
        };
        *rank = sent.place.rank(depth);
        self.properties.push(Property { name, value, sent });
    }
}

impl<'de> Deserialize<'de> for Reader<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut reader = Self::of(Numbers::AsRead);
        deserializer.deserialize_map(TopLevel(&mut reader))?;
        Ok(reader)
    }
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
                    let value = reader.scalar(&mut map)?;
                    let id = reader.text("eventId", value, Ids::Texts);
                    reader.fields.event_id.put(id, &key);
                }
                "eventType" | "event_type" => {
                    let value = reader.scalar(&mut map)?;
                    let name = reader.text("eventType", value, Ids::Texts);
                    reader.fields.event_type.put(name, &key);
                }
                "userId" | "user_id" => {
                    let value = reader.scalar(&mut map)?;
                    let id = reader.text("userId", value, Ids::MayBeNumbers);
                    reader.fields.user_id.put(id, &key);
                }
                "anonymousId" | "anonymous_id" => {
                    let value = reader.scalar(&mut map)?;
                    let id = reader.text("anonymousId", value, Ids::MayBeNumbers);
                    reader.fields.anonymous_id.put(id, &key);
                }
                "sessionId" | "session_id" => {
                    let value = reader.scalar(&mut map)?;
                    let id = reader.text("sessionId", value, Ids::MayBeNumbers);
                    reader.fields.session_id.put(id, &key);
                }
                "timestamp" => reader.fields.timestamp.put(reader.scalar(&mut map)?.into_time(), &key),
                "sentAt" | "sent_at" => reader.fields.sent_at.put(reader.scalar(&mut map)?.into_time(), &key),
                "properties" => map.next_value_seed(Flatten::root(reader, Place::Properties))?,
                "context" => map.next_value_seed(Flatten::root(reader, Place::Context))?,
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
        assert_eq!(camel.unwrap().sent_at, Some(RawTime::Integer(5)));
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
            ("context.page.title", text("T")),
            ("context.app.version", text("1.2")),
            ("colour", text("red")),
            ("a.c.d", text("x")),
            ("a.b", PropertyValue::Number(1.0)),
            ("t", text(r#"[1,"2"]"#)),
            ("f", text("true")),
        ];
        assert_eq!(names, expected);
        assert_eq!((event.context.country.as_deref(), event.context.page.as_deref()), (Some("DE"), Some("/p")));
    }

    #[test]
    fn a_number_where_the_context_takes_a_text_is_that_text() {
        let event = read(r#"{"context":{"country":49.0,"device":{"type":7},"page":12345678901234567890123}}"#).unwrap();
        let context = event.context;
        assert_eq!((context.country.as_deref(), context.device.as_deref()), (Some("49"), Some("7")));
        assert_eq!(context.page.as_deref(), Some("12345678901234567890123"));
        assert_eq!(event.properties, []);
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
    fn no_more_nulls_are_kept_than_properties() {
        let many: Vec<String> = (0..=MAX_PROPERTIES).map(|i| format!(r#""p{i}":null"#)).collect();
        let event = format!(r#"{{"eventType":"a","properties":{{{}}}}}"#, many.join(","));
        assert_eq!(read(&event).unwrap().nulls.len(), MAX_PROPERTIES);
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
        assert_eq!(fault(&nested("[", "]", 10_000)), Rejection::TooDeep);
        assert_eq!(fault(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES))).code(), "event_too_large");
        let many: Vec<String> = (0..=MAX_PROPERTIES).map(|i| format!(r#""p{i}":1"#)).collect();
        assert_eq!(fault(&format!("{{{}}}", many.join(","))), Rejection::TooManyProperties);
    }

    #[test]
    fn values_that_no_event_can_hold() {
        assert_eq!(fault(r#"{"a":"\ud800"}"#).code(), "unreadable");
        assert_eq!(fault("1"), Rejection::NotAnObject);
        assert_eq!(fault("[1]"), Rejection::ArrayOfEvents);
        assert_eq!(fault(r#""{\"eventType\":\"a\"}""#), Rejection::DoubleEncoded);
    }

    fn properties(text: &str) -> Vec<(String, PropertyValue<'_>)> {
        read(text).unwrap().properties.into_iter().map(|p| (p.name.into_owned(), p.value)).collect()
    }

    #[test]
    fn digits_are_kept_wherever_a_number_stands() {
        for digits in ["9007199254740993", "-9007199254740993", "18446744073709551617", "-9223372036854775809"] {
            for (text, name) in [
                (r#"{"eventType":"a","properties":{"n":#}}"#, "n"),
                (r#"{"eventType":"a","properties":{"a":{"n":#}}}"#, "a.n"),
                (r#"{"eventType":"a","n":#}"#, "n"),
                (r#"{"eventType":"a","a":{"n":#}}"#, "a.n"),
                (r#"{"eventType":"a","context":{"n":#}}"#, "context.n"),
                (r#"{"eventType":"a","context":{"app":{"build":#}}}"#, "context.app.build"),
            ] {
                let text = text.replace('#', digits);
                let expected = vec![(name.to_owned(), PropertyValue::Text(digits.into()))];
                assert_eq!(properties(&text), expected, "{text}");
            }
            let array = format!(r#"{{"eventType":"a","p":[ {digits} , {{"b": [{digits}], "a": "x y"}}]}}"#);
            let expected = format!(r#"[{digits},{{"a":"x y","b":[{digits}]}}]"#);
            assert_eq!(properties(&array), [("p".to_owned(), PropertyValue::Text(expected.into()))]);
            let user = format!(r#"{{"eventType":"a","userId":{digits}}}"#);
            assert_eq!(read(&user).unwrap().user_id.as_deref(), Some(digits));
        }
        assert_eq!(
            properties(r#"{"a":1e999,"b":1e21}"#),
            [("a".to_owned(), PropertyValue::Text("1e999".into())), ("b".to_owned(), PropertyValue::Number(1e21))]
        );
    }

    #[test]
    fn reading_with_every_number_as_written_is_the_same_but_for_long_ones() {
        let event = r#"{"eventType":"a","event_id":"\u0041","userId":7,"timestamp":1.5,"sentAt":null,"big":1e30,"n":null,"t":true,
            "properties":{"a":{"b":-0,"c":"\u00e4","d":[1,2.5,{"z":1,"y":null}]},"e":-12},"context":{"country":"DE","x":{"y":5}}}"#;
        let short = event.replace("1e30", "1");
        let as_read = read(&short).unwrap();
        let as_written = read(event).unwrap();
        let but_big = |event: &RawEvent<'_>| {
            let kept = event.properties.iter().filter(|p| p.name != "big");
            kept.map(|p| (p.name.clone().into_owned(), format!("{:?}", p.value))).collect::<Vec<_>>()
        };
        assert_eq!(but_big(&as_read), but_big(&as_written));
        assert_eq!(RawEvent { properties: vec![], ..as_read }, RawEvent { properties: vec![], ..as_written });
        assert_eq!(
            fault(r#"{"a":1e30,"properties":{"p":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}}}}"#),
            Rejection::TooDeep
        );
        assert_eq!(fault(r#"{"a":1e30,"p":[[[[[[[[[[[1]]]]]]]]]]]}"#), Rejection::TooDeep);
        assert_eq!(fault(r#"{"a":1e30,"eventId":{}}"#).code(), "wrong_type");
        assert_eq!(fault(r#"{"a":1e30,"properties":1}"#).code(), "wrong_type");
    }

    /// The value that counts.
    fn counted<'a>(text: &'a str, name: &str) -> Option<PropertyValue<'a>> {
        read(text).unwrap().properties.into_iter().rfind(|p| p.name == name).map(|p| p.value)
    }

    #[test]
    fn of_several_values_for_a_property_one_rule_tells_which_counts() {
        for (text, name, expected) in [
            (r#"{"amount":1,"properties":{"amount":2}}"#, "amount", 2.0),
            (r#"{"properties":{"amount":2},"amount":1}"#, "amount", 2.0),
            (r#"{"properties":{"a":1,"a":2}}"#, "a", 2.0),
            (r#"{"a":1,"a":2}"#, "a", 2.0),
            (r#"{"properties":{"a":{"b":1},"a.b":2}}"#, "a.b", 2.0),
            (r#"{"properties":{"a.b":2,"a":{"b":1}}}"#, "a.b", 2.0),
            (r#"{"properties":{"a":1},"properties":{"a":2}}"#, "a", 2.0),
            (r#"{"context":{"app":{"v":1}},"properties":{"context":{"app":{"v":2}}}}"#, "context.app.v", 2.0),
            (r#"{"properties":{"context.app.v":2},"context":{"app.v":1}}"#, "context.app.v", 2.0),
            (r#"{"context.app":2,"context":{"app":1}}"#, "context.app", 2.0),
            (r#"{"properties":{"Country":1,"country":2}}"#, "Country", 1.0),
        ] {
            assert_eq!(counted(text, name), Some(PropertyValue::Number(expected)), "{text}");
        }
    }

    #[test]
    fn the_context_is_the_context_and_properties_are_properties() {
        for text in [
            r#"{"context":{"country":"DE"},"properties":{"context":{"country":"checkout"}}}"#,
            r#"{"properties":{"context.country":"checkout"},"context":{"country":"DE"}}"#,
        ] {
            assert_eq!(read(text).unwrap().context.country.as_deref(), Some("DE"), "{text}");
            assert_eq!(counted(text, "context.country"), Some(PropertyValue::Text("checkout".into())), "{text}");
        }
        let other =
            read(r#"{"context.country":"x","properties":{"eventType":"y","userId":1},"eventType":"a"}"#).unwrap();
        assert_eq!((other.context.country, other.event_type.as_deref()), (None, Some("a")));
        assert_eq!(other.properties.len(), 3);
    }

    #[test]
    fn of_several_values_for_a_field_the_last_counts_and_camel_case_before_snake_case() {
        for (text, collides) in [
            (r#"{"eventId":"1","eventId":"2","timestamp":1,"timestamp":2}"#, true),
            (r#"{"eventId":"2","event_id":"1","timestamp":2}"#, true),
            (r#"{"event_id":"1","eventId":"2","timestamp":2}"#, true),
            (r#"{"eventId":"2","event_id":null,"timestamp":2,"timestamp":null}"#, false),
            (r#"{"event_id":"2","eventId":null,"timestamp":2}"#, false),
            (r#"{"eventId":"2","eventId":"2","timestamp":2}"#, false),
        ] {
            let event = read(text).unwrap();
            assert_eq!((event.event_id.as_deref(), event.timestamp), (Some("2"), Some(RawTime::Integer(2))), "{text}");
            assert_eq!(event.collisions.contains(&"eventId"), collides, "{text}");
        }
        let context =
            read(r#"{"context":{"user_agent":"b","userAgent":"a","device":{"type":"tv"},"device.type":"tablet"}}"#);
        let context = context.unwrap();
        assert_eq!(context.collisions, ["context.userAgent", "context.device"]);
        assert_eq!(context.context.user_agent.as_deref(), Some("a"));
    }
}
