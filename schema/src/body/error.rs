//! Why a body is refused as a whole.

use crate::limits::MAX_EVENTS;
use crate::shape;

/// Why a body as a whole cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Compressed, and not said to be.
    #[error("the body is compressed with {encoding}; send it with `Content-Encoding: {encoding}`")]
    Compressed {
        /// As `Content-Encoding` names it.
        encoding: &'static str,
    },
    /// Another encoding.
    #[error("the body is UTF-16 or UTF-32; send UTF-8")]
    Utf16,
    /// So much was replaced that the text is longer than a body may be.
    #[error("so much of the body is not UTF-8 that its repaired text has more than {most} bytes; send UTF-8")]
    RepairedTooLarge {
        /// How many it may have.
        most: usize,
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
    /// An object that holds events under another name, or not as an array.
    #[error("{hint}")]
    WrongEnvelope {
        /// Where events seem to be.
        field: &'static str,
        /// What to do.
        hint: String,
    },
    /// JSON in a text of JSON.
    #[error("the body is a JSON text that holds JSON: it was encoded twice; send the object itself")]
    DoubleEncoded,
    /// A web form.
    #[error("the body is a form (name=value&…); send JSON, such as {{\"eventType\": \"signup\", \"userId\": \"u-1\"}}")]
    FormEncoded,
    /// Several objects, announced as one value.
    #[error(
        "the body holds one JSON object after the other; send it with `Content-Type: application/x-ndjson`, or as an array"
    )]
    LooksLikeNdjson,
    /// One value over several lines, announced as one value a line.
    #[error("the body is one JSON value over several lines; send it with `Content-Type: application/json`")]
    LooksLikeJson,
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
            Self::Compressed { .. } => "undeclared_compression",
            Self::Utf16 => "utf16_body",
            Self::RepairedTooLarge { .. } => "body_too_large",
            Self::InvalidJson { .. } => "invalid_json",
            Self::NotEvents => "not_events",
            Self::WrongEnvelope { .. } => "wrong_envelope",
            Self::DoubleEncoded => "double_encoded",
            Self::FormEncoded => "form_encoded",
            Self::LooksLikeNdjson => "looks_like_ndjson",
            Self::LooksLikeJson => "looks_like_json",
            Self::Empty => "empty_batch",
            Self::TooMany { .. } => "too_many_events",
        }
    }

    /// Two lists of events, of which JSON readers see one.
    pub(super) fn given_twice() -> Self {
        let hint = "`events` is given more than once: put all events into one array".to_owned();
        Self::WrongEnvelope { field: "events", hint }
    }

    /// Events under another name.
    pub(super) fn misnamed_batch(field: &'static str) -> Self {
        let hint = format!(
            "`eventType` is required; you sent an array in `{field}`: did you mean `events`? A batch is {{\"events\": [{{\"eventType\": …}}, …]}}, or the array itself"
        );
        Self::WrongEnvelope { field, hint }
    }

    /// `events` that is no array.
    pub(super) fn not_an_array(events: &str) -> Self {
        let what = match events.chars().next() {
            Some('{') => "an object",
            Some('"') if shape::holds_json(events) => "a text that holds JSON (it was encoded twice)",
            Some('"') => "a text",
            _ => "another value",
        };
        let hint = format!(
            "`events` must be an array and is {what}; did you mean {{\"events\": [{{\"eventType\": …}}]}}, or one event without `events` around it?"
        );
        Self::WrongEnvelope { field: "events", hint }
    }
}
