//! Sanitizes ClickHouse's error text for the analyst: keeps what is wrong with the SQL, removes versions, scopes and internal names.

/// The longest text that is passed on, in characters. Syntax errors list every word that could have followed.
const MAX_CHARS: usize = 400;

/// What stands for something that is not the caller's to know.
const HIDDEN: &str = "…";

/// A sanitized text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sanitized {
    pub message: String,
    /// Where in the statement, in bytes from 1, when ClickHouse said so.
    pub position: Option<usize>,
}

/// Sanitizes `Code: 62. DB::Exception: … (SYNTAX_ERROR) (version 26.7.2.1)`.
///
/// Of a text that quotes bytes which are not UTF-8 the client hands on `Code: 62` alone.
pub fn sanitize(text: &str) -> Sanitized {
    if let Some(code) = text.strip_prefix("Code: ").filter(|code| code.bytes().all(|byte| byte.is_ascii_digit())) {
        let message = format!(
            "ClickHouse refused the statement with error {code}, and its text is not UTF-8: look at bytes with hex()"
        );
        return Sanitized { message, position: None };
    }
    let text = text.lines().next().unwrap_or_default();
    let text = text.split_once("DB::Exception: ").map_or(text, |(_, rest)| rest);
    let text = text.split_once(" (version ").map_or(text, |(rest, _)| rest);
    let text = without_error_name(text);
    // The scope is the caller's own SQL, or a row policy.
    let text = text.split_once(" In scope ").map_or(text, |(rest, _)| rest.trim_end_matches(':'));
    let text = text.split_once(". Expected one of: ").map_or(text, |(rest, _)| rest);
    let text = match text.split_once("Not enough privileges") {
        Some((_, _)) => "Not enough privileges: only SELECT on the tables events, rollup_1m, rollup_1h and rollup_1d",
        None => text,
    };
    let words: Vec<&str> = text.split(' ').map(|word| if is_internal(word) { HIDDEN } else { word }).collect();
    let message = words.join(" ").chars().take(MAX_CHARS).collect();
    Sanitized { message, position: number_after(text, "failed at position ") }
}

/// `2026-11-21 13:00:00` of `Interval will end at 2026-11-21 13:00:00. …`, ClickHouse's clock being set to UTC.
pub fn quota_ends(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Interval will end at ")?;
    rest.get(..19)
}

/// Without the ` (SYNTAX_ERROR)` at the end.
fn without_error_name(text: &str) -> &str {
    let Some((rest, name)) = text.rsplit_once(" (") else { return text };
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    match name.strip_suffix(')') {
        Some(name) if name.chars().all(is_name) => rest,
        _ => text,
    }
}

/// A path of the server, or an address: `/var/lib/x`, `ch-1:9000`, `10.0.0.1:9000`.
fn is_internal(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/');
    let mut parts = bare.split('/');
    let is_path = parts.next() == Some("") && parts.next().is_some_and(|part| !part.is_empty());
    let is_address = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && host.contains(|c: char| c.is_ascii_alphabetic() || c == '.')
    });
    is_path || is_address
}

fn number_after(text: &str, words: &str) -> Option<usize> {
    let (_, rest) = text.split_once(words)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stays_and_where_it_runs_goes() {
        for (text, message, position) in [
            (
                "Code: 62. DB::Exception: Syntax error: failed at position 9 (end of query): ; SELECT 2. Expected one of: \
                 token, alias. (SYNTAX_ERROR) (version 26.7.2.1)",
                "Syntax error: failed at position 9 (end of query): ; SELECT 2",
                Some(9),
            ),
            (
                "Code: 46. DB::Exception: Function with name `countt` does not exist. In scope SELECT countt() FROM t. \
                 Maybe you meant: ['count']. (UNKNOWN_FUNCTION) (version 26.7.2.1)",
                "Function with name `countt` does not exist.",
                None,
            ),
            (
                "Code: 497. DB::Exception: analyst: Not enough privileges. To execute this query, it's necessary to have the \
                 grant X. (ACCESS_DENIED) (version 26.7.2.1)",
                "Not enough privileges: only SELECT on the tables events, rollup_1m, rollup_1h and rollup_1d",
                None,
            ),
            (
                "Code: 36. DB::Exception: Cannot open /var/lib/x: while talking to (ch-1.internal:9000). (BAD) (version 1)",
                "Cannot open … while talking to …",
                None,
            ),
            (
                "Code: 6",
                "ClickHouse refused the statement with error 6, and its text is not UTF-8: look at bytes with hex()",
                None,
            ),
            ("", "", None),
        ] {
            assert_eq!(sanitize(text), Sanitized { message: message.to_owned(), position }, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_quota_is_found() {
        let text = "Quota for user `a` for 3600s has been exceeded: queries = 4/3. Interval will end at 2026-11-21 13:00:00. Name";
        assert_eq!(quota_ends(text), Some("2026-11-21 13:00:00"));
        assert_eq!(quota_ends("Interval will end at soon"), None);
    }
}
