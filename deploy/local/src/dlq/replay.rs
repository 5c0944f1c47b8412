//! Letters -> the ingest API -> marks.

use serde_json::{Map, Value};
use tallyhouse_ingest::dead_letters::{DeadLetter, Kind, State};
use tallyhouse_schema::raw::RawTime;
use tallyhouse_schema::time;
use tallyhouse_sql::{Connection, StoreError};

use super::mark;
use super::send::{Answer, SendError, Sender};

/// Why a letter is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSendable {
    /// A Kafka record.
    #[error("it is a Kafka record, not an event")]
    Record,
    /// Cut, or never JSON.
    #[error("its payload is not a JSON object")]
    NotAnObject,
}

/// What became of one letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Taken and marked.
    Replayed,
    /// Refused again; it stays open.
    Rejected {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// Not sent; it stays open.
    Kept(NotSendable),
}

/// Why a replay ended early. What was taken until then is marked.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The API.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Marking: the event is counted, and the letter is still open. Replaying it again is a duplicate.
    #[error("the event was taken, and its letter could not be marked: {0}")]
    Mark(#[from] StoreError),
}

/// The event to be sent: as it was, but certain to have an id, and to mean the time that it meant when it was received.
///
/// A sender's `sentAt` would be compared with the time of the replay, and the event would move by as much; so the correction
/// is made here, with the time of receipt.
pub fn prepare(letter: &DeadLetter) -> Result<String, NotSendable> {
    if letter.kind != Kind::Json {
        return Err(NotSendable::Record);
    }
    let mut event: Map<String, Value> =
        serde_json::from_slice(&letter.payload).map_err(|_| NotSendable::NotAnObject)?;
    let has_id = ["eventId", "event_id"].iter().any(|name| matches!(event.get(*name), Some(id) if !is_empty(id)));
    if !has_id {
        let id = if letter.event_id.is_empty() { &letter.id } else { &letter.event_id };
        event.remove("event_id");
        event.insert("eventId".to_owned(), id.clone().into());
    }
    let sent_at = ["sentAt", "sent_at"].iter().filter_map(|name| event.remove(*name)).last();
    match event.get("timestamp") {
        None | Some(Value::Null) => {
            event.insert("timestamp".to_owned(), letter.received_at.into());
        }
        Some(timestamp) => {
            if let (Some(at), Some(sent_at)) = (instant(timestamp), sent_at.as_ref().and_then(instant)) {
                let corrected = letter.received_at.saturating_sub(sent_at.saturating_sub(at));
                event.insert("timestamp".to_owned(), corrected.into());
            }
        }
    }
    Ok(Value::Object(event).to_string())
}

fn is_empty(id: &Value) -> bool {
    id.is_null() || id.as_str() == Some("")
}

fn instant(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => time::millis(&RawTime::Text(text.as_str().into())),
        _ => None,
    }
}

/// Sends one letter and marks it when it was taken.
pub async fn replay(writer: &Connection, sender: &Sender, letter: &DeadLetter) -> Result<Sent, ReplayError> {
    let event = match prepare(letter) {
        Ok(event) => event,
        Err(why) => return Ok(Sent::Kept(why)),
    };
    match sender.send(&event).await? {
        Answer::Taken => {
            mark(writer, std::slice::from_ref(letter), State::Replayed).await?;
            Ok(Sent::Replayed)
        }
        Answer::Rejected { code, message } => Ok(Sent::Rejected { code, message }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tallyhouse_ingest::dead_letters::Origin;

    use super::*;

    fn letter(payload: &str) -> DeadLetter {
        DeadLetter {
            project: "p".into(),
            id: "letter".into(),
            kind: Kind::Json,
            code: "too_old".into(),
            reason: String::new(),
            payload: payload.into(),
            event_id: String::new(),
            origin: Origin::of_key("k"),
            received_at: 10_000,
            failed_at: 10_000,
            state: State::Open,
            updated_at: 10_000,
        }
    }

    fn prepared(letter: &DeadLetter) -> Value {
        serde_json::from_str(&prepare(letter).unwrap()).unwrap()
    }

    #[test]
    fn what_is_sent_has_an_id_so_that_a_second_replay_is_a_duplicate() {
        let sent = |payload| prepared(&letter(payload))["eventId"].clone();
        assert_eq!(sent(r#"{"eventId":"mine"}"#), "mine");
        assert_eq!(sent("{}"), "letter");
        assert_eq!(sent(r#"{"event_id":""}"#), "letter");
        assert_eq!(prepared(&letter(r#"{"event_id":"mine"}"#)).get("eventId"), None);
    }

    #[test]
    fn an_event_keeps_its_time_however_late_it_is_replayed() {
        for (payload, expected) in [
            ("{}", json!(10_000)),
            (r#"{"timestamp":5000}"#, json!(5_000)),
            (r#"{"timestamp":5000,"sentAt":6000}"#, json!(9_000)),
            (r#"{"timestamp":"1970-01-01T00:00:05Z","sent_at":6000}"#, json!(9_000)),
            (r#"{"timestamp":"soon","sentAt":6000}"#, json!("soon")),
        ] {
            let event = prepared(&letter(payload));
            assert_eq!(event["timestamp"], expected, "{payload}");
            assert!(event.get("sentAt").is_none() && event.get("sent_at").is_none());
        }
    }

    #[test]
    fn what_is_no_event_is_not_sent() {
        assert_eq!(prepare(&letter("{oops")), Err(NotSendable::NotAnObject));
        assert_eq!(prepare(&letter("[1]")), Err(NotSendable::NotAnObject));
        assert_eq!(prepare(&DeadLetter { kind: Kind::Record, ..letter("{}") }), Err(NotSendable::Record));
    }
}
