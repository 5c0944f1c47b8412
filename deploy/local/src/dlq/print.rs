//! Dead letters as text.

use serde_json::json;
use tallyhouse_ingest::dead_letters::DeadLetter;

/// One line per dead letter, under a heading.
pub fn table(letters: &[DeadLetter]) -> String {
    let mut out = String::new();
    let mut line = |fields: [&str; 6]| {
        let [id, project, state, code, event_id, reason] = fields.map(printable);
        out.push_str(&format!("{id:<26}  {project:<16}  {state:<9}  {code:<19}  {event_id:<26}  {reason}\n"));
    };
    line(["ID", "PROJECT", "STATE", "CODE", "EVENT", "REASON"]);
    for letter in letters {
        line([&letter.id, &letter.project, letter.state.label(), &letter.code, &letter.event_id, &letter.reason]);
    }
    out
}

/// A dead letter as one line of JSON, without its payload.
pub fn json_line(letter: &DeadLetter) -> String {
    json!({
        "id": letter.id, "project": letter.project, "state": letter.state, "kind": letter.kind, "code": letter.code,
        "reason": letter.reason, "eventId": letter.event_id, "keyId": letter.origin.key_id,
        "topic": letter.origin.topic, "partition": letter.origin.partition, "offset": letter.origin.offset,
        "receivedAt": letter.received_at, "failedAt": letter.failed_at, "updatedAt": letter.updated_at,
        "payloadBytes": letter.payload.len(),
    })
    .to_string()
}

/// Everything about a dead letter; a payload that is not text is hexadecimal.
pub fn details(letter: &DeadLetter) -> String {
    let payload = match std::str::from_utf8(&letter.payload) {
        Ok(text) => printable(text),
        Err(_) => letter.payload.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    format!("{}\n{payload}\n", json_line(letter))
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
