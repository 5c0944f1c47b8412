//! A query string as named texts: decoded, bounded, every name known. The first stage of reading a request.

use std::collections::BTreeMap;

use super::error::{BadRequest, quoted};
use super::suggest::nearest;

/// Longest query string in bytes.
pub const MAX_QUERY_BYTES: usize = 10 * 1024;

/// The one parameter that may be repeated.
pub const FILTER: &str = "filter";

/// The replacement character, U+FFFD, in a query string.
const WRITTEN_REPLACEMENT: &str = "%EF%BF%BD";

/// Decoded parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params {
    single: BTreeMap<&'static str, String>,
    filters: Vec<String>,
}

impl Params {
    /// Reads a query string in which only the names in `known` may occur, each with a value.
    pub fn parse(raw: Option<&str>, known: &'static [&'static str]) -> Result<Self, BadRequest> {
        let raw = raw.unwrap_or_default();
        if raw.len() > MAX_QUERY_BYTES {
            return Err(BadRequest::QueryTooLong { bytes: raw.len(), limit: MAX_QUERY_BYTES });
        }
        let mut params = Self::default();
        let decoded = |pair: &'_ str| {
            let replacements = pair.to_ascii_uppercase().matches(WRITTEN_REPLACEMENT).count();
            form_urlencoded::parse(pair.as_bytes()).into_owned().next().map(|(name, value)| (name, value, replacements))
        };
        for (name, value, replacements) in raw.split('&').filter_map(decoded) {
            let Some(name) = known.iter().copied().find(|candidate| *candidate == name) else {
                let near = nearest(&name, known);
                return Err(BadRequest::UnknownParameter { name: quoted(&name), near, known });
            };
            // Bytes that are not UTF-8 were replaced while decoding; a value may hold that character by itself.
            if value.matches(char::REPLACEMENT_CHARACTER).count() > replacements {
                let (given, expected) = (quoted(&value), "UTF-8".to_owned());
                return Err(BadRequest::Malformed { parameter: name, given, expected });
            }
            params.insert(name, value)?;
        }
        Ok(params)
    }

    fn insert(&mut self, name: &'static str, value: String) -> Result<(), BadRequest> {
        // What events are asked for by is read as events are; nothing else holds control characters.
        let is_of_events = matches!(name, FILTER | "eventType");
        if !is_of_events && value.contains(char::is_control) {
            let expected = "text without control characters".to_owned();
            return Err(BadRequest::Malformed { parameter: name, given: quoted(&value), expected });
        }
        // `filter=country:` has a meaning; a parameter without anything has none, and is not guessed at.
        if value.trim().is_empty() {
            let expected = "a value; give one, or leave the parameter out".to_owned();
            return Err(BadRequest::Malformed { parameter: name, given: quoted(&value), expected });
        }
        if name == FILTER {
            self.filters.push(value);
            return Ok(());
        }
        match self.single.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(BadRequest::Twice { parameter: name }),
        }
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.single.get(name).map(String::as_str)
    }

    /// All `filter` values, as given.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["granularity", "timezone", FILTER];

    #[test]
    fn values_are_decoded_and_filters_repeat() {
        let params =
            Params::parse(Some("timezone=Europe%2FBerlin&filter=a:1&filter=b:%C3%A4+%2B&filter=c:"), KNOWN).unwrap();
        assert_eq!(params.get("timezone"), Some("Europe/Berlin"));
        assert_eq!(params.get("granularity"), None);
        assert_eq!(params.filters(), ["a:1", "b:ä +", "c:"]);
        assert_eq!(Params::parse(None, KNOWN).unwrap(), Params::default());
    }

    #[test]
    fn errors_name_the_parameter() {
        for (query, expected) in [
            ("granularty=hour", "`granularty` is not a parameter here; did you mean granularity?"),
            ("timezone=UTC&timezone=UTC", "`timezone` is given more than once"),
            ("timezone=%00", "`timezone`: `\u{fffd}` is not text without control characters"),
            ("filter=%ff", "`filter`: `\u{fffd}` is not UTF-8"),
            ("filter=%ff%EF%BF%BD", "`filter`: `\u{fffd}\u{fffd}` is not UTF-8"),
            ("granularity=", "`granularity`: `` is not a value; give one, or leave the parameter out"),
            ("granularity", "`granularity`: `` is not a value; give one, or leave the parameter out"),
            ("timezone=UTC&timezone=", "`timezone`: `` is not a value; give one, or leave the parameter out"),
            ("filter=+%20", "`filter`: `  ` is not a value; give one, or leave the parameter out"),
        ] {
            assert_eq!(Params::parse(Some(query), KNOWN).unwrap_err().to_string(), expected, "{query}");
        }
        let filters = Params::parse(Some("filter=a:%EF%BF%BD%09%1f"), KNOWN).unwrap().filters;
        assert_eq!(filters, ["a:\u{fffd}\t\u{1f}"], "events may hold these");
        let long = format!("filter={}", "x".repeat(MAX_QUERY_BYTES));
        assert!(matches!(Params::parse(Some(&long), KNOWN), Err(BadRequest::QueryTooLong { .. })));
    }
}
