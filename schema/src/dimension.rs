//! Dimensions, and the sets of them that rollups are kept for.

use std::borrow::Cow;
use std::fmt;

use crate::limits::MAX_TEXT_BYTES;
use crate::text;

/// Joins the values of a combination in the column `dim_value`. A control character, because normalised values hold none:
/// no two different combinations can read the same.
pub const VALUE_SEPARATOR: char = '\u{1f}';

/// Longest dimension value in bytes; a longer one is cut at a character boundary.
pub const MAX_VALUE_BYTES: usize = 128;

/// What a dimension's value is counted as when its project has too many values of that dimension in that hour. A client may
/// send this text too: it is counted with the rest, and nothing can tell them apart.
pub const OTHER: &str = "__other__";

/// Where every event stands: rolled up for all event types without any declaration.
pub const DEFAULT_SETS: [&[&str]; 3] = [&["country"], &["device"], &["country", "device"]];

/// A set of dimensions that rollups are kept for, in canonical (alphabetical) order. The empty set is the total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DimSet {
    names: Vec<String>,
    key: String,
}

impl DimSet {
    /// The total: one row per bucket, `dim_set = ''`.
    pub fn total() -> Self {
        Self::default()
    }

    /// A set of the given names; order and repetition do not matter.
    pub fn of<I, S>(names: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
        names.sort();
        names.dedup();
        let key = names.join(",");
        Self { names, key }
    }

    /// The value of the column `dim_set`: names in order, comma between them.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The names, in the order in which `dim_value` holds their values.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether this is the total.
    pub fn is_total(&self) -> bool {
        self.names.is_empty()
    }
}

impl fmt::Display for DimSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_total() { "(total)" } else { &self.key })
    }
}

/// A value as it is counted: without control characters, and cut to [`MAX_VALUE_BYTES`]. Nothing else is changed: neither case
/// nor blanks nor how Unicode is composed. What asks for a value goes through here too.
pub fn counted_value(value: Cow<'_, str>) -> Cow<'_, str> {
    text::cut(text::without_controls(value), MAX_VALUE_BYTES).0
}

/// A text as it is stored: without NUL, and cut to [`MAX_TEXT_BYTES`]. Events of which a dimension is not declared are told apart by
/// this.
pub fn stored_text(text: Cow<'_, str>) -> Cow<'_, str> {
    text::cut(text::without_nul(text), MAX_TEXT_BYTES).0
}

/// An event type as it is stored: without control characters.
pub fn stored_event_type(name: Cow<'_, str>) -> Cow<'_, str> {
    text::without_controls(name)
}

/// Whether a name may be a dimension: a letter, then letters, digits, `_`, `.` or `-`; at most 64 bytes.
pub fn is_valid_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_the_same_in_any_order() {
        assert_eq!(DimSet::of(["device", "country"]), DimSet::of(["country", "device", "country"]));
        assert_eq!(DimSet::of(["device", "country"]).key(), "country,device");
        assert!(DimSet::of(Vec::<String>::new()).is_total());
    }

    #[test]
    fn a_value_is_counted_without_controls_and_cut_and_otherwise_as_it_is() {
        let fits = "x".repeat(MAX_VALUE_BYTES - 1);
        let long = format!("{fits}\u{e4}x");
        for (given, counted) in [
            ("a\u{1f}b\tc\u{85}", "abc"),
            ("\u{1}", ""),
            (long.as_str(), fits.as_str()),
            (" A, b:\u{65}\u{301} ", " A, b:\u{65}\u{301} "),
            (OTHER, OTHER),
        ] {
            assert_eq!(counted_value(given.into()), counted);
            assert_eq!(counted_value(counted.into()), counted, "what is counted is found");
        }
    }

    #[test]
    fn names_with_commas_or_quotes_are_refused() {
        assert!(is_valid_name("context.page"));
        for bad in ["", "a,b", "9a", "a'b", "a b", &"x".repeat(65)] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }
}
