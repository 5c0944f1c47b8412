//! Splits the bytes of a request into the texts of its events, so that one bad event does not spoil its batch.
//!
//! A body is one object, an array of objects, `{"events": […]}`, or one object per line (NDJSON).

mod envelope;
mod error;
mod quick;
mod scan;
mod text;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::limits::MAX_EVENTS;
use crate::rejection::Rejection;
use crate::shape;
use crate::time::RawTime;
use envelope::{Events, Outer};
pub use error::BodyError;
pub use quick::read_all;
pub use scan::event_id;
use scan::{Parts, entries, entry};
pub use text::{Broken, Decoded, Text, decode};

/// How events are laid out in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One JSON value.
    Json,
    /// One JSON object per line.
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
    /// A field of an event that stands beside `events`, where it is not read: its sender is warned.
    pub beside: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    fn single(item: Result<&'a str, Unread<'a>>) -> Self {
        Self { items: vec![item], is_single: true, sent_at: None, beside: None }
    }

    fn batch(items: Vec<Result<&'a str, Unread<'a>>>) -> Self {
        Self { items, is_single: false, sent_at: None, beside: None }
    }
}

const BOM: char = '\u{feff}';

/// Takes a body apart. An event that is not JSON is refused by itself wherever it can be told where it ends.
pub fn open(text: &str, layout: Layout) -> Result<Envelope<'_>, BodyError> {
    let envelope = match layout {
        Layout::Json => open_json(text)?,
        Layout::Ndjson => open_lines(text)?,
    };
    if envelope.items.is_empty() { Err(BodyError::Empty) } else { Ok(envelope) }
}

fn open_json(text: &str) -> Result<Envelope<'_>, BodyError> {
    // Where several files were put together a mark may stand behind empty lines.
    let text = if text.trim_start().starts_with(BOM) {
        text.trim_start_matches(|c: char| c.is_whitespace() || c == BOM)
    } else {
        text
    };
    match text.trim_start().chars().next() {
        None => Err(BodyError::Empty),
        Some('[') => match serde_json::from_str(text) {
            Ok(events) => batch(events),
            Err(error) => recovered(text, text)?.ok_or_else(|| syntax(text, &error)),
        },
        Some('{') => match serde_json::from_str(text) {
            Ok(outer) => open_object(text, &outer),
            Err(error) => open_broken_object(text, &error),
        },
        Some(_) => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if shape::holds_json(text) => Err(BodyError::DoubleEncoded),
            Ok(_) => Err(BodyError::NotEvents),
            Err(_) if shape::is_form(text) => Err(BodyError::FormEncoded),
            Err(error) => Err(syntax(text, &error)),
        },
    }
}

fn open_object<'a>(text: &'a str, outer: &Outer<'a>) -> Result<Envelope<'a>, BodyError> {
    match outer.events {
        _ if outer.has_type => {}
        Some(_) if outer.is_twice => return Err(BodyError::given_twice()),
        Some(events) if events.get().starts_with('[') => {
            let events = serde_json::from_str(events.get()).map_err(|error| syntax(events.get(), &error))?;
            return Ok(Envelope { sent_at: outer.sent_at.clone(), beside: outer.beside, ..batch(events)? });
        }
        Some(events) => return Err(BodyError::not_an_array(events.get())),
        None => {
            if let Some(field) = outer.misnamed {
                return Err(BodyError::misnamed_batch(field));
            }
        }
    }
    Ok(Envelope::single(Ok(text)))
}

/// An object that is not JSON: a batch of which some events can be read, several objects, or one event.
fn open_broken_object<'a>(text: &'a str, error: &serde_json::Error) -> Result<Envelope<'a>, BodyError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    if values.next().is_some_and(|first| first.is_ok())
        && text.get(values.byte_offset()..).is_some_and(|rest| rest.trim_start().starts_with('{'))
    {
        return Err(BodyError::LooksLikeNdjson);
    }
    let mut parts = Parts::of(text.trim());
    parts.by_ref().for_each(drop);
    if parts.is_closed()
        && entry(text, &["eventType", "event_type"]).is_none()
        && let Some(events) = entry(text, &["events"])
    {
        if entries(text, &["events"]).count() > 1 {
            return Err(BodyError::given_twice());
        }
        let sent_at = entry(text, &["sentAt", "sent_at"]);
        let sent_at = sent_at.and_then(|json| RawTime::of_json(serde_json::from_str(json).ok()?));
        let is_given = |name: &&str| entry(text, &[*name]).is_some_and(|value| value != "null");
        let beside = shape::EVENT_FIELDS.into_iter().find(is_given);
        if let Some(envelope) = recovered(text, events)? {
            return Ok(Envelope { sent_at, beside, ..envelope });
        }
    }
    let rejection = Place::start().of(text, text, error);
    Ok(Envelope::single(Err(Unread { text, rejection })))
}

fn open_lines(text: &str) -> Result<Envelope<'_>, BodyError> {
    let is_blank = |line: &str| line.trim_start_matches(BOM).trim().is_empty();
    let mut items = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !is_blank(line)) {
        // Files with a byte order mark each may have been put together.
        let line = line.trim_start_matches(BOM);
        items.push(match serde_json::from_str::<&RawValue>(line) {
            Ok(event) => Ok(event.get()),
            Err(_) if items.is_empty() && serde_json::from_str::<IgnoredAny>(text).is_ok() => {
                return Err(BodyError::LooksLikeJson);
            }
            Err(error) => {
                let rejection =
                    Rejection::InvalidJson { line: index + 1, column: error.column(), problem: problem(line, &error) };
                Err(Unread { text: line, rejection })
            }
        });
        if items.len() > MAX_EVENTS {
            return Err(BodyError::TooMany { found: text.lines().filter(|line| !is_blank(line)).count() });
        }
    }
    Ok(Envelope::batch(items))
}

fn batch(events: Events<'_>) -> Result<Envelope<'_>, BodyError> {
    if events.found > MAX_EVENTS {
        return Err(BodyError::TooMany { found: events.found });
    }
    Ok(Envelope::batch(events.kept.into_iter().map(|event| Ok(event.get())).collect()))
}

/// The elements of an array of which some are not JSON; `None` where it cannot be told where they end.
fn recovered<'a>(body: &'a str, array: &'a str) -> Result<Option<Envelope<'a>>, BodyError> {
    if !array.trim_start().starts_with('[') {
        return Ok(None);
    }
    let mut parts = Parts::of(array.trim());
    let (mut items, mut found, mut place) = (Vec::new(), 0, Place::start());
    for part in parts.by_ref() {
        let part = part.trim();
        if part.is_empty() {
            return Ok(None);
        }
        found += 1;
        if found <= MAX_EVENTS {
            items.push(match serde_json::from_str::<&RawValue>(part) {
                Ok(event) => Ok(event.get()),
                Err(error) => Err(Unread { text: part, rejection: place.of(body, part, &error) }),
            });
        }
    }
    match parts.is_closed() {
        true if found > MAX_EVENTS => Err(BodyError::TooMany { found }),
        true => Ok(Some(Envelope::batch(items))),
        false => Ok(None),
    }
}

/// A place in a body that only moves forwards, so that all lines are counted once.
struct Place {
    at: usize,
    line: usize,
    line_starts: usize,
}

impl Place {
    fn start() -> Self {
        Self { at: 0, line: 1, line_starts: 0 }
    }

    /// What is wrong with `part`, which lies in `body`.
    fn of(&mut self, body: &str, part: &str, error: &serde_json::Error) -> Rejection {
        let starts = (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
        let passed = body.as_bytes().get(self.at..starts).unwrap_or_default();
        for (at, _) in passed.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            self.line += 1;
            self.line_starts = self.at + at + 1;
        }
        self.at = self.at.max(starts);
        let before = if error.line() > 1 { 0 } else { starts - self.line_starts };
        Rejection::InvalidJson {
            line: self.line + error.line() - 1,
            column: before + error.column(),
            problem: problem(part, error),
        }
    }
}

fn syntax(text: &str, error: &serde_json::Error) -> BodyError {
    BodyError::InvalidJson { line: error.line(), column: error.column(), problem: problem(text, error) }
}

/// The parser's words without the position, which has fields of its own.
fn problem(text: &str, error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(words, _)| words);
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let around = line.get(line.floor_char_boundary(error.column().saturating_sub(3))..).unwrap_or_default();
    let around = around.get(..around.floor_char_boundary(12)).unwrap_or_default();
    if ["NaN", "Infinity"].iter().any(|number| around.contains(number)) {
        return format!("{said}; NaN and Infinity are not JSON: send null, or leave the field out");
    }
    said.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(envelope: &'a Envelope<'a>) -> Vec<&'a str> {
        envelope.items.iter().map(|item| *item.as_ref().unwrap()).collect()
    }

    fn json(body: &str) -> BodyError {
        open(body, Layout::Json).unwrap_err()
    }

    #[test]
    fn all_four_forms() {
        let one = open(r#" {"eventType":"a"} "#, Layout::Json).unwrap();
        assert!(one.is_single && one.items.len() == 1);
        for (body, layout) in [
            (r#"[{"eventType":"a"},{"eventType":"b"}]"#, Layout::Json),
            (r#"{"events":[{"eventType":"a"},{"eventType":"b"}]}"#, Layout::Json),
            ("{\"eventType\":\"a\"}\r\n\n\u{feff}{\"eventType\":\"b\"}\n\u{feff}\n", Layout::Ndjson),
            ("\n\u{feff}[{\"eventType\":\"a\"},{\"eventType\":\"b\"}]", Layout::Json),
        ] {
            let many = open(body, layout).unwrap();
            assert_eq!(texts(&many), [r#"{"eventType":"a"}"#, r#"{"eventType":"b"}"#], "{body}");
            assert!(!many.is_single);
        }
    }

    #[test]
    fn an_event_may_have_a_property_named_as_a_batch_is() {
        for body in [r#"{"eventType":"a","events":[1,2]}"#, r#"{"batch":[{}],"events":{},"event_type":"a"}"#] {
            assert!(open(body, Layout::Json).unwrap().is_single, "{body}");
        }
    }

    #[test]
    fn bad_bodies_say_where() {
        assert!(matches!(json("[\n{\"a\":1},]"), BodyError::InvalidJson { line: 2, column: 9, .. }));
        assert!(matches!(json("[{}"), BodyError::InvalidJson { .. }));
        assert!(matches!(json("[{},]"), BodyError::InvalidJson { .. }));
        for empty in ["", "  \n", "[]", "{\"events\":[]}", "\u{feff}"] {
            assert_eq!(json(empty), BodyError::Empty);
        }
        assert_eq!(json(&"\u{feff} ".repeat(1_000_000)), BodyError::Empty, "and no deep recursion");
        assert_eq!(json("42"), BodyError::NotEvents);
        assert!(matches!(json("nope"), BodyError::InvalidJson { .. }));
    }

    #[test]
    fn bodies_of_another_shape_say_what_was_meant() {
        for (body, code, hint) in [
            (r#"{"batch":[{"event":"a"}],"sentAt":"x"}"#, "wrong_envelope", "in `batch`: did you mean `events`?"),
            (r#"{"api_key":"x","data":[]}"#, "wrong_envelope", "in `data`: did you mean `events`?"),
            (r#"{"events":{"eventType":"a"}}"#, "wrong_envelope", "must be an array and is an object"),
            (r#"{"events":"[{}]"}"#, "wrong_envelope", "encoded twice"),
            (r#"{"events":null}"#, "wrong_envelope", "must be an array and is another value"),
            (r#"{"events":[{"eventType":"a"}],"events":[{"eventType":"b"}]}"#, "wrong_envelope", "more than once"),
            (r#"{"events":[{"eventType":"a"}],"x":1,"events":[NaN]}"#, "wrong_envelope", "more than once"),
            (r#""{\"eventType\":\"a\"}""#, "double_encoded", "encoded twice"),
            ("eventType=a&userId=b", "form_encoded", "send JSON"),
            ("data=%7B%22eventType%22%3A%22a%22%7D", "form_encoded", "send JSON"),
            ("{\"eventType\":\"a\"}\n{\"eventType\":\"b\"}", "looks_like_ndjson", "application/x-ndjson"),
            ("{\"eventType\":\"a\"}{oops", "looks_like_ndjson", "application/x-ndjson"),
        ] {
            let error = json(body);
            assert_eq!(error.code(), code, "{body}: {error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
        for body in ["[\n{\"eventType\":\"a\"}\n]", "{\n\"eventType\":\"a\"\n}\n"] {
            assert_eq!(open(body, Layout::Ndjson).unwrap_err(), BodyError::LooksLikeJson);
        }
    }

    #[test]
    fn what_belongs_into_events_and_stands_beside_them_is_reported() {
        for last in ["{}", "NaN"] {
            for (beside, told) in [
                (r#""sentAt":5,"apiKey":"x""#, None),
                (r#""context":{"country":"DE"}"#, Some("context")),
                (r#""x":1,"user_id":"u","context":null"#, Some("user_id")),
                (r#""timestamp":null"#, None),
            ] {
                let body = format!(r#"{{{beside},"events":[{{"eventType":"a"}},{last}]}}"#);
                let envelope = open(&body, Layout::Json).unwrap();
                assert_eq!((envelope.items.len(), envelope.beside), (2, told), "{body}");
            }
        }
        assert_eq!(open(r#"{"userId":"u","eventType":"a"}"#, Layout::Json).unwrap().beside, None);
    }

    #[test]
    fn too_many_are_counted_but_not_kept() {
        for last in ["1", "NaN"] {
            let body = format!("[{}{last}]", "1,".repeat(MAX_EVENTS + 4));
            assert_eq!(json(&body), BodyError::TooMany { found: MAX_EVENTS + 5 });
        }
    }

    #[test]
    fn a_bad_event_spoils_only_itself() {
        let problems = |body: &str, layout| {
            let envelope = open(body, layout).unwrap();
            let problem = |item: &Result<&str, Unread<'_>>| {
                let rejection = &item.as_ref().err()?.rejection;
                let Rejection::InvalidJson { line, column, problem } = rejection else { panic!("{rejection}") };
                Some((*line, *column, problem.contains("NaN and Infinity are not JSON")))
            };
            envelope.items.iter().map(problem).collect::<Vec<_>>()
        };
        let ndjson = "{\"eventType\":\"a\"}\n{oops\n{}";
        assert_eq!(problems(ndjson, Layout::Ndjson), [None, Some((2, 2, false)), None]);
        for (before, after) in [("", ""), ("{\"sentAt\":5, \"events\":", "}")] {
            let body =
                format!("{before}[{{}},\n {{\"a\":\n NaN}},{{\"b\":[-Infinity]}} , {{\"c\":\u{fffd}}}, {{}}]{after}");
            let expected = [None, Some((3, 2, true)), Some((3, 14, true)), Some((3, 32, false)), None];
            assert_eq!(problems(&body, Layout::Json), expected, "{body}");
            let envelope = open(&body, Layout::Json).unwrap();
            assert_eq!((envelope.is_single, envelope.sent_at.is_some()), (false, !before.is_empty()));
        }
        let one = open("{\"eventId\":\"x\",\n\"a\":NaN}", Layout::Json).unwrap();
        let Err(Unread { rejection: Rejection::InvalidJson { line: 2, column: 5, .. }, .. }) = &one.items[0] else {
            panic!("{one:?}")
        };
        assert!(one.is_single);
    }

    #[test]
    fn of_several_times_of_sending_one_counts_as_of_an_events_fields() {
        for (fields, expected) in [
            (r#""sentAt":2,"sent_at":1"#, Some(2)),
            (r#""sent_at":1,"sentAt":2"#, Some(2)),
            (r#""sent_at":1,"sent_at":2"#, Some(2)),
            (r#""sentAt":2,"sentAt":null"#, Some(2)),
            (r#""sentAt":null"#, None),
        ] {
            let body = format!(r#"{{{fields},"events":[{{"eventType":"a"}}]}}"#);
            let envelope = open(&body, Layout::Json).unwrap();
            assert_eq!(envelope.sent_at, expected.map(RawTime::Integer), "{body}");
        }
    }
}
