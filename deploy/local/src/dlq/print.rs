//! Dead letters as text.

use serde_json::json;
use tallyhouse_ingest::dead_letters::DeadLetter;
use tallyhouse_sql::hex;

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
    json!({
        "id": dead_letter.id, "project": dead_letter.project, "state": dead_letter.state, "kind": dead_letter.kind, "code": dead_letter.code,
        "reason": dead_letter.reason, "eventId": dead_letter.event_id, "keyId": dead_letter.origin.key_id,
        "topic": dead_letter.origin.topic, "partition": dead_letter.origin.partition, "offset": dead_letter.origin.offset,
        "receivedAt": dead_letter.received_at, "failedAt": dead_letter.failed_at, "updatedAt": dead_letter.updated_at,
        "payloadBytes": dead_letter.payload.len(),
    })
    .to_string()
}

/// Everything about a dead letter; a payload that is not text is hexadecimal.
pub fn details(dead_letter: &DeadLetter) -> String {
    let payload = match std::str::from_utf8(&dead_letter.payload) {
        Ok(text) => printable(text),
        Err(_) => hex(&dead_letter.payload),
    };
    format!("{}\n{payload}\n", json_line(dead_letter))
}

/// Without control characters: what a stranger sent must not move the cursor of whoever looks at it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_terminal_gets_no_orders() {
        assert_eq!(super::printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\n");
    }
}
