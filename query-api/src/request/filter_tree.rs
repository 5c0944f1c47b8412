//! `filters`: a list of conditions that must all hold, each a small tree.
//!
//! ```json
//! [["is", "country", ["DE", "FR"]], ["or", [["contains", "page", ["/shop"]], ["not", ["is", "device", ["mobile"]]]]]]
//! ```

use std::collections::BTreeSet;

use super::body::Part;
use super::error::BadRequest;
use crate::plan::condition::{Condition, Field, How};

/// Conditions of one list, and values of one test, at most.
const MOST: (usize, usize) = (32, 1_000);

/// The longest value, in characters.
const MAX_VALUE_CHARS: usize = 1_000;

const WORDS: [&str; 7] = ["is", "is_not", "contains", "contains_not", "and", "or", "not"];

/// Reads the list.
pub fn parse(part: &Part<'_>) -> Result<Condition, BadRequest> {
    let items = part.items(MOST.0)?;
    items.iter().map(condition).try_fold(Condition::always(), |all, one| Ok(all.and(one?)))
}

fn condition(part: &Part<'_>) -> Result<Condition, BadRequest> {
    let items = part.items(3)?;
    let Some((word, rest)) = items.split_first() else {
        return Err(part.bad("it is empty; write a condition such as [\"is\", \"country\", [\"DE\"]]"));
    };
    match (word.text()?, rest) {
        ("is", [field, values]) => test(field, How::Is, values),
        ("is_not", [field, values]) => Ok(not(test(field, How::Is, values)?)),
        ("contains", [field, values]) => test(field, How::Contains, values),
        ("contains_not", [field, values]) => Ok(not(test(field, How::Contains, values)?)),
        ("and", [several]) => parse(several),
        ("or", [several]) => {
            let mut all: Vec<Condition> = several.items(MOST.0)?.iter().map(condition).collect::<Result<_, _>>()?;
            if all.is_empty() {
                return Err(several.bad("`or` needs at least one condition"));
            }
            all.sort();
            all.dedup();
            Ok(Condition::Or(all))
        }
        ("not", [one]) => Ok(not(condition(one)?)),
        (known, _) if WORDS.contains(&known) => Err(part.bad(format!(
            "`{known}` is written {}",
            match known {
                "and" | "or" => format!("[\"{known}\", [condition, …]]"),
                "not" => "[\"not\", condition]".to_owned(),
                test => format!("[\"{test}\", dimension, [value, …]]"),
            }
        ))),
        _ => Err(word.unknown("condition", WORDS)),
    }
}

fn not(condition: Condition) -> Condition {
    match condition {
        Condition::Not(inner) => *inner,
        other => Condition::Not(Box::new(other)),
    }
}

fn test(field: &Part<'_>, how: How, values: &Part<'_>) -> Result<Condition, BadRequest> {
    let name = field.text()?;
    if name.is_empty() || name.starts_with("time") {
        return Err(field.bad("name a dimension or `event_type`; the range of time is `date_range`"));
    }
    let mut texts = BTreeSet::new();
    for value in values.items(MOST.1)? {
        let text = value.text()?;
        if text.chars().count() > MAX_VALUE_CHARS {
            return Err(value.bad(format!("it has more than {MAX_VALUE_CHARS} characters")));
        }
        texts.insert(text.to_owned());
    }
    if texts.is_empty() {
        return Err(values.bad("name at least one value; the empty text stands for events without this dimension"));
    }
    Ok(Condition::Test { field: Field::named(name), how, values: texts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    fn parsed(text: &str) -> Result<Condition, BadRequest> {
        parse(&Part::root(&body::parse(text.as_bytes())?))
    }

    #[test]
    fn the_same_filters_in_any_order_are_equal() {
        let one = parsed(r#"[["is","a",["x","y"]],["or",[["is","b",["1"]],["not",["is","c",["2"]]]]]]"#).unwrap();
        let other =
            parsed(r#"[["and",[["or",[["is_not","c",["2"]],["is","b",["1","1"]]]],["is","a",["y","x"]]]]]"#).unwrap();
        assert_eq!(one, other);
        assert_eq!(parsed(r#"[["not",["not",["is","a",["x"]]]]]"#).unwrap(), parsed(r#"[["is","a",["x"]]]"#).unwrap());
        assert_eq!(parsed("[]").unwrap(), Condition::always());
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            (r#"{}"#, "an object is not a list"),
            (r#"[["is","a"]]"#, "`[0]`: `is` is written [\"is\", dimension, [value, …]]"),
            (r#"[["iss","a",["x"]]]"#, "`[0][0]`: there is no condition `iss`"),
            (r#"[["is","a",[]]]"#, "`[0][2]`: name at least one value"),
            (r#"[["is","a",[1]]]"#, "`[0][2][0]`: `1` is not a text"),
            (r#"[["or",[]]]"#, "`[0][1]`: `or` needs at least one"),
            (r#"[[]]"#, "`[0]`: it is empty"),
            (r#"[["is","time:day",["x"]]]"#, "`[0][1]`: name a dimension"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
