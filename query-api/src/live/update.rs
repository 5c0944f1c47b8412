//! The latest answer to a streamed question, and the frames that a listener is sent of it. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::frame;
use crate::cache::{CacheStatus, Entry};
use crate::render::complete;
use crate::render::meta::Ending;
use crate::warning::Warning;

/// What a ticker knows.
#[derive(Debug, Clone, Default)]
pub enum Update {
    /// Nothing yet.
    #[default]
    Pending,
    Value(Arc<Value>),
    /// The last question failed.
    Failed {
        failure: Arc<Failure>,
        /// The last answer before, if there was one.
        last: Option<Arc<Value>>,
    },
}

/// An answer.
#[derive(Debug)]
pub struct Value {
    /// How many different answers there were, with this one.
    sequence: u64,
    answered: Answered,
    frame: Bytes,
}

/// An answer, and what a listener should know of the question.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The answer; its tag is also of the warnings.
    pub entry: Entry,
    /// Warnings about the question, as in `meta.warnings`.
    pub warnings: Vec<Warning>,
}

/// A failure as a listener sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Stable, for programs.
    pub code: &'static str,
    pub message: String,
}

impl Value {
    fn new(sequence: u64, answered: Answered) -> Self {
        let body = complete(&answered.entry, &ending(&answered, CacheStatus::Miss));
        let frame = frame::data(&id(sequence, &answered.entry.etag), &body);
        Self { sequence, answered, frame }
    }

    /// The same value for somebody who comes while questions fail: its `meta` says so.
    fn stale(&self, failure: &Failure) -> Bytes {
        let entry = &self.answered.entry;
        let body = complete(entry, &ending(&self.answered, CacheStatus::Hit).stale(failure.code));
        frame::data(&id(self.sequence, &entry.etag), &body)
    }
}

/// The entry of a stream expires when it is complete, so `expires_ms - computed_ms` is the time that the question took.
fn ending(Answered { entry, warnings }: &Answered, status: CacheStatus) -> Ending {
    let elapsed_ms = (entry.expires_ms - entry.computed_ms).max(0) as f64;
    Ending::of(entry, status, entry.computed_ms, elapsed_ms).with_warnings(warnings.clone())
}

/// Sequence and tag: `7-0c9f…`.
fn id(sequence: u64, etag: &str) -> String {
    format!("{sequence}-{}", tag(etag))
}

fn tag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

impl Update {
    /// What is known after a question.
    #[must_use]
    pub fn after(&self, outcome: Result<Answered, Failure>) -> Self {
        let last = match self {
            Self::Pending => None,
            Self::Value(value) => Some(value),
            Self::Failed { last, .. } => last.as_ref(),
        };
        match outcome {
            Ok(answered) => {
                let is_new = last.is_none_or(|last| last.answered.entry.etag != answered.entry.etag);
                let sequence = last.map_or(0, |last| last.sequence) + u64::from(is_new);
                Self::Value(Arc::new(Value::new(sequence, answered)))
            }
            Err(failure) => Self::Failed { failure: Arc::new(failure), last: last.cloned() },
        }
    }
}

/// What a listener was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    seen: Seen,
    sequence: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Nothing,
    Value { tag: String },
    Failure { code: &'static str },
}

/// What a listener is sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSend {
    /// Nothing: nothing is known yet.
    Nothing,
    /// That nothing changed.
    Unchanged,
    Value {
        /// Its frame.
        frame: Bytes,
        /// Values between the last one sent and this one, which this listener was too slow for.
        skipped: u64,
    },
    /// A failure, after the last value when the listener had none.
    Failure {
        /// Its frames.
        frame: Bytes,
    },
}

impl Cursor {
    /// A listener that is new, or that comes back having seen the event of this id.
    pub fn resume(last_event_id: Option<&str>) -> Self {
        let tag = last_event_id.and_then(|id| id.split_once('-')).map(|(_, tag)| tag.to_owned());
        Self { seen: tag.map_or(Seen::Nothing, |tag| Seen::Value { tag }), sequence: None }
    }

    /// Moves on to an update; returns what to send for it.
    pub fn advance(&mut self, update: &Update) -> ToSend {
        match update {
            Update::Pending => ToSend::Nothing,
            Update::Value(value) => self.value_frame(value),
            Update::Failed { failure, last } => self.failure_frames(failure, last.as_deref()),
        }
    }

    fn value_frame(&mut self, value: &Value) -> ToSend {
        let tag = tag(&value.answered.entry.etag);
        let before = self.sequence.replace(value.sequence);
        let skipped = before.map_or(0, |before| value.sequence.saturating_sub(before + 1));
        if matches!(&self.seen, Seen::Value { tag: seen } if seen == tag) {
            return ToSend::Unchanged;
        }
        self.seen = Seen::Value { tag: tag.to_owned() };
        ToSend::Value { frame: value.frame.clone(), skipped }
    }

    fn failure_frames(&mut self, failure: &Failure, last: Option<&Value>) -> ToSend {
        if self.seen == (Seen::Failure { code: failure.code }) {
            return ToSend::Unchanged;
        }
        let before = std::mem::replace(&mut self.seen, Seen::Failure { code: failure.code });
        let error = frame::error(failure);
        let frame = match (before, last) {
            (Seen::Nothing, Some(last)) => [last.stale(failure), error].concat().into(),
            _ => error,
        };
        ToSend::Failure { frame }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str) -> Result<Answered, Failure> {
        let head = format!("{{\"data\":\"{tag}\",\"meta\":{{\"source\":\"t\"").into();
        let etag = format!("W/\"{tag}\"");
        let entry = Entry { head, etag, computed_ms: 1_000, oldest_ms: 1_000, expires_ms: 1_012, is_partial: false };
        Ok(Answered { entry, warnings: Vec::new() })
    }

    fn failure(code: &'static str) -> Result<Answered, Failure> {
        Err(Failure { code, message: "no".into() })
    }

    fn text(sent: &ToSend) -> String {
        match sent {
            ToSend::Value { frame, .. } | ToSend::Failure { frame } => String::from_utf8(frame.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_is_sent_once_and_then_that_it_is_unchanged() {
        let mut cursor = Cursor::resume(None);
        assert_eq!(cursor.advance(&Update::default()), ToSend::Nothing);
        let one = Update::default().after(entry("a"));
        let sent = text(&cursor.advance(&one));
        assert!(sent.starts_with("id: 1-a\ndata: {\"data\":\"a\",\"meta\":{\"source\":\"t\",\"cache\":"), "{sent}");
        assert!(sent.contains("\"elapsed_ms\":12.0"), "{sent}");
        let again = one.after(entry("a"));
        assert_eq!(cursor.advance(&again), ToSend::Unchanged);
        assert!(text(&cursor.advance(&again.after(entry("b")))).starts_with("id: 2-b\n"));
    }

    #[test]
    fn a_slow_listener_skips_and_it_is_counted() {
        let mut cursor = Cursor::resume(None);
        let mut update = Update::default().after(entry("a"));
        cursor.advance(&update);
        for tag in ["b", "c", "d"] {
            update = update.after(entry(tag));
        }
        assert!(matches!(cursor.advance(&update), ToSend::Value { skipped: 2, .. }));
        // The first value of a listener skips nothing, however many there were before.
        assert!(matches!(Cursor::resume(None).advance(&update), ToSend::Value { skipped: 0, .. }));
    }

    #[test]
    fn who_comes_back_is_not_sent_what_it_knows() {
        let update = Update::default().after(entry("a"));
        assert_eq!(Cursor::resume(Some("9-a")).advance(&update), ToSend::Unchanged);
        for other in ["9-b", "a", "", "-", "9"] {
            assert!(matches!(Cursor::resume(Some(other)).advance(&update), ToSend::Value { .. }), "{other}");
        }
    }

    #[test]
    fn a_failure_is_sent_once_per_kind_and_ends_with_a_value() {
        let mut cursor = Cursor::resume(None);
        let update = Update::default().after(entry("a"));
        cursor.advance(&update);
        let failed = update.after(failure("unavailable"));
        assert!(text(&cursor.advance(&failed)).starts_with("event: error\ndata: {\"code\":\"unavailable\""));
        assert_eq!(cursor.advance(&failed.after(failure("unavailable"))), ToSend::Unchanged);
        let other = failed.after(failure("timed_out"));
        assert!(text(&cursor.advance(&other)).contains("timed_out"));
        let same_again = other.after(entry("a"));
        assert!(text(&cursor.advance(&same_again)).starts_with("id: 1-a\n"), "the value that was known, once more");
    }

    #[test]
    fn who_comes_during_a_failure_gets_the_last_value_marked() {
        let failed = Update::default().after(entry("a")).after(failure("unavailable"));
        let sent = text(&Cursor::resume(None).advance(&failed));
        let (value, error) = sent.split_once("\n\n").unwrap();
        assert!(value.starts_with("id: 1-a\n") && value.contains("\"stale_reason\":\"unavailable\""), "{value}");
        let json = value.split_once("data: ").unwrap().1;
        assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{json}");
        assert!(error.starts_with("event: error"), "{error}");
        let never = Update::default().after(failure("unavailable"));
        assert!(text(&Cursor::resume(None).advance(&never)).starts_with("event: error"));
    }
}
