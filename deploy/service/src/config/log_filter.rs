//! `TALLYHOUSE_LOG`: which lines are written. A word that `tracing` takes for the name of a target nobody has would silence
//! everything, so it is refused.

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Words for levels that other programs have.
const MEANT: [(&str, &str); 14] = [
    ("all", "trace"),
    ("critical", "error"),
    ("disabled", "off"),
    ("err", "error"),
    ("fatal", "error"),
    ("information", "info"),
    ("no", "off"),
    ("none", "off"),
    ("notice", "info"),
    ("quiet", "error"),
    ("silent", "off"),
    ("verbose", "debug"),
    ("warning", "warn"),
    ("warnings", "warn"),
];

/// Targets that a directive may name without a level: parts of Tallyhouse.
const TARGETS: [&str; 4] = ["tallyhouse", "ingest", "query_api", "loadtest"];

/// Takes the text back when it is a filter. The error says what would do.
pub(super) fn check(text: &str) -> Result<String, String> {
    for directive in directives(text) {
        match directive.split_once('=') {
            Some((target, level)) if !is_level(level) => return Err(no_level(level.trim(), Some(target.trim()))),
            None if !is_level(directive) && !is_target(directive) => return Err(no_level(directive, None)),
            _ => {}
        }
    }
    EnvFilter::try_new(text).map_err(|error| format!("`{text}` is not a log filter: {error}"))?;
    Ok(text.to_owned())
}

/// Those without spans and fields: these have a syntax of their own, which `tracing` checks.
fn directives(text: &str) -> impl Iterator<Item = &str> {
    let has_spans = text.contains(['[', '{']);
    text.split(',').map(str::trim).filter(move |directive| !has_spans && !directive.is_empty())
}

fn is_level(text: &str) -> bool {
    let text = text.trim();
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) || matches!(text, "0" | "1" | "2" | "3" | "4" | "5")
}

fn is_target(text: &str) -> bool {
    let head = text.split("::").next().unwrap_or_default();
    TARGETS.contains(&head) || head.starts_with("tallyhouse_")
}

fn no_level(word: &str, target: Option<&str>) -> String {
    let meant = MEANT.iter().find(|(other, _)| other.eq_ignore_ascii_case(word)).map(|(_, level)| *level);
    match (meant, target) {
        (Some(level), _) => format!("`{word}` is not a level; say `{level}`"),
        (None, Some(_)) => format!("`{word}` is not a level; levels are {}", LEVELS.join(", ")),
        (None, None) => format!(
            "`{word}` is neither a level ({}) nor a part of Tallyhouse; of another target say `{word}=debug`",
            LEVELS.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_taken() {
        let good = [
            "info",
            "WARN",
            "3",
            "tallyhouse_ingest=debug,info",
            "warn,hyper=trace",
            "tallyhouse_query_api::cache",
            "tallyhouse",
            "ingest",
            "[span{field=a}]=debug",
        ];
        for text in good {
            assert_eq!(check(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_word_that_would_silence_everything_is_refused() {
        for (word, level) in MEANT {
            assert_eq!(check(word), Err(format!("`{word}` is not a level; say `{level}`")));
        }
        assert_eq!(check("info,tallyhouse=Warning").unwrap_err(), "`Warning` is not a level; say `warn`");
        assert_eq!(
            check("hyper,info").unwrap_err(),
            "`hyper` is neither a level (off, error, warn, info, debug, trace) nor a part of Tallyhouse; of another target \
             say `hyper=debug`"
        );
        assert!(check("tallyhouse=loud").unwrap_err().starts_with("`loud` is not a level; levels are off"));
        assert!(check("[").unwrap_err().starts_with("`[` is not a log filter: "));
    }
}
