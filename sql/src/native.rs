//! ClickHouse's Native format: a block, column by column, as it lies in the server's memory.
//!
//! A writer of our own, because it is small and the hot path of the product: rows are appended to columns as events
//! arrive, so that a full batch is already encoded. Layout (`docs/en/interfaces/formats/Native`, checked against a server by
//! the ingest tests): number of columns and of rows as LEB128, then per column its name and type as length-prefixed
//! strings and its values. Strings are length-prefixed; numbers little endian; a Nullable column is a byte map, then
//! values; an Array is cumulative 64-bit ends, then its elements; a Map is an Array of pairs, stored as keys, then values.
//!
//! Types are written without `LowCardinality`: the server casts (`input_format_native_allow_types_conversion`), which
//! costs it less than sending dictionaries costs us.

mod rows;

use bytes::Bytes;

pub use rows::{Rows, Value};

/// A column being filled.
#[derive(Debug, Default)]
pub struct Column {
    bytes: Vec<u8>,
}

impl Column {
    /// Appends a string.
    pub fn text(&mut self, value: &str) {
        leb128(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value.as_bytes());
    }

    /// Appends a string that need not be text.
    pub fn binary(&mut self, value: &[u8]) {
        leb128(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Appends an unsigned 16-bit number.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends an unsigned 64-bit number.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends a signed 32-bit number.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends a signed 64-bit number; `DateTime64` is one.
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends a float.
    pub fn f64(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends a byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Ends of arrays: what stands before the elements of an Array or Map column.
#[derive(Debug, Default)]
pub struct Ends {
    column: Column,
    end: u64,
}

impl Ends {
    /// Appends an array of `length` elements.
    pub fn push(&mut self, length: usize) {
        self.end += length as u64;
        self.column.u64(self.end);
    }

    /// The ends as the first part of the column.
    pub fn into_column(self) -> Column {
        self.column
    }
}

/// A column with its name and type; `parts` lie one after the other.
#[derive(Debug)]
pub struct Field {
    /// The column's name.
    pub name: &'static str,
    /// Its type as ClickHouse writes it.
    pub kind: &'static str,
    /// Its values.
    pub parts: Vec<Column>,
}

/// Puts a block together. The chunks are in order, to be sent or written one after the other: nothing is copied.
pub fn block(rows: usize, fields: Vec<Field>) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(64);
    leb128(&mut head, fields.len() as u64);
    leb128(&mut head, rows as u64);
    let mut chunks = vec![];
    for field in fields {
        for text in [field.name, field.kind] {
            leb128(&mut head, text.len() as u64);
            head.extend_from_slice(text.as_bytes());
        }
        chunks.push(Bytes::from(std::mem::take(&mut head)));
        chunks.extend(field.parts.into_iter().filter(|part| !part.is_empty()).map(|part| Bytes::from(part.bytes)));
    }
    chunks
}

/// The values of a block's first `N` columns, row by row, if all of them are `String`. For blocks that [`block`] made.
pub fn leading_texts<const N: usize>(mut block: &[u8]) -> Option<Vec<[&str; N]>> {
    let (columns, rows) = (read_leb128(&mut block)?, read_leb128(&mut block)?);
    if columns < N as u64 {
        return None;
    }
    let mut texts = vec![[""; N]; usize::try_from(rows).ok().filter(|rows| *rows <= block.len())?];
    for column in 0..N {
        let _name = read_text(&mut block)?;
        if read_text(&mut block)? != "String" {
            return None;
        }
        for row in &mut texts {
            *row.get_mut(column)? = read_text(&mut block)?;
        }
    }
    Some(texts)
}

fn read_text<'a>(block: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(read_leb128(block)?).ok()?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    std::str::from_utf8(text).ok()
}

fn read_leb128(block: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = block.split_first()?;
        *block = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_laid_out_as_documented() {
        let (mut name, mut ends, mut tags) = (Column::default(), Ends::default(), Column::default());
        name.text("ab");
        ends.push(2);
        tags.text("x");
        tags.text("");
        let fields = vec![
            Field { name: "n", kind: "String", parts: vec![name] },
            Field { name: "t", kind: "Array(String)", parts: vec![ends.into_column(), tags] },
        ];
        let bytes: Vec<u8> = block(1, fields).concat();
        let expected: Vec<u8> =
            [&[2, 1][..], b"\x01n\x06String\x02ab", b"\x01t\x0dArray(String)", &2u64.to_le_bytes(), b"\x01x\x00"]
                .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn leading_texts_are_read_back() {
        let (mut left, mut right, mut number) = (Column::default(), Column::default(), Column::default());
        for n in 0..200_u64 {
            left.text("p");
            right.text(&"x".repeat(n as usize));
            number.u64(n);
        }
        let fields = vec![
            Field { name: "a", kind: "String", parts: vec![left] },
            Field { name: "b", kind: "String", parts: vec![right] },
            Field { name: "n", kind: "UInt64", parts: vec![number] },
        ];
        let bytes = block(200, fields).concat();
        let texts = leading_texts::<2>(&bytes).unwrap();
        assert_eq!((texts.len(), texts[199][0], texts[199][1].len()), (200, "p", 199));
        assert_eq!(leading_texts::<3>(&bytes), None);
        assert!((0..bytes.len() / 2).all(|cut| leading_texts::<2>(&bytes[..cut]).is_none()));
    }

    #[test]
    fn lengths_over_127_take_more_bytes() {
        let mut out = Vec::new();
        leb128(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}
