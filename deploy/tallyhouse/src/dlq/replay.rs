//! Replays dead letters through the ingest API, and marks them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use tallyhouse_ingest::dead_letters::{DeadLetter, DeadLetterState, Kind};
use tallyhouse_schema::Rejection;
use tallyhouse_schema::normalise::happened_at;
use tallyhouse_schema::raw::RawTime;
use tallyhouse_sql::{Connection, StoreError};

use super::mark;
use super::send::{Answer, SendError, Sender};

/// Why a dead letter is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSendable {
    #[error("it is a Kafka record, not an event")]
    Record,
    /// Cut, or never JSON.
    #[error("its payload is not a JSON object")]
    NotAnObject,
    /// What is kept of it is repaired, and would be taken.
    #[error("its id was broken when it came; its sender has to send it again")]
    BrokenId,
}

/// What became of one dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Taken and marked.
    Replayed,
    /// Refused again; it stays open.
    Rejected { code: String, message: String },
    /// Not sent; it stays open.
    Kept(NotSendable),
}

/// Why a replay ended early. What was taken until then is marked.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Send(#[from] SendError),
    /// Marking: the event is counted, and the dead letter is still open. Replaying it again is a duplicate.
    #[error("the event was taken, and its dead letter could not be marked: {0}")]
    Mark(#[from] StoreError),
}

/// The event to be sent: as it was, digit by digit, but certain to have an id, and to mean the time that it meant when it was
/// received.
///
/// A sender's `sentAt` would be compared with the time of the replay, and the event could move; so what it tells is decided
/// here, with the time of receipt.
pub fn prepare(dead_letter: &DeadLetter) -> Result<String, NotSendable> {
    if dead_letter.kind != Kind::Json {
        return Err(NotSendable::Record);
    }
    if dead_letter.code == (Rejection::BrokenId { field: "" }).code() {
        return Err(NotSendable::BrokenId);
    }
    let mut event: Fields<'_> = serde_json::from_slice(&dead_letter.payload).map_err(|_| NotSendable::NotAnObject)?;
    let not_json = |_| NotSendable::NotAnObject;
    if given(&event, ["eventId", "event_id"]).is_none_or(|id| id.get() == "\"\"") {
        let id = if dead_letter.event_id.is_empty() { &dead_letter.id } else { &dead_letter.event_id };
        event.remove("event_id");
        event.insert("eventId".to_owned(), Cow::Owned(to_raw_value(id).map_err(not_json)?));
    }
    let timestamp = given(&event, ["timestamp", "timestamp"]).and_then(RawTime::of_json);
    let sent_at = given(&event, ["sentAt", "sent_at"]).and_then(RawTime::of_json);
    let is_moved = timestamp.is_none() || sent_at.is_some();
    let happened_at = happened_at(timestamp.as_ref(), sent_at.as_ref(), dead_letter.received_at);
    if let (Ok(at), true) = (happened_at, is_moved) {
        event.insert("timestamp".to_owned(), Cow::Owned(to_raw_value(&at).map_err(not_json)?));
    }
    event.retain(|name, _| name != "sentAt" && name != "sent_at");
    serde_json::to_string(&event).map_err(not_json)
}

/// An event's fields, each as the JSON that it is.
type Fields<'a> = BTreeMap<String, Cow<'a, RawValue>>;

/// What counts of a field that has two spellings.
fn given<'a>(event: &'a Fields<'_>, spellings: [&str; 2]) -> Option<&'a RawValue> {
    spellings.iter().filter_map(|name| event.get(*name)).map(|value| &**value).find(|value| value.get() != "null")
}

/// Sends one dead letter and marks it when it was taken.
pub async fn replay(writer: &Connection, sender: &Sender, dead_letter: &DeadLetter) -> Result<Sent, ReplayError> {
    let event = match prepare(dead_letter) {
        Ok(event) => event,
        Err(why) => return Ok(Sent::Kept(why)),
    };
    match sender.send(&event).await? {
        Answer::Taken => {
            mark(writer, std::slice::from_ref(dead_letter), DeadLetterState::Replayed).await?;
            Ok(Sent::Replayed)
        }
        Answer::Rejected { code, message } => Ok(Sent::Rejected { code, message }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tallyhouse_ingest::dead_letters::Origin;

    use super::*;

    fn dead_letter(payload: &str) -> DeadLetter {
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
            state: DeadLetterState::Open,
            updated_at: 10_000,
        }
    }

    fn prepared(dead_letter: &DeadLetter) -> Value {
        serde_json::from_str(&prepare(dead_letter).unwrap()).unwrap()
    }

    #[test]
    fn what_is_sent_has_an_id_so_that_a_second_replay_is_a_duplicate() {
        let sent = |payload| prepared(&dead_letter(payload))["eventId"].clone();
        assert_eq!(sent(r#"{"eventId":"mine"}"#), "mine");
        assert_eq!(sent("{}"), "letter");
        assert_eq!(sent(r#"{"event_id":""}"#), "letter");
        assert_eq!(prepared(&dead_letter(r#"{"event_id":"mine"}"#)).get("eventId"), None);
    }

    #[test]
    fn an_event_keeps_its_time_however_late_it_is_replayed() {
        // Ten o'clock, received at eleven.
        let (ten, eleven) = (1_800_000_000_000_i64, 1_800_003_600_000_i64);
        let late =
            |payload: &str| prepared(&DeadLetter { received_at: eleven, ..dead_letter(payload) })["timestamp"].clone();
        for (payload, expected) in [
            ("{}".to_owned(), json!(eleven)),
            (r#"{"timestamp":null,"sentAt":1800000000}"#.to_owned(), json!(ten)),
            (format!(r#"{{"timestamp":{ten}}}"#), json!(ten)),
            (format!(r#"{{"timestamp":{ten},"sentAt":{}}}"#, ten + 1_000), json!(ten)),
            (format!(r#"{{"timestamp":{ten},"sent_at":{}}}"#, eleven + 3_600_000), json!(ten - 3_600_000)),
            (format!(r#"{{"timestamp":{ten},"sentAt":0}}"#), json!(ten)),
            (r#"{"timestamp":"soon","sentAt":6000}"#.to_owned(), json!("soon")),
        ] {
            assert_eq!(late(&payload), expected, "{payload}");
            let event = prepared(&dead_letter(&payload));
            assert!(event.get("sentAt").is_none() && event.get("sent_at").is_none());
        }
    }

    #[test]
    fn an_event_keeps_every_digit() {
        let payload = r#"{"eventId":"a","n":18446744073709551617,"timestamp":5,"properties":{"a":1,"a":12345678901234567890123}}"#;
        let sent = prepare(&dead_letter(payload)).unwrap();
        assert!(sent.contains(r#""n":18446744073709551617"#), "{sent}");
        assert!(sent.contains(r#""properties":{"a":1,"a":12345678901234567890123}"#), "{sent}");
    }

    #[test]
    fn what_is_no_event_is_not_sent() {
        assert_eq!(prepare(&dead_letter("{oops")), Err(NotSendable::NotAnObject));
        assert_eq!(prepare(&dead_letter("[1]")), Err(NotSendable::NotAnObject));
        let broken =
            DeadLetter { code: "broken_id".into(), ..dead_letter(r#"{"eventType":"a","userId":"J\u{fffd}rg"}"#) };
        assert_eq!(prepare(&broken), Err(NotSendable::BrokenId));
        assert_eq!(prepare(&DeadLetter { kind: Kind::Record, ..dead_letter("{}") }), Err(NotSendable::Record));
    }
}
