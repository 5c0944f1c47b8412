//! Converts ClickHouse's lines (names, types, then one line per row) to one JSON object, in the stream.
//!
//! ```text
//! ["a","b"]            {"columns":[{"name":"a","type":"UInt8"},…],"rows":[
//! ["UInt8","String"]   [1,"x"],
//! [1,"x"]              [2,"y"]
//! [2,"y"]              ],"meta":{"rows":2,…}}
//! ```

use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use crate::render;
use crate::render::meta;

/// The longest names and types together, in bytes; a statement has 10 KB and a column is named in it or in a table.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// What an answer says about itself. Not how many rows were read: these are whole granules, in which rows of others may lie, so that
/// their number would tell of others.
#[derive(Serialize)]
struct Meta {
    rows: u64,
    truncated: bool,
    elapsed_ms: f64,
}

/// Rows on their way. A line break in ClickHouse's JSON is always between rows.
#[derive(Debug)]
pub struct JsonRows {
    header: Option<Vec<u8>>,
    rows: u64,
    is_between: bool,
    began: Instant,
}

impl JsonRows {
    /// Nothing yet. The time since `began` becomes part of the answer.
    pub fn new(began: Instant) -> Self {
        Self { header: Some(Vec::new()), rows: 0, is_between: false, began }
    }

    /// What is to be sent for the next bytes; `None` when they are not what ClickHouse was asked for.
    pub fn push(&mut self, chunk: &[u8]) -> Option<Bytes> {
        let Some(mut header) = self.header.take() else {
            let mut out = Vec::with_capacity(chunk.len() + 16);
            self.rows(chunk, &mut out);
            return Some(out.into());
        };
        header.extend_from_slice(chunk);
        let mut ends = header.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index + 1);
        let (Some(names_end), Some(types_end)) = (ends.next(), ends.next()) else {
            let fits = header.len() <= MAX_HEADER_BYTES;
            self.header = Some(header);
            return fits.then(Bytes::new);
        };
        let names: Vec<String> = serde_json::from_slice(header.get(..names_end)?).ok()?;
        let types: Vec<String> = serde_json::from_slice(header.get(names_end..types_end)?).ok()?;
        let columns: Vec<_> = names.iter().zip(&types).map(|(name, of)| json!({"name": name, "type": of})).collect();
        let mut out = format!("{{\"columns\":{},\"rows\":[", json!(columns)).into_bytes();
        self.rows(header.get(types_end..)?, &mut out);
        Some(out.into())
    }

    fn rows(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if std::mem::take(&mut self.is_between) {
                out.push(b',');
            }
            out.extend_from_slice(line);
            if out.pop_if(|byte| *byte == b'\n').is_some() {
                self.rows += 1;
                self.is_between = true;
            }
        }
    }

    /// The end of the answer; `None` when not even the names came.
    pub fn finish(&mut self) -> Option<Bytes> {
        let meta = Meta {
            rows: self.rows,
            truncated: false,
            elapsed_ms: meta::rounded(self.began.elapsed().as_secs_f64() * 1_000.0),
        };
        self.header.is_none().then(|| format!("],\"meta\":{}}}", render::json::text(&meta)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str, size: usize) -> serde_json::Value {
        let mut rows = JsonRows::new(Instant::now());
        let mut out = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            out.extend_from_slice(&rows.push(chunk).unwrap());
        }
        out.extend_from_slice(&rows.finish().unwrap());
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn rows_are_the_same_however_they_arrive() {
        let text = "[\"a\",\"b\"]\n[\"UInt8\",\"String\"]\n[1,\"x\\ny\"]\n[2,null]\n";
        for size in 1..=text.len() {
            let answer = whole(text, size);
            assert_eq!(answer["columns"][1], json!({"name": "b", "type": "String"}), "{size}");
            assert_eq!(answer["rows"], json!([[1, "x\ny"], [2, null]]), "{size}");
            assert_eq!((&answer["meta"]["rows"], &answer["meta"]["rows_read"]), (&json!(2), &json!(null)));
        }
        assert_eq!(whole("[\"a\"]\n[\"UInt8\"]\n", 3)["rows"], json!([]));
    }

    #[test]
    fn what_is_not_rows_is_refused() {
        let mut rows = JsonRows::new(Instant::now());
        assert_eq!(rows.push(b"PAR1\n\n"), None);
        assert_eq!(JsonRows::new(Instant::now()).finish(), None);
    }
}
