//! Helpers for JSON.

use serde::Serialize;

/// A value as JSON. Our own types always have a JSON form; should one not, `null` is valid where a value is expected.
pub fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// A number that JSON can hold; `null` for what it cannot, and for nothing.
pub fn number(value: Option<f64>, is_count: bool) -> String {
    match value {
        // Counts come as floating point numbers, exact up to 2^53.
        Some(count) if is_count => format!("{count:.0}"),
        other => text(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_where_they_count_and_never_infinite() {
        assert_eq!(number(Some(9_007_199_254_740_991.0), true), "9007199254740991");
        assert_eq!(number(Some(0.1), false), "0.1");
        assert_eq!(number(Some(f64::INFINITY), false), "null");
        assert_eq!(number(Some(f64::NAN), false), "null");
        assert_eq!(number(None, true), "null");
    }
}
