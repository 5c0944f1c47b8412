//! A block read back: rows taken out of it, and values of one row.
//!
//! It reads the types that the product writes: `String`, numbers, times, `Nullable`, `Array`, `Map` and `Tuple` of these. A block of
//! other types, or one that is cut, is `None`.

use std::ops::Range;

use bytes::{Buf, Bytes};

use super::leb128;

/// A block of which every column was understood.
#[derive(Debug, Clone)]
pub struct Rows {
    rows: usize,
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    name: Bytes,
    kind: Bytes,
    values: Values,
}

/// Values of a column or of a part of one. Bytes are shared with the block.
#[derive(Debug, Clone)]
enum Values {
    /// Each with its length before it; where each ends.
    Text {
        bytes: Bytes,
        ends: Vec<usize>,
    },
    Fixed {
        bytes: Bytes,
        scalar: Scalar,
    },
    Nullable {
        is_null: Bytes,
        values: Box<Values>,
    },
    /// Where each array ends among the elements. A Map is an Array of pairs.
    Array {
        ends: Vec<usize>,
        elements: Box<Values>,
    },
    Tuple(Vec<Values>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Unsigned(usize),
    Signed(usize),
    Float,
}

/// A value of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A string; it need not be UTF-8.
    Text(&'a [u8]),
    /// A number or a time without a fraction.
    Integer(i128),
    /// `Float64`, which `Float32` is widened to.
    Float(f64),
    /// NULL.
    Null,
    /// An array, a tuple, or a map's pairs.
    List(Vec<Value<'a>>),
}

impl Rows {
    /// Reads a block. Its chunks are joined, so this holds as much memory again.
    pub fn read(chunks: &[Bytes]) -> Option<Self> {
        let mut block = match chunks {
            [only] => only.clone(),
            many => Bytes::from(many.concat()),
        };
        let (count, rows) = (number(&mut block)?, number(&mut block)?);
        let mut columns = Vec::new();
        for _ in 0..count {
            let (name, kind) = (text(&mut block)?, text(&mut block)?);
            let values = Values::read(std::str::from_utf8(&kind).ok()?, rows, &mut block)?;
            columns.push(Column { name, kind, values });
        }
        block.is_empty().then_some(Self { rows, columns })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// A block of some rows, in order. Ranges are ascending and do not overlap; what is beyond the block is left out.
    pub fn block_of(&self, ranges: &[Range<usize>]) -> Vec<Bytes> {
        let ranges: Vec<_> = ranges.iter().map(|range| range.start.min(self.rows)..range.end.min(self.rows)).collect();
        let mut out = Vec::new();
        leb128(&mut out, self.columns.len() as u64);
        leb128(&mut out, ranges.iter().map(|range| range.len() as u64).sum());
        for column in &self.columns {
            for text in [&column.name, &column.kind] {
                leb128(&mut out, text.len() as u64);
                out.extend_from_slice(text);
            }
            column.values.write(&ranges, &mut out);
        }
        vec![out.into()]
    }

    /// A row's value in a column; `None` when there is no such column or row.
    pub fn value(&self, column: &str, row: usize) -> Option<Value<'_>> {
        self.columns.iter().find(|known| known.name == column.as_bytes())?.values.get(row)
    }
}

impl Values {
    fn read(kind: &str, rows: usize, block: &mut Bytes) -> Option<Self> {
        let scalar = match kind {
            "String" => return Self::read_texts(rows, block),
            "UInt8" => Scalar::Unsigned(1),
            "UInt16" => Scalar::Unsigned(2),
            "UInt32" => Scalar::Unsigned(4),
            "UInt64" => Scalar::Unsigned(8),
            "Int8" => Scalar::Signed(1),
            "Int16" => Scalar::Signed(2),
            "Int32" => Scalar::Signed(4),
            "Int64" => Scalar::Signed(8),
            "Float64" => Scalar::Float,
            _ => match kind.split_once('(')? {
                ("DateTime64", _) => Scalar::Signed(8),
                ("DateTime", _) => Scalar::Unsigned(4),
                (outer, rest) => return Self::read_nested(outer, rest.strip_suffix(')')?, rows, block),
            },
        };
        Some(Self::Fixed { bytes: take(block, rows.checked_mul(scalar.width())?)?, scalar })
    }

    fn read_texts(rows: usize, block: &mut Bytes) -> Option<Self> {
        let mut rest = block.clone();
        let mut ends = Vec::with_capacity(rows.min(block.len()));
        for _ in 0..rows {
            text(&mut rest)?;
            ends.push(block.len() - rest.len());
        }
        let bytes = take(block, ends.last().copied().unwrap_or(0))?;
        Some(Self::Text { bytes, ends })
    }

    fn read_nested(outer: &str, inner: &str, rows: usize, block: &mut Bytes) -> Option<Self> {
        match outer {
            "Nullable" => {
                let is_null = take(block, rows)?;
                Some(Self::Nullable { is_null, values: Box::new(Self::read(inner, rows, block)?) })
            }
            "Array" => Self::read_array(rows, block, |elements, block| Self::read(inner, elements, block)),
            "Map" => Self::read_array(rows, block, |elements, block| Self::read_tuple(inner, elements, block)),
            "Tuple" => Self::read_tuple(inner, rows, block),
            _ => None,
        }
    }

    fn read_array(
        rows: usize,
        block: &mut Bytes,
        elements: impl FnOnce(usize, &mut Bytes) -> Option<Self>,
    ) -> Option<Self> {
        let mut bytes = take(block, rows.checked_mul(8)?)?;
        let mut ends = Vec::with_capacity(rows);
        while bytes.has_remaining() {
            let end = usize::try_from(bytes.get_u64_le()).ok()?;
            if ends.last().is_some_and(|before| *before > end) {
                return None;
            }
            ends.push(end);
        }
        let elements = elements(ends.last().copied().unwrap_or(0), block)?;
        Some(Self::Array { ends, elements: Box::new(elements) })
    }

    fn read_tuple(inner: &str, rows: usize, block: &mut Bytes) -> Option<Self> {
        let parts = split(inner).into_iter().map(|kind| Self::read(kind, rows, block));
        parts.collect::<Option<_>>().map(Self::Tuple)
    }

    fn write(&self, ranges: &[Range<usize>], out: &mut Vec<u8>) {
        match self {
            Self::Text { bytes, ends } => {
                for range in ranges {
                    out.extend_from_slice(bytes.get(start(ends, range.start)..start(ends, range.end)).unwrap_or(&[]));
                }
            }
            Self::Fixed { bytes, scalar } => {
                let width = scalar.width();
                for range in ranges {
                    out.extend_from_slice(bytes.get(range.start * width..range.end * width).unwrap_or(&[]));
                }
            }
            Self::Nullable { is_null, values } => {
                ranges.iter().for_each(|range| out.extend_from_slice(is_null.get(range.clone()).unwrap_or(&[])));
                values.write(ranges, out);
            }
            Self::Array { ends, elements } => {
                let mut written = 0;
                for range in ranges {
                    let (before, ends) = (start(ends, range.start), ends.get(range.clone()).unwrap_or(&[]));
                    ends.iter().for_each(|end| out.extend_from_slice(&((written + end - before) as u64).to_le_bytes()));
                    written += ends.last().map_or(0, |end| end - before);
                }
                let inner: Vec<_> =
                    ranges.iter().map(|range| start(ends, range.start)..start(ends, range.end)).collect();
                elements.write(&inner, out);
            }
            Self::Tuple(parts) => parts.iter().for_each(|part| part.write(ranges, out)),
        }
    }

    fn get(&self, row: usize) -> Option<Value<'_>> {
        Some(match self {
            Self::Text { bytes, ends } => {
                let mut value = bytes.get(start(ends, row)..*ends.get(row)?)?;
                super::read_leb128(&mut value)?;
                Value::Text(value)
            }
            Self::Fixed { bytes, scalar } => {
                scalar.value(bytes.get(row * scalar.width()..(row + 1) * scalar.width())?)?
            }
            Self::Nullable { is_null, values } => match is_null.get(row)? {
                0 => values.get(row)?,
                _ => Value::Null,
            },
            Self::Array { ends, elements } => {
                Value::List((start(ends, row)..*ends.get(row)?).map(|at| elements.get(at)).collect::<Option<_>>()?)
            }
            Self::Tuple(parts) => Value::List(parts.iter().map(|part| part.get(row)).collect::<Option<_>>()?),
        })
    }
}

impl Scalar {
    const fn width(self) -> usize {
        match self {
            Self::Unsigned(width) | Self::Signed(width) => width,
            Self::Float => 8,
        }
    }

    fn value(self, mut bytes: &[u8]) -> Option<Value<'static>> {
        (bytes.len() == self.width()).then(|| match self {
            Self::Unsigned(width) => Value::Integer(bytes.get_uint_le(width).into()),
            Self::Signed(width) => Value::Integer(bytes.get_int_le(width).into()),
            Self::Float => Value::Float(bytes.get_f64_le()),
        })
    }
}

/// Where a row begins: where the one before it ends.
fn start(ends: &[usize], row: usize) -> usize {
    row.checked_sub(1).and_then(|before| ends.get(before.min(ends.len().checked_sub(1)?))).copied().unwrap_or(0)
}

/// The arguments of a type: split at commas that stand in no parentheses.
fn split(kinds: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let at_top = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    kinds.split(at_top).map(str::trim).collect()
}

fn take(block: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= block.len()).then(|| block.split_to(length))
}

fn text(block: &mut Bytes) -> Option<Bytes> {
    let length = number(block)?;
    take(block, length)
}

fn number(block: &mut Bytes) -> Option<usize> {
    let mut bytes: &[u8] = block;
    let number = super::read_leb128(&mut bytes)?;
    let left = bytes.len();
    block.advance(block.len() - left);
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Column as Filling, Ends, Field, block};
    use super::*;

    /// Rows numbered by `of`, with every type that is written.
    fn numbered(of: &[usize]) -> Vec<Bytes> {
        let [mut names, mut times, mut nulls, mut values, mut keys, mut texts, mut sets, mut dims] =
            [(); 8].map(|()| Filling::default());
        let (mut map, mut array) = (Ends::default(), Ends::default());
        for n in of.iter().copied() {
            names.text(&"x".repeat(n * 40 % 300));
            times.i64(n as i64 - 3);
            nulls.byte(u8::from(n % 3 == 0));
            values.f64(n as f64 / 2.0);
            map.push(n % 4);
            (0..n % 4).for_each(|key| {
                keys.text(&format!("k{n}-{key}"));
                texts.text(&format!("v{key}"));
            });
            array.push(n % 3);
            (0..n % 3).for_each(|_| {
                sets.text("set");
                dims.text(&n.to_string());
            });
        }
        let field = |name, kind, parts| Field { name, kind, parts };
        block(
            of.len(),
            vec![
                field("name", "String", vec![names]),
                field("ts", "DateTime64(3, 'UTC')", vec![times]),
                field("value", "Nullable(Float64)", vec![nulls, values]),
                field("props", "Map(String, String)", vec![map.into_column(), keys, texts]),
                field("dims", "Array(Tuple(String, String))", vec![array.into_column(), sets, dims]),
            ],
        )
    }

    #[test]
    fn rows_taken_out_are_as_if_they_had_been_written_alone() {
        let all: Vec<usize> = (0..40).collect();
        let rows = Rows::read(&numbered(&all)).unwrap();
        // Every way to leave out rows in three places, by a simple generator.
        for seed in 0_usize..200 {
            let [a, b, c] = [seed * 7 % 40, seed * 11 % 40, seed * 17 % 40];
            let kept: Vec<usize> = all.iter().copied().filter(|n| ![a, b, c].contains(n)).collect();
            let mut ranges: Vec<Range<usize>> = Vec::new();
            for row in kept.iter().copied() {
                match ranges.last_mut() {
                    Some(last) if last.end == row => last.end += 1,
                    _ => ranges.push(row..row + 1),
                }
            }
            assert_eq!(rows.block_of(&ranges).concat(), numbered(&kept).concat(), "without {a}, {b}, {c}");
        }
        assert_eq!(rows.block_of(std::slice::from_ref(&(0..40))).concat(), numbered(&all).concat());
        assert_eq!(rows.block_of(&[]).concat(), numbered(&[]).concat());
    }

    #[test]
    fn values_are_read_by_name() {
        let rows = Rows::read(&numbered(&[5, 6, 7])).unwrap();
        assert_eq!(rows.value("ts", 0), Some(Value::Integer(2)));
        assert_eq!((rows.value("value", 1), rows.value("value", 2)), (Some(Value::Null), Some(Value::Float(3.5))));
        let pair = |key, value| Value::List(vec![Value::Text(key), Value::Text(value)]);
        assert_eq!(rows.value("props", 0), Some(Value::List(vec![pair(b"k5-0", b"v0")])));
        assert_eq!(rows.value("dims", 2), Some(Value::List(vec![pair(b"set", b"7")])));
        assert_eq!((rows.value("nothing", 0), rows.value("ts", 3)), (None, None));
    }

    #[test]
    fn a_block_that_is_cut_or_of_other_types_is_not_read() {
        let whole: Bytes = numbered(&[1, 2, 3, 4]).concat().into();
        assert!((0..whole.len()).all(|cut| Rows::read(&[whole.slice(..cut)]).is_none()));
        let mut column = Filling::default();
        column.u64(1);
        let other = block(1, vec![Field { name: "x", kind: "LowCardinality(String)", parts: vec![column] }]);
        assert!(Rows::read(&other).is_none());
    }
}
