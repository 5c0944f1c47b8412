//! Prints dead letters as text.

use serde_json::json;
use tallyhouse_ingest::dead_letters::DeadLetter;
use tallyhouse_sql::hex;

/// Characters that move the cursor or turn text around. What a stranger sent must not do that to whoever looks at it.
fn is_order(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

/// A text without orders, on one line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_order(c) { '\u{fffd}' } else { c }).collect()
}

/// The same of JSON, where they are escaped: they stand in texts only.
fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if is_order(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// One line per dead letter, under a heading.
pub fn table(dead_letters: &[DeadLetter]) -> String {
    let mut out = String::new();
    let mut line = |fields: [&str; 6]| {
        let [id, project, state, code, event_id, reason] = fields.map(printable);
        out.push_str(&format!("{id:<26}  {project:<16}  {state:<9}  {code:<19}  {event_id:<26}  {reason}\n"));
    };
    line(["ID", "PROJECT", "STATE", "CODE", "EVENT", "REASON"]);
    for dead_letter in dead_letters {
        line([
            &dead_letter.id,
            &dead_letter.project,
            dead_letter.state.label(),
            &dead_letter.code,
            &dead_letter.event_id,
            &dead_letter.reason,
        ]);
    }
    out
}

/// A dead letter as one line of JSON, without its payload.
pub fn json_line(dead_letter: &DeadLetter) -> String {
    let json = json!({
        "id": dead_letter.id, "project": dead_letter.project, "state": dead_letter.state, "kind": dead_letter.kind, "code": dead_letter.code,
        "reason": dead_letter.reason, "eventId": dead_letter.event_id, "keyId": dead_letter.origin.key_id,
        "topic": dead_letter.origin.topic, "partition": dead_letter.origin.partition, "offset": dead_letter.origin.offset,
        "receivedAt": dead_letter.received_at, "failedAt": dead_letter.failed_at, "updatedAt": dead_letter.updated_at,
        "payloadBytes": dead_letter.payload.len(),
    });
    printable_json(&json.to_string())
}

/// Everything about a dead letter; a payload that is not text is hexadecimal.
pub fn details(dead_letter: &DeadLetter) -> String {
    let payload = match std::str::from_utf8(&dead_letter.payload) {
        Ok(text) => text.split('\n').map(printable).collect::<Vec<_>>().join("\n"),
        Err(_) => hex(&dead_letter.payload),
    };
    format!("{}\n{payload}\n", json_line(dead_letter))
}

#[cfg(test)]
mod tests {
    use tallyhouse_ingest::dead_letters::{DeadLetterState, Kind, Origin};

    use super::*;

    #[test]
    fn a_terminal_gets_no_orders() {
        let orders = "a\u{1b}[2J\u{9b}2J\r\t\u{7f}\u{202e}\nb";
        let text = || orders.to_owned();
        let origin = Origin { topic: text(), partition: 0, offset: 0, key_id: text() };
        let dead_letter = DeadLetter {
            project: text(),
            id: text(),
            kind: Kind::Json,
            code: text(),
            reason: text(),
            payload: orders.into(),
            event_id: text(),
            origin,
            received_at: 0,
            failed_at: 0,
            state: DeadLetterState::Open,
            updated_at: 0,
        };
        let line = json_line(&dead_letter);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["reason"], orders);
        let table = table(std::slice::from_ref(&dead_letter));
        assert_eq!(table.lines().count(), 2, "{table:?}");
        let details = details(&dead_letter);
        assert_eq!(details.lines().count(), 3, "{details:?}");
        for shown in [line, table, details] {
            assert!(!shown.chars().any(|c| is_order(c) && c != '\n'), "{shown:?}");
        }
    }
}
