//! Whether the person behind an event has refused to be measured.
//!
//! `context.consent.analytics` is `false`: the event is dropped before anything of it is kept, and its sender is told. Anything else, also
//! that nothing is said, is for the sender to have settled.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::property::{Place, Property, PropertyValue};
use crate::raw::RawEvent;

/// The property that `context.consent.analytics` becomes.
const FIELD: &str = "context.consent.analytics";

/// The code by which dropped events are told and counted.
pub const DROPPED: &str = "no_consent";

/// What a sender is told.
pub const DROPPED_MESSAGE: &str =
    "`context.consent.analytics` is false: the event was dropped and nothing of it is kept; do not send it again";

/// Whether consent to analytics is refused. Of several answers one that refuses is enough.
pub fn is_refused(event: &RawEvent<'_>) -> bool {
    event.properties.iter().any(is_refusal)
}

fn is_refusal(property: &Property<'_>) -> bool {
    property.sent.place == Place::Context && property.name == FIELD && refuses(&property.value)
}

/// Whether an answer is no. Booleans are kept as text. Whoever writes "false" or 0 means it.
fn refuses(answer: &PropertyValue<'_>) -> bool {
    match answer {
        PropertyValue::Text(text) => text.trim().eq_ignore_ascii_case("false"),
        PropertyValue::Number(number) => *number == 0.0,
    }
}

/// The same of an event that cannot be read as one: of what can be read of it, and where its JSON is broken, of what looks like it.
pub fn is_refused_in(text: &str) -> bool {
    // Only in refused events, so that it costs nothing else. A letter may be written as its number.
    let may_refuse =
        ["consent", "\\u"].iter().any(|part| memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some());
    if !may_refuse {
        return false;
    }
    let mut is_refused = false;
    let within = Within { path: String::new(), depth: 0, is_refused: &mut is_refused };
    let read = within.deserialize(&mut serde_json::Deserializer::from_str(text));
    is_refused || (read.is_err() && looks_refused(text))
}

/// Whether an answer that is no stands somewhere in what is no JSON.
fn looks_refused(text: &str) -> bool {
    let after = text.split("consent").skip(1).flat_map(|rest| rest.split("analytics\"").skip(1));
    after.filter_map(|rest| rest.trim_start().strip_prefix(':')).any(|rest| {
        let rest = rest.trim_start().trim_start_matches('"').trim_start();
        rest.get(..5).is_some_and(|answer| answer.eq_ignore_ascii_case("false")) || rest.starts_with('0')
    })
}

/// Looks for [`FIELD`] in the value under a path, as properties are named.
struct Within<'r> {
    path: String,
    /// The name of a field may be empty; the event itself has none.
    depth: usize,
    is_refused: &'r mut bool,
}

impl Within<'_> {
    fn answer<E>(self, answer: &PropertyValue<'_>) -> Result<(), E> {
        *self.is_refused |= self.path == FIELD && refuses(answer);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Nothing but what may lead there is read: a number that no double holds stands in nobody's way.
        let may_lead = self.path == FIELD || FIELD.strip_prefix(self.path.as_str()).is_some();
        if may_lead { deserializer.deserialize_any(self) } else { IgnoredAny::deserialize(deserializer).map(drop) }
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.answer(&PropertyValue::Text(if value { "true" } else { "false" }.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.answer(&PropertyValue::of_i64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.answer(&PropertyValue::of_u64(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.answer(&PropertyValue::of_f64(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.answer(&PropertyValue::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let path = if self.depth == 0 { key.into_owned() } else { format!("{}.{key}", self.path) };
            map.next_value_seed(Within { path, depth: self.depth + 1, is_refused: &mut *self.is_refused })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::read;

    #[test]
    fn only_a_refusal_is_one() {
        for (event, expected) in [
            (r#"{"eventType":"a","context":{"consent":{"analytics":false}}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":"False"}}}"#, true),
            (r#"{"eventType":"a","context":{"consent.analytics":0}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":true,"analytics":false}}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":true}}}"#, false),
            (r#"{"eventType":"a","context":{"consent":{"analytics":null,"ads":false}}}"#, false),
            (r#"{"eventType":"a","properties":{"context":{"consent":{"analytics":false}}}}"#, false),
            (r#"{"eventType":"a","consent":{"analytics":false}}"#, false),
            (r#"{"eventType":"a"}"#, false),
        ] {
            assert_eq!(is_refused(&read(event).unwrap()), expected, "{event}");
        }
    }

    #[test]
    fn it_is_seen_in_events_that_are_refused() {
        assert!(is_refused_in(r#"{"eventType":5,"context":{"consent":{"analytics":false}}}"#));
        for other in [r#"{"eventType":5}"#, r#"{"eventType":5,"context":{"consent":{"analytics":true}}}"#, "consent"] {
            assert!(!is_refused_in(other), "{other}");
        }
    }

    #[test]
    fn what_stands_under_a_field_without_a_name_is_no_context() {
        let event = r#"{"eventType":5,"":{"context":{"consent":{"analytics":false}}}}"#;
        assert!(!is_refused_in(event));
    }

    #[test]
    fn both_ways_to_look_see_the_same() {
        let answers =
            ["false", "true", "null", "0", "-0", "0.0", "1", "\"False\"", "\" false \"", "\"no\"", "[false]", "{}"];
        let contexts = [
            r#"{"consent":{"analytics":ANSWER}}"#,
            r#"{"consent.analytics":ANSWER}"#,
            r#"{"consent":{"analytics":true,"analytics":ANSWER}}"#,
            r#"{"consent":{"analytics":ANSWER,"analytics":true}}"#,
            r#"{"\u0063onsent":{"analytics":ANSWER}}"#,
            r#"{"consent":{"ads":ANSWER}}"#,
            r#"{"other":{"consent":{"analytics":ANSWER}}}"#,
        ];
        for context in contexts {
            for answer in answers {
                let event = format!(r#"{{"eventType":"a","context":{}}}"#, context.replace("ANSWER", answer));
                assert_eq!(is_refused_in(&event), is_refused(&read(&event).unwrap()), "{event}");
            }
        }
    }

    #[test]
    fn it_is_seen_where_the_json_is_broken() {
        for broken in [
            r#"{"eventType":"a","context":{"consent":{"analytics":false}},"properties":{"x":tru"#,
            r#"{"eventType":"a","properties":{"x":tru},"context":{"consent":{"analytics": "false"}}}"#,
            r#"{"properties":{"x":1e999},"eventType":5,"context":{"consent":{"analytics":false}}}"#,
        ] {
            assert!(is_refused_in(broken), "{broken}");
        }
        assert!(!is_refused_in(r#"{"properties":{"x":tru},"context":{"consent":{"analytics":true}}}"#));
    }
}
