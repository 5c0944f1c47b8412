//! How the bytes of ClickHouse are converted in the stream.
//!
//! ```text
//! parquet  bytes as they are
//! text     bytes -> UTF-8 -> as they are | one JSON object | local times
//! ```

use bytes::Bytes;

use super::local_times::LocalTimes;
use super::rows::JsonRows;
use super::utf8::Utf8;

/// A way of making an answer of bytes.
#[derive(Debug)]
pub enum Shape {
    /// They are the answer.
    Binary,
    /// Text, made UTF-8 and given a form.
    Text(Utf8, Form),
}

/// What is made of text.
#[derive(Debug)]
pub enum Form {
    /// The text as it is: CSV and NDJSON.
    AsIs,
    /// Lines become one JSON object.
    Json(Box<JsonRows>),
    /// Times become local.
    Local(Box<LocalTimes>),
}

impl Shape {
    /// Text of a form.
    pub fn text(form: Form) -> Self {
        Self::Text(Utf8::default(), form)
    }

    /// What is to be sent for the next bytes; `None` when they are not what ClickHouse was asked for.
    pub fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        match self {
            Self::Binary => Some(chunk),
            Self::Text(utf8, form) => form.push(utf8.push(chunk)),
        }
    }

    /// The end of the answer; `None` when something is missing.
    pub fn finish(&mut self) -> Option<Bytes> {
        let Self::Text(utf8, form) = self else { return Some(Bytes::new()) };
        let last = form.push(utf8.finish())?;
        match form {
            Form::AsIs => Some(last),
            Form::Json(rows) => rows.finish().map(|end| [last, end].concat().into()),
            Form::Local(times) => times.is_whole().then_some(last),
        }
    }
}

impl Form {
    fn push(&mut self, text: Bytes) -> Option<Bytes> {
        match self {
            Self::AsIs => Some(text),
            Self::Json(rows) => rows.push(&text),
            Self::Local(times) => times.push(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn text_is_utf_8_in_every_form_and_binary_stays_what_it_is() {
        let bytes = Bytes::from_static(b"[\"\xff\"]\n[\"String\"]\n[\"a\xe2\x82\"]\n");
        let whole = |mut shape: Shape| {
            let mut out = shape.push(bytes.clone()).unwrap().to_vec();
            out.extend_from_slice(&shape.finish().unwrap());
            out
        };
        assert_eq!(whole(Shape::Binary), bytes);
        assert_eq!(whole(Shape::text(Form::AsIs)), String::from_utf8_lossy(&bytes).as_bytes());
        let rows = Box::new(JsonRows::new(Instant::now()));
        let answer: serde_json::Value = serde_json::from_slice(&whole(Shape::text(Form::Json(rows)))).unwrap();
        assert_eq!((&answer["columns"][0]["name"], &answer["rows"][0][0]), (&"\u{fffd}".into(), &"a\u{fffd}".into()));
    }
}
