//! Bytes of a request -> the texts of its events, so that one bad event does not spoil its batch.
//!
//! A body is one object, an array of objects, `{"events": […]}`, or one object a line (NDJSON).

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::MAX_EVENTS;
use crate::raw::{RawTime, Scalar};
use crate::rejection::Rejection;

/// How events are laid out in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One JSON value.
    Json,
    /// One JSON object a line.
    Ndjson,
}

/// A text that is not JSON, among others that are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread<'a> {
    /// The text.
    pub text: &'a str,
    /// Why it was refused.
    pub rejection: Rejection,
}

/// The events of a body, not yet read.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Each event's text, or why there is none.
    pub items: Vec<Result<&'a str, Unread<'a>>>,
    /// Whether the body was one event and not a batch of one: the answer has another shape then.
    pub is_single: bool,
    /// `sentAt` of the whole batch, for events without their own.
    pub sent_at: Option<RawTime<'a>>,
}

/// Why a body as a whole cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not UTF-8.
    #[error("the body is not UTF-8 at byte {offset}")]
    InvalidUtf8 {
        /// The first byte that is wrong.
        offset: usize,
    },
    /// Not JSON.
    #[error("the body is not JSON at line {line}, column {column}: {problem}")]
    InvalidJson {
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
        /// What the parser found.
        problem: String,
    },
    /// JSON that is neither an object nor an array.
    #[error("the body must be an event, an array of events or {{\"events\": […]}}")]
    NotEvents,
    /// Nothing in it.
    #[error("the body holds no event")]
    Empty,
    /// Too many events.
    #[error("the body holds {found} events, at most {MAX_EVENTS} are taken at a time")]
    TooMany {
        /// How many it holds.
        found: usize,
    },
}

impl BodyError {
    /// For programs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::InvalidJson { .. } => "invalid_json",
            Self::NotEvents => "not_events",
            Self::Empty => "empty_batch",
            Self::TooMany { .. } => "too_many_events",
        }
    }
}

/// Takes a body apart.
pub fn open(body: &[u8], layout: Layout) -> Result<Envelope<'_>, BodyError> {
    let text = std::str::from_utf8(body).map_err(|error| BodyError::InvalidUtf8 { offset: error.valid_up_to() })?;
    let envelope = match layout {
        Layout::Json => open_json(text)?,
        Layout::Ndjson => open_lines(text)?,
    };
    if envelope.items.is_empty() { Err(BodyError::Empty) } else { Ok(envelope) }
}

fn open_json(text: &str) -> Result<Envelope<'_>, BodyError> {
    match text.trim_start().chars().next() {
        None => Err(BodyError::Empty),
        Some('[') => batch(serde_json::from_str(text).map_err(|error| syntax(&error))?, None),
        Some('{') => {
            let outer: Outer<'_> = serde_json::from_str(text).map_err(|error| syntax(&error))?;
            match outer.events {
                Some(events) if !outer.has_type && events.get().starts_with('[') => {
                    batch(serde_json::from_str(events.get()).map_err(|error| syntax(&error))?, outer.sent_at)
                }
                _ => Ok(Envelope { items: vec![Ok(text)], is_single: true, sent_at: None }),
            }
        }
        Some(_) => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(BodyError::NotEvents),
            Err(error) => Err(syntax(&error)),
        },
    }
}

fn open_lines(text: &str) -> Result<Envelope<'_>, BodyError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut items = Vec::new();
    for (index, line_text) in lines {
        items.push(match serde_json::from_str::<&RawValue>(line_text) {
            Ok(event) => Ok(event.get()),
            Err(error) => {
                let (line, column) = (index + 1, error.column());
                Err(Unread {
                    text: line_text,
                    rejection: Rejection::InvalidJson { line, column, problem: problem(&error) },
                })
            }
        });
        if items.len() > MAX_EVENTS {
            return Err(BodyError::TooMany { found: text.lines().filter(|line| !line.trim().is_empty()).count() });
        }
    }
    Ok(Envelope { items, is_single: false, sent_at: None })
}

fn batch<'a>(events: Events<'a>, sent_at: Option<RawTime<'a>>) -> Result<Envelope<'a>, BodyError> {
    if events.found > MAX_EVENTS {
        return Err(BodyError::TooMany { found: events.found });
    }
    let items = events.kept.into_iter().map(|event| Ok(event.get())).collect();
    Ok(Envelope { items, is_single: false, sent_at })
}

fn syntax(error: &serde_json::Error) -> BodyError {
    BodyError::InvalidJson { line: error.line(), column: error.column(), problem: problem(error) }
}

/// The parser's words without the position, which has fields of its own.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// What tells a batch from an event.
struct Outer<'a> {
    events: Option<&'a RawValue>,
    has_type: bool,
    sent_at: Option<RawTime<'a>>,
}

impl<'de> Deserialize<'de> for Outer<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Outer<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut outer = Outer { events: None, has_type: false, sent_at: None };
                while let Some(key) = map.next_key::<crate::raw::Name<'de>>()? {
                    match &*key.0 {
                        "events" => outer.events = Some(map.next_value()?),
                        "sentAt" | "sent_at" => outer.sent_at = map.next_value::<Scalar<'de>>()?.into_time(),
                        "eventType" | "event_type" => {
                            outer.has_type = true;
                            map.next_value::<IgnoredAny>()?;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(outer)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The elements of an array: all are counted, only as many as may be taken are kept, so that a body of nothing but commas
/// cannot grow in memory.
struct Events<'a> {
    kept: Vec<&'a RawValue>,
    found: usize,
}

impl<'de> Deserialize<'de> for Events<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut events = Events { kept: Vec::new(), found: 0 };
                while events.found < MAX_EVENTS {
                    let Some(event) = seq.next_element()? else { return Ok(events) };
                    events.kept.push(event);
                    events.found += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    events.found += 1;
                }
                Ok(events)
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(envelope: &'a Envelope<'a>) -> Vec<&'a str> {
        envelope.items.iter().map(|item| *item.as_ref().unwrap()).collect()
    }

    #[test]
    fn all_four_forms() {
        let one = open(br#" {"eventType":"a"} "#, Layout::Json).unwrap();
        assert!(one.is_single && one.items.len() == 1);
        for (body, layout) in [
            (r#"[{"eventType":"a"},{"eventType":"b"}]"#, Layout::Json),
            (r#"{"events":[{"eventType":"a"},{"eventType":"b"}]}"#, Layout::Json),
            ("{\"eventType\":\"a\"}\r\n\n{\"eventType\":\"b\"}\n", Layout::Ndjson),
        ] {
            let many = open(body.as_bytes(), layout).unwrap();
            assert_eq!(texts(&many), [r#"{"eventType":"a"}"#, r#"{"eventType":"b"}"#], "{body}");
            assert!(!many.is_single);
        }
    }

    #[test]
    fn an_event_may_have_a_property_named_events() {
        let one = open(br#"{"eventType":"a","events":[1,2]}"#, Layout::Json).unwrap();
        assert!(one.is_single);
    }

    #[test]
    fn bad_bodies_say_where() {
        let at = |body: &[u8]| open(body, Layout::Json).unwrap_err();
        assert_eq!(at(b"[{\"a\":\xff}]"), BodyError::InvalidUtf8 { offset: 6 });
        assert!(matches!(at(b"[\n{\"a\":}]"), BodyError::InvalidJson { line: 2, column: 6, .. }));
        assert!(matches!(at(b"[{}"), BodyError::InvalidJson { .. }));
        assert!(matches!(at(b"{\"a\":\"\x00\"}"), BodyError::InvalidJson { .. }));
        for empty in [&b""[..], b"  \n", b"[]", b"{\"events\":[]}"] {
            assert_eq!(at(empty), BodyError::Empty);
        }
        assert_eq!(at(b"42"), BodyError::NotEvents);
        assert!(matches!(at(b"nope"), BodyError::InvalidJson { .. }));
    }

    #[test]
    fn too_many_are_counted_but_not_kept() {
        let body = format!("[{}1]", "1,".repeat(MAX_EVENTS + 4));
        assert_eq!(open(body.as_bytes(), Layout::Json).unwrap_err(), BodyError::TooMany { found: MAX_EVENTS + 5 });
    }

    #[test]
    fn a_bad_line_spoils_only_itself() {
        let lines = open(b"{\"eventType\":\"a\"}\n{oops\n{}", Layout::Ndjson).unwrap();
        assert!(lines.items[0].is_ok() && lines.items[2].is_ok());
        let Err(Unread { text: "{oops", rejection }) = &lines.items[1] else { panic!("{lines:?}") };
        assert!(matches!(rejection, Rejection::InvalidJson { line: 2, column: 2, .. }));
    }
}
