//! `filters`: a list of conditions that must all hold, each a small tree.
//!
//! ```json
//! [["is", "country", ["DE", "FR"]], ["or", [["contains", "page", ["/shop"]], ["not", ["is", "device", ["mobile"]]]]]]
//! ```
//!
//! A statement binds the value of each test as a parameter, those of a funnel's steps twice, and ClickHouse takes a thousand
//! parameters: so a document has at most [`MOST_TESTS`], in all of its places together ([`Tests`]).

use std::collections::BTreeSet;

use tallyhouse_schema::dimension::stored_event_type;

use super::body::JsonPart;
use super::error::BadRequest;
use super::values;
use crate::condition::{Condition, Field, How};

/// Conditions of one list, and values of one test, at most.
const MOST: (usize, usize) = (32, 1_000);

/// Tests of fields in one document: of filters, event types and breakdowns together.
pub const MOST_TESTS: usize = 100;

const WORDS: [&str; 7] = ["is", "is_not", "contains", "contains_not", "and", "or", "not"];

/// How many tests a document may still have.
#[derive(Debug)]
pub struct Tests {
    left: usize,
}

impl Tests {
    /// Of a document of which nothing was read yet.
    pub const fn of_document() -> Self {
        Self { left: MOST_TESTS }
    }

    /// Of a document that was accepted once: it is read again, whatever is accepted now.
    pub const fn of_accepted() -> Self {
        Self { left: usize::MAX }
    }

    /// Whether the document is asked now, and not one that was accepted before.
    const fn is_new(&self) -> bool {
        // Far beyond any document that was accepted.
        self.left <= MOST_TESTS
    }

    /// One more, which stands there.
    pub fn count(&mut self, part: &JsonPart<'_>) -> Result<(), BadRequest> {
        let too_many = || part.bad(format!("this test is one more than the {MOST_TESTS} that a document may have"));
        self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        Ok(())
    }
}

/// Reads the list.
pub fn parse(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let items = part.items(MOST.0)?;
    items.iter().try_fold(Condition::always(), |all, one| Ok(all.and(condition(one, tests)?)))
}

/// Reads the list if there is one; without, everything passes.
pub fn parse_any(part: Option<&JsonPart<'_>>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    part.map_or_else(|| Ok(Condition::always()), |part| parse(part, tests))
}

fn condition(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    let items = part.items(3)?;
    let Some((word, rest)) = items.split_first() else {
        return Err(part.bad("it is empty; write a condition such as [\"is\", \"country\", [\"DE\"]]"));
    };
    let mut test = |field, how, values| {
        tests.count(part)?;
        test(field, how, values, tests.is_new())
    };
    match (word.text()?, rest) {
        ("is", [field, values]) => test(field, How::Is, values),
        ("is_not", [field, values]) => Ok(not(test(field, How::Is, values)?)),
        ("contains", [field, values]) => test(field, How::Contains, values),
        ("contains_not", [field, values]) => Ok(not(test(field, How::Contains, values)?)),
        // A metric that was registered with one keeps it.
        ("and", [several]) if tests.is_new() && several.items(MOST.0)?.is_empty() => {
            Err(several.bad("`and` needs at least one condition"))
        }
        ("and", [several]) => parse(several, tests),
        ("or", [several]) => {
            let items = several.items(MOST.0)?;
            let mut all: Vec<Condition> = items.iter().map(|one| condition(one, tests)).collect::<Result<_, _>>()?;
            if all.is_empty() {
                return Err(several.bad("`or` needs at least one condition"));
            }
            all.sort();
            all.dedup();
            Ok(Condition::Or(all))
        }
        ("not", [one]) => Ok(not(condition(one, tests)?)),
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

fn test(field: &JsonPart<'_>, how: How, list: &JsonPart<'_>, is_new: bool) -> Result<Condition, BadRequest> {
    let name = field.text()?;
    if name.is_empty() || values::is_time(name) {
        return Err(field.bad("name a dimension or `event_type`; the range of time is `date_range`"));
    }
    let mut texts = BTreeSet::new();
    let field = Field::named(name);
    for value in list.items(MOST.1)? {
        let text = value.dimension_value()?;
        if is_new {
            can_be_found(&field, how, &text, &value)?;
        }
        // What a dimension counts a value as is for the table to say; an event type is stored in one way only.
        let text = if field == Field::EventType { stored_event_type(text) } else { text };
        texts.insert(text.into_owned());
    }
    if texts.is_empty() {
        return Err(list.bad("name at least one value; the empty text stands for events without this dimension"));
    }
    Ok(Condition::Test { field, how, values: texts })
}

/// The empty text stands for events without a dimension; no event is without a type, and every value contains it.
fn can_be_found(field: &Field, how: How, text: &str, value: &JsonPart<'_>) -> Result<(), BadRequest> {
    match how {
        How::Contains if text.is_empty() => {
            Err(value.bad("every value contains the empty text; leave the condition out"))
        }
        How::Is if *field == Field::EventType && !values::is_event_type(text) => {
            Err(value.not("an event type: that has 1 to 100 characters"))
        }
        How::Contains | How::Is => Ok(()),
    }
}

/// The events of the type that a field names, a test of its own.
pub fn event_type_of(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Condition, BadRequest> {
    tests.count(part)?;
    Ok(Condition::is(Field::EventType, [values::event_type_field(part)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    fn parsed(text: &str) -> Result<Condition, BadRequest> {
        parse(&JsonPart::root(&body::parse(text.as_bytes())?), &mut Tests::of_document())
    }

    #[test]
    fn the_same_filters_in_any_order_are_equal() {
        let one = parsed(r#"[["is","a",["x","y"]],["or",[["is","b",["1"]],["not",["is","c",["2"]]]]]]"#).unwrap();
        let other =
            parsed(r#"[["and",[["or",[["is_not","c",["2"]],["is","b",["1","1"]]]],["is","a",["y","x"]]]]]"#).unwrap();
        assert_eq!(one, other);
        assert_eq!(parsed(r#"[["not",["not",["is","a",["x"]]]]]"#).unwrap(), parsed(r#"[["is","a",["x"]]]"#).unwrap());
        assert_eq!(parsed("[]").unwrap(), Condition::always());
        assert!(parsed(r#"[["is","timezone",["UTC"]]]"#).is_ok());
    }

    #[test]
    fn errors_say_where() {
        for (text, expected) in [
            (r#"[["contains","a",[""]]]"#, "`[0][2][0]`: every value contains the empty text"),
            (r#"[["is","event_type",["a",""]]]"#, "`[0][2][1]`: `` is not an event type"),
            (r#"{}"#, "an object is not a list"),
            (r#"[["is","a"]]"#, "`[0]`: `is` is written [\"is\", dimension, [value, …]]"),
            (r#"[["iss","a",["x"]]]"#, "`[0][0]`: there is no condition `iss`"),
            (r#"[["is","a",[]]]"#, "`[0][2]`: name at least one value"),
            (r#"[["is","a",[true]]]"#, "`[0][2][0]`: `true` is not a text or a number"),
            (r#"[["is","a",[18446744073709551617]]]"#, "`[0][2][0]`: write a number this large as a text"),
            (r#"[["or",[]]]"#, "`[0][1]`: `or` needs at least one"),
            (r#"[["and",[]]]"#, "`[0][1]`: `and` needs at least one"),
            (r#"[["not",["and",[]]]]"#, "`[0][1][1]`: `and` needs at least one"),
            (r#"[[]]"#, "`[0]`: it is empty"),
            (r#"[["is","time:day",["x"]]]"#, "`[0][1]`: name a dimension"),
            (r#"[["is","time",["x"]]]"#, "`[0][1]`: name a dimension"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_is_asked_for_as_it_is_counted_and_a_text_as_it_is() {
        for (json, expected) in [
            ("7", "7"),
            ("7.0", "7"),
            ("7e0", "7"),
            ("-0", "0"),
            ("0.10", "0.1"),
            ("1e-7", "1e-7"),
            ("123456789012345680", "123456789012345680"),
            ("9007199254740993", "9007199254740993"),
            ("18446744073709551615", "18446744073709551615"),
            (r#""1.10""#, "1.10"),
            (r#""18446744073709551617""#, "18446744073709551617"),
            (r#""a\tb""#, "a\tb"),
        ] {
            let expected = Condition::is(Field::named("n"), [expected.to_owned()]);
            assert_eq!(parsed(&format!(r#"[["is","n",[{json}]]]"#)), Ok(expected), "{json}");
        }
        let stored = Condition::is(Field::EventType, ["ab".to_owned()]);
        assert_eq!(parsed(r#"[["is","event_type",["a\tb"]]]"#), Ok(stored));
    }

    #[test]
    fn a_value_that_is_longer_than_what_is_stored_of_it_is_asked_for_whole() {
        assert!(parsed(&format!(r#"[["is","a",["{}"]]]"#, "x".repeat(5_000))).is_ok());
    }

    #[test]
    fn tests_are_counted_wherever_they_stand() {
        // Four lists of 25, the last of them one longer.
        let list = |tests: usize| format!(r#"["or",[{}]]"#, vec![r#"["not",["is","a",["x"]]]"#; tests].join(","));
        let all = |last| format!("[{}]", [25, 25, 25, last].map(list).join(","));
        assert!(parsed(&all(25)).is_ok());
        let error = parsed(&all(26)).unwrap_err().to_string();
        assert_eq!(error, "`[3][1][25][1]`: this test is one more than the 100 that a document may have");
        let value = body::parse(all(26).as_bytes()).unwrap();
        assert!(parse(&JsonPart::root(&value), &mut Tests::of_accepted()).is_ok());
    }
}
