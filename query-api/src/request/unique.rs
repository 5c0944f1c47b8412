//! Reads JSON in which each name of an object is given once. A repeated name is refused: nobody knows which value was meant, and
//! most readers silently take the last.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::quoted;

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is not JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// A name of an object is given more than once.
    #[error("`{path}` is given more than once")]
    Twice {
        /// The path to it, such as `filters[0].name`, shortened.
        path: String,
    },
}

/// Reads a text.
pub fn parse(text: &[u8]) -> Result<Value, Fault> {
    let twice = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = Reader { path: &Path::Root, twice: &twice }.deserialize(&mut deserializer);
    match (twice.take(), read) {
        (Some(path), _) => Err(Fault::Twice { path: quoted(&path) }),
        (None, Ok(value)) => Ok(deserializer.end().map(|()| value)?),
        (None, Err(error)) => Err(error.into()),
    }
}

/// Where a value stands. Written out only for a complaint.
enum Path<'a> {
    Root,
    Name(&'a Path<'a>, &'a str),
    Place(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Name(Self::Root, name) => formatter.write_str(name),
            Self::Name(before, name) => write!(formatter, "{before}.{name}"),
            Self::Place(before, place) => write!(formatter, "{before}[{place}]"),
        }
    }
}

/// Reads the value at a path.
#[derive(Clone, Copy)]
struct Reader<'a> {
    path: &'a Path<'a>,
    /// The path that was there before.
    twice: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reader { path: &Path::Place(self.path, list.len()), ..self })? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = Path::Name(self.path, &name);
            if object.contains_key(&name) {
                self.twice.replace(Some(path.to_string()));
                return Err(A::Error::custom("a name is given more than once"));
            }
            let value = fields.next_value_seed(Reader { path: &path, ..self })?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_twice_is_told_with_its_path() {
        for (text, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":null,"b":2,"a":3}"#, "a"),
            (r#"{"a":[0,{"b":{"c":1,"c":2}}]}"#, "a[1].b.c"),
            (r#"[[{"a":1,"\u0061":2}]]"#, "[0][0].a"),
            // Broken behind it: what is certain comes first.
            (r#"{"a":1,"a":"#, "a"),
        ] {
            let fault = parse(text.as_bytes()).unwrap_err();
            assert!(matches!(&fault, Fault::Twice { path: found } if found == path), "{text}: {fault}");
        }
        assert!(parse(br#"{"a":{"a":[{"a":1},{"a":2}]},"A":1}"#).is_ok());
    }

    #[test]
    fn all_else_is_read_as_ever() {
        for text in [
            r#" {"a":[1,-2,3.5,1e300,18446744073709551615,true,false,null,"x\u00e4\n",{},[]]} "#,
            "{",
            "",
            "[1,]",
            "{\"a\" 1}",
            "nul",
            "[1] 2",
            "1e999",
            "{\"a\":1,}",
            "\"\\ud800\"",
            "\u{1}",
        ] {
            let expected: Result<Value, _> = serde_json::from_slice(text.as_bytes());
            match (parse(text.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(Fault::Syntax(found)), Err(expected)) => assert_eq!(found.to_string(), expected.to_string()),
                (found, expected) => panic!("{text}: {found:?} {expected:?}"),
            }
        }
        assert!(matches!(parse("[".repeat(1_000).as_bytes()), Err(Fault::Syntax(_))));
    }
}
