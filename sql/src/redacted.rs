//! ClickHouse's error text as it may be logged: without the statement, and without the values that it quotes.

/// Characters that are kept.
const MAX_CHARS: usize = 500;

/// Where ClickHouse begins to quote the statement, rows or its own code.
const ENDS: [&str; 11] = [
    " (in query:",
    " In scope ",
    " in scope ",
    ": While processing",
    ": while processing",
    ": While executing",
    ": while executing",
    " Column values:",
    "Stack trace:",
    " (version ",
    "\n",
];

/// Before a position in the statement; what follows the position is the statement.
const POSITION: &str = "failed at position ";

/// The text up to where the statement begins, `'?'` in the place of quoted values.
pub(crate) fn redacted(text: &str) -> String {
    let text = text.split_once("DB::Exception: ").map_or(text, |(_, text)| text);
    let text = ENDS.iter().fold(text, |text, end| text.split_once(end).map_or(text, |(before, _)| before));
    let text = match text.split_once(POSITION) {
        Some((before, after)) => {
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            format!("{before}{POSITION}{digits}")
        }
        None => text.to_owned(),
    };
    let kept = without_quoted(&text);
    kept.trim_end_matches([':', '.', ' ']).chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

/// An apostrophe within a word (`doesn't`) begins no text. One that is never closed hides the rest.
fn without_quoted(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        if c != '\'' || before.is_alphanumeric() {
            kept.push(c);
            before = c;
            continue;
        }
        while let Some(quoted) = chars.next() {
            match quoted {
                '\\' => drop(chars.next()),
                '\'' => break,
                _ => {}
            }
        }
        kept.push_str("'?'");
        before = ' ';
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_stays_and_the_statement_and_values_go() {
        for (text, expected) in [
            (
                "Code: 6. DB::Exception: Cannot parse string 'it\\'s secret' as UInt64: syntax error at begin of string. Note: there are \
                 toUInt64OrZero: In scope SELECT toUInt64('it\\'s secret'). (CANNOT_PARSE_TEXT) (version 26.7.2.1)",
                "Cannot parse string '?' as UInt64: syntax error at begin of string. Note: there are toUInt64OrZero",
            ),
            (
                "Code: 62. DB::Exception: Single quoted string is not closed: 'secret ",
                "Single quoted string is not closed: '?'",
            ),
            (
                "Code: 62. DB::Exception: Syntax error: failed at position 10 (secret): secret 5. Expected one of: token. (SYNTAX_ERROR)",
                "Syntax error: failed at position 10",
            ),
            (
                "Code: 241. DB::Exception: Query memory limit exceeded: would use 1.90 GiB, maximum: 1.86 GiB: While executing X. (MEMORY)",
                "Query memory limit exceeded: would use 1.90 GiB, maximum: 1.86 GiB",
            ),
            (
                "Code: 497. DB::Exception: x: Not enough privileges. To execute this query, it's necessary to have the grant SELECT ON a.b. (DENIED)",
                "x: Not enough privileges. To execute this query, it's necessary to have the grant SELECT ON a.b. (DENIED)",
            ),
            ("not of ClickHouse", "not of ClickHouse"),
        ] {
            assert_eq!(redacted(text), expected, "{text}");
        }
    }
}
