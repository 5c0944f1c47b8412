//! A dead letter, as a row of `dead_letters` and as a Kafka record.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tallyhouse_schema::limits::MAX_EVENT_BYTES;
use tallyhouse_sql::native::{self, Column, Field};
use tallyhouse_sql::{hex, unhex};

/// The most of a payload that is kept: an event that is longer was refused for it.
pub const MAX_PAYLOAD_BYTES: usize = MAX_EVENT_BYTES;

/// What a dead letter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An event as its sender wrote it.
    Json,
    /// A Kafka record that could not be read.
    Record,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetterState {
    /// Nothing yet.
    Open,
    /// It was sent again and taken.
    Replayed,
    /// Somebody decided that it is not needed.
    Discarded,
}

/// Where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The Kafka topic; empty without Kafka.
    pub topic: String,
    /// Its partition, -1 without Kafka.
    pub partition: i32,
    /// The record's offset, -1 without Kafka.
    pub offset: i64,
    /// The short name of the key that it was sent with; empty when it is not known.
    pub key_id: String,
}

impl Origin {
    /// Straight from a sender.
    pub fn of_key(key_id: &str) -> Self {
        Self { topic: String::new(), partition: -1, offset: -1, key_id: key_id.to_owned() }
    }
}

/// Something that could not be counted. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The project.
    pub project: String,
    /// A ULID.
    pub id: String,
    /// What the payload is.
    pub kind: Kind,
    /// Why, for programs.
    pub code: String,
    /// Why, as in the answer to the sender. Holds nothing that a sender may not see.
    pub reason: String,
    /// As received, at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Vec<u8>,
    /// Its id; empty when it could not be read.
    pub event_id: String,
    /// Where it came from.
    pub origin: Origin,
    /// When it was received.
    pub received_at: i64,
    /// When it was found to be bad.
    pub failed_at: i64,
    /// What became of it.
    pub state: DeadLetterState,
    /// When that was.
    pub updated_at: i64,
}

/// Without the payload, which may hold what a log must not.
impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter")
            .field("project", &self.project)
            .field("id", &self.id)
            .field("code", &self.code)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A record that is not a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Not JSON, or not of this shape.
    #[error("not a dead letter: {0}")]
    Malformed(String),
    /// Written by a later version.
    #[error("a dead letter of version {0}, which is not known")]
    Version(u8),
}

/// The version that [`DeadLetter::to_json`] writes.
const VERSION: u8 = 1;

/// The shape as JSON. The payload is text where it is text, else hexadecimal.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: u8,
    project: String,
    id: String,
    kind: Kind,
    code: String,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
    event_id: String,
    #[serde(flatten)]
    origin: Origin,
    received_at: i64,
    failed_at: i64,
    state: DeadLetterState,
    updated_at: i64,
}

impl DeadLetter {
    /// As a Kafka record.
    pub fn to_json(&self) -> Vec<u8> {
        let text = std::str::from_utf8(&self.payload).ok().map(str::to_owned);
        let wire = Wire {
            v: VERSION,
            project: self.project.clone(),
            id: self.id.clone(),
            kind: self.kind,
            code: self.code.clone(),
            reason: self.reason.clone(),
            payload_hex: text.is_none().then(|| hex(&self.payload)),
            payload: text,
            event_id: self.event_id.clone(),
            origin: self.origin.clone(),
            received_at: self.received_at,
            failed_at: self.failed_at,
            state: self.state,
            updated_at: self.updated_at,
        };
        // Strings and numbers alone: there is nothing that could fail.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// From a Kafka record. The message of an error quotes no payload.
    pub fn from_json(json: &[u8]) -> Result<Self, Broken> {
        #[derive(Deserialize)]
        struct Version {
            v: u8,
        }
        let malformed = |error: serde_json::Error| {
            Broken::Malformed(format!("{:?} at line {}, column {}", error.classify(), error.line(), error.column()))
        };
        let Version { v } = serde_json::from_slice(json).map_err(malformed)?;
        if v != VERSION {
            return Err(Broken::Version(v));
        }
        let wire: Wire = serde_json::from_slice(json).map_err(malformed)?;
        let payload = match (wire.payload, wire.payload_hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(digits)) => unhex(&digits).ok_or_else(|| Broken::Malformed("payload_hex".to_owned()))?,
            _ => return Err(Broken::Malformed("one of payload and payload_hex".to_owned())),
        };
        Ok(Self {
            project: wire.project,
            id: wire.id,
            kind: wire.kind,
            code: wire.code,
            reason: wire.reason,
            payload,
            event_id: wire.event_id,
            origin: wire.origin,
            received_at: wire.received_at,
            failed_at: wire.failed_at,
            state: wire.state,
            updated_at: wire.updated_at,
        })
    }

    /// The memory that it takes, about.
    pub fn bytes(&self) -> usize {
        const FIXED: usize = 400;
        FIXED + self.payload.len() + self.reason.len() + self.event_id.len()
    }
}

impl Kind {
    /// The column's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Record => "record",
        }
    }
}

impl DeadLetterState {
    /// The column's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// As much of a payload as is kept; text is cut between characters.
pub fn cut(payload: &[u8]) -> Vec<u8> {
    let kept = payload.get(..MAX_PAYLOAD_BYTES).unwrap_or(payload);
    match std::str::from_utf8(kept) {
        // The last character was cut in two, and all before it is text.
        Err(error) if error.error_len().is_none() => kept.get(..error.valid_up_to()).unwrap_or(kept).to_vec(),
        _ => kept.to_vec(),
    }
}

/// Dead letters as one Native block for `dead_letters`.
pub fn block(dead_letters: &[DeadLetter]) -> Vec<Bytes> {
    let column = |push: &dyn Fn(&mut Column, &DeadLetter)| {
        let mut column = Column::default();
        dead_letters.iter().for_each(|dead_letter| push(&mut column, dead_letter));
        vec![column]
    };
    let text = |name, value: &dyn Fn(&DeadLetter) -> &str| Field {
        name,
        kind: "String",
        parts: column(&|column, dead_letter| column.text(value(dead_letter))),
    };
    let time = |name, value: &dyn Fn(&DeadLetter) -> i64| Field {
        name,
        kind: "DateTime64(3, 'UTC')",
        parts: column(&|column, dead_letter| column.i64(value(dead_letter))),
    };
    let fields = vec![
        text("project_id", &|dead_letter| &dead_letter.project),
        text("id", &|dead_letter| &dead_letter.id),
        text("kind", &|dead_letter| dead_letter.kind.label()),
        text("code", &|dead_letter| &dead_letter.code),
        text("reason", &|dead_letter| &dead_letter.reason),
        Field {
            name: "payload",
            kind: "String",
            parts: column(&|column, dead_letter| column.binary(&dead_letter.payload)),
        },
        text("event_id", &|dead_letter| &dead_letter.event_id),
        text("source_topic", &|dead_letter| &dead_letter.origin.topic),
        Field {
            name: "source_partition",
            kind: "Int32",
            parts: column(&|column, dead_letter| column.i32(dead_letter.origin.partition)),
        },
        Field {
            name: "source_offset",
            kind: "Int64",
            parts: column(&|column, dead_letter| column.i64(dead_letter.origin.offset)),
        },
        text("key_id", &|dead_letter| &dead_letter.origin.key_id),
        time("received_at", &|dead_letter| dead_letter.received_at),
        time("failed_at", &|dead_letter| dead_letter.failed_at),
        text("state", &|dead_letter| dead_letter.state.label()),
        time("updated_at", &|dead_letter| dead_letter.updated_at),
    ];
    native::block(dead_letters.len(), fields)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn dead_letter(payload: &[u8]) -> DeadLetter {
        DeadLetter {
            project: "p".into(),
            id: "01".into(),
            kind: Kind::Json,
            code: "too_old".into(),
            reason: "old".into(),
            payload: payload.to_vec(),
            event_id: "e".into(),
            origin: Origin { topic: "t".into(), partition: 3, offset: 9, key_id: "k".into() },
            received_at: 1,
            failed_at: 2,
            state: DeadLetterState::Open,
            updated_at: 3,
        }
    }

    #[test]
    fn any_payload_survives_json() {
        for payload in [&b"{\"a\":\"\\u00e9\"}"[..], "é\u{0}".as_bytes(), &[0xff, 0x00, 0x1f], b""] {
            let dead_letter = dead_letter(payload);
            assert_eq!(DeadLetter::from_json(&dead_letter.to_json()), Ok(dead_letter));
        }
    }

    #[test]
    fn what_is_not_a_dead_letter_is_reported_without_being_quoted() {
        let error = DeadLetter::from_json(br#"{"v":1,"secret":"x"}"#).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(DeadLetter::from_json(br#"{"v":2}"#), Err(Broken::Version(2)));
    }

    #[test]
    fn texts_are_cut_between_characters_and_bytes_anywhere() {
        let text = format!("{}é", "x".repeat(MAX_PAYLOAD_BYTES - 1));
        assert_eq!(cut(text.as_bytes()).len(), MAX_PAYLOAD_BYTES - 1);
        assert_eq!(cut(&vec![0xff; MAX_PAYLOAD_BYTES + 5]).len(), MAX_PAYLOAD_BYTES);
        assert_eq!(cut(b"short"), b"short");
    }

    #[test]
    fn a_dead_letter_is_shown_without_its_payload() {
        assert!(!format!("{:?}", dead_letter(b"secret")).contains("secret"));
    }
}
