//! Sanitizes texts.

use std::borrow::Cow;

/// Whether [`without_nul`] and [`cut`] leave a text as it is.
pub(crate) fn is_within(text: &str, most: usize) -> bool {
    text.len() <= most && !text.as_bytes().contains(&0)
}

/// Removes NUL characters, which break tools that read exports.
pub(crate) fn without_nul(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.as_bytes().contains(&0) { Cow::Owned(text.replace('\0', "")) } else { text }
}

/// Removes every control character: dimension values are joined by one, and print in dashboards.
pub(crate) fn without_controls(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().filter(|c| !c.is_control()).collect())
    } else {
        text
    }
}

/// Cuts to at most `most` bytes, at a character boundary. The second value says whether anything was cut.
pub(crate) fn cut(text: Cow<'_, str>, most: usize) -> (Cow<'_, str>, bool) {
    if text.len() <= most {
        return (text, false);
    }
    let end = text.floor_char_boundary(most);
    let shorter = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    };
    (shorter, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_never_split_a_character() {
        assert_eq!(cut("aé".into(), 2), ("a".into(), true));
        assert_eq!(cut(Cow::Owned("aé".into()), 3), ("aé".into(), false));
    }

    #[test]
    fn nul_and_controls_go() {
        assert_eq!(without_nul("a\0b\n".into()), "ab\n");
        assert_eq!(without_controls("a\u{1f}b\n\u{85}".into()), "ab");
    }
}
