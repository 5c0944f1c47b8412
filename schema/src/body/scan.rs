//! Scans text that is not quite JSON: where the elements of an array end, and which id an event has that cannot be read.

use crate::limits::MAX_ID_CHARS;

/// The parts of an array or of an object, at the commas between them. Brackets are counted and strings skipped; nothing else is
/// understood, so a part may be anything.
pub(super) struct Parts<'a> {
    text: &'a str,
    at: usize,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotReached,
    /// The closing bracket is there, and nothing follows it.
    Closed,
    /// The text ends too early, or too late.
    CutOff,
}

impl<'a> Parts<'a> {
    /// Of a text that begins with a bracket.
    pub(super) fn of(text: &'a str) -> Self {
        let is_bracketed = text.starts_with(['[', '{']);
        Self { text, at: 1, end: if is_bracketed { End::NotReached } else { End::CutOff } }
    }

    /// Whether the text ended with its closing bracket. Known when all parts were seen.
    pub(super) fn is_closed(&self) -> bool {
        self.end == End::Closed
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.end != End::NotReached {
            return None;
        }
        let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
        for (at, byte) in self.text.bytes().enumerate().skip(self.at) {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_text => is_escaped = true,
                b'"' => is_text = !is_text,
                _ if is_text => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == 0 => {
                    let is_last = self.text.get(at + 1..).is_some_and(|rest| rest.trim().is_empty());
                    self.end = if is_last { End::Closed } else { End::CutOff };
                    return self.text.get(self.at..at);
                }
                b']' | b'}' => depth -= 1,
                b',' if depth == 0 => return self.text.get(std::mem::replace(&mut self.at, at + 1)..at),
                _ => {}
            }
        }
        self.end = End::CutOff;
        self.text.get(self.at..)
    }
}

/// The value of the first top-level entry with one of these names, as it stands in the text.
pub(super) fn entry<'a>(object: &'a str, names: &[&str]) -> Option<&'a str> {
    entries(object, names).next()
}

/// The values of all of them.
pub(super) fn entries<'a>(object: &'a str, names: &[&str]) -> impl Iterator<Item = &'a str> {
    Parts::of(object.trim()).filter_map(|part| {
        let part = part.trim_start();
        let (name, rest) = names.iter().find_map(|name| Some((name, part.strip_prefix('"')?.strip_prefix(name)?)))?;
        let value = rest.strip_prefix('"')?.trim_start().strip_prefix(':')?.trim();
        (!name.is_empty()).then_some(value)
    })
}

/// The id that an event's text gives, if one can be found: a refusal names it. At most as long as an id may be.
pub fn event_id(text: &str) -> Option<String> {
    let value = entry(text, &["eventId", "event_id"])?;
    let id = match value.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(value).ok()?,
        b'-' | b'0'..=b'9' => value.to_owned(),
        _ => return None,
    };
    (!id.is_empty()).then(|| id.chars().filter(|c| !c.is_control()).take(MAX_ID_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_at_commas_of_their_own() {
        let parts = |text| {
            let mut parts = Parts::of(text);
            (parts.by_ref().collect::<Vec<_>>(), parts.is_closed())
        };
        assert_eq!(parts(r#"[{"a":"],\"{"},[1,2] , NaN]"#), (vec![r#"{"a":"],\"{"}"#, "[1,2] ", " NaN"], true));
        assert_eq!(parts("[1,]"), (vec!["1", ""], true));
        assert_eq!(parts("[]"), (vec![""], true));
        assert_eq!(parts("[1,{\"a"), (vec!["1", "{\"a"], false));
        assert_eq!(parts("[1] x"), (vec!["1"], false));
        assert_eq!(parts("x"), (vec![], false));
    }

    #[test]
    fn an_id_is_found_in_what_cannot_be_read() {
        for (text, id) in [
            (r#"{"a":{"eventId":"inner"},"eventId":"i","value":NaN}"#, Some("i")),
            (r#" { "value" : 1e999 , "event_id" : "\u00fc" "#, Some("ü")),
            (r#"{"eventId":7,"x""#, Some("7")),
            (r#"{"eventId":"","x":1}"#, None),
            (r#"{"eventId":{"a":1}}"#, None),
            (r#"{"eventId":"tor"#, None),
            ("[1]", None),
            ("", None),
        ] {
            assert_eq!(event_id(text).as_deref(), id, "{text}");
        }
        assert_eq!(event_id(&format!(r#"{{"eventId":"{}"}}"#, "x".repeat(500))).map(|id| id.len()), Some(MAX_ID_CHARS));
    }
}
