//! Decodes a body: bytes -> text, within the bounds of the request -> events.

use tallyhouse_schema::body::{self, BodyError, Decoded, Layout, Text, Unread};
use tallyhouse_schema::normalise::{Context, Normalised, normalise};
use tallyhouse_schema::raw::{self, RawEvent, RawTime};
use tallyhouse_schema::{Event, Rejection, Warning, Warnings, consent};

use crate::admit::Room;
use crate::answer::{Dropped, Rejected};
use crate::request::RequestError;

/// The text of a body; when it has to be copied it takes more room, and may have `most` bytes.
pub(crate) fn text<'a>(bytes: &'a [u8], most: usize, room: &mut Room) -> Result<Text<'a>, RequestError> {
    match body::decode(bytes)? {
        Decoded::Clean(text) => Ok(text),
        Decoded::Broken(broken) => {
            room.cover(bytes.len() + broken.most_bytes(most))?;
            Ok(broken.repair(most)?)
        }
    }
}

/// The events of a body.
#[derive(Default)]
pub struct Events<'a> {
    /// Whether the body was one event and not a batch.
    pub is_single: bool,
    pub events: Vec<Event<'a>>,
    /// Where in the body each of them was.
    pub indices: Vec<usize>,
    /// Those of the events that have any, by their place in `events`.
    pub warnings: Vec<(usize, Warnings)>,
    pub refusals: Vec<Refusal<'a>>,
    /// Those whose person refused consent: nothing of them is kept.
    pub dropped: Vec<Dropped>,
}

/// What became of one event of a body.
#[allow(clippy::large_enum_variant, reason = "one at a time, for as long as a call")]
enum Read<'a> {
    Event(Normalised<'a>),
    Rejected(Rejection),
    Dropped,
}

impl<'a> From<Result<Normalised<'a>, Rejection>> for Read<'a> {
    fn from(read: Result<Normalised<'a>, Rejection>) -> Self {
        read.map_or_else(Self::Rejected, Self::Event)
    }
}

/// A refused event and its text.
pub struct Refusal<'a> {
    pub text: &'a str,
    /// Which it was, and why.
    pub rejected: Rejected,
}

/// The events of a body's text, valid or refused.
pub fn events<'a>(text: &'a Text<'_>, layout: Layout, context: Context<'a, '_>) -> Result<Events<'a>, BodyError> {
    let normalise = |part: &'a str, mut raw: RawEvent<'a>, batch_sent_at: Option<&RawTime<'a>>| {
        if consent::is_refused(&raw) {
            return Read::Dropped;
        }
        raw.is_repaired = text.is_repaired(part);
        normalise(raw, batch_sent_at, context).into()
    };
    let mut events = Events::default();
    let is_single = body::read_all(text.as_str(), layout, |text, raw| {
        events.add(text, normalise(text, raw, None));
    });
    if let Some(is_single) = is_single {
        return Ok(Events { is_single, ..events });
    }
    let envelope = body::open(text.as_str(), layout)?;
    let mut beside = envelope.beside;
    let mut events = Events { is_single: envelope.is_single, ..Events::default() };
    for item in envelope.items {
        let (text, mut read) = match item {
            Ok(text) => match raw::read(text) {
                Ok(raw) => (text, normalise(text, raw, envelope.sent_at.as_ref())),
                Err(rejection) => (text, Read::Rejected(rejection)),
            },
            Err(Unread { text, rejection }) => (text, Read::Rejected(rejection)),
        };
        if let Read::Event(Normalised { warnings, .. }) = &mut read
            && let Some(field) = beside.take()
        {
            // About all of them, reported once.
            warnings.add(Warning::IgnoredField { field });
        }
        events.add(text, read);
    }
    Ok(events)
}

impl<'a> Events<'a> {
    fn add(&mut self, text: &'a str, read: Read<'a>) {
        let index = self.events.len() + self.refusals.len() + self.dropped.len();
        match read {
            Read::Event(Normalised { event, warnings }) => {
                if !warnings.is_empty() {
                    self.warnings.push((self.events.len(), warnings));
                }
                self.events.push(event);
                self.indices.push(index);
            }
            Read::Dropped => self.dropped.push(Dropped { index, event_id: body::event_id(text) }),
            // A dead letter would keep it.
            Read::Rejected(_) if consent::is_refused_in(text) => {
                self.dropped.push(Dropped { index, event_id: body::event_id(text) });
            }
            Read::Rejected(rejection) => {
                let event_id = body::event_id(text);
                self.refusals.push(Refusal { text, rejected: Rejected { index, event_id, rejection } });
            }
        }
    }
}

/// The id of the event at `index` of a body that was parsed before. It parses the body again, so it is only for events that are refused late.
pub(crate) fn event_id_at(bytes: &[u8], most: usize, layout: Layout, index: usize) -> Option<String> {
    let text = match body::decode(bytes).ok()? {
        Decoded::Clean(text) => text,
        Decoded::Broken(broken) => broken.repair(most).ok()?,
    };
    let envelope = body::open(text.as_str(), layout).ok()?;
    body::event_id(envelope.items.get(index)?.as_ref().ok()?)
}
