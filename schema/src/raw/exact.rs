//! Reads values with numbers kept as text, so that no digit is lost. Slower than reading numbers, and rarely needed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Name, Scalar};

/// Why an array cannot be written.
pub(super) enum Unwritten {
    /// It is nested too deeply.
    TooDeep,
    /// It cannot be read.
    Json(serde_json::Error),
}

/// A field that should be a scalar.
pub(super) fn scalar(raw: &RawValue) -> Scalar<'_> {
    let text = raw.get();
    if !text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        return serde_json::from_str(text).unwrap_or(Scalar::Other);
    }
    match (text.parse::<i64>(), text.contains(['.', 'e', 'E'])) {
        (Ok(number), _) => Scalar::Integer(number),
        (Err(_), false) => Scalar::Digits(Cow::Borrowed(text)),
        (Err(_), true) => text.parse().map_or(Scalar::Other, Scalar::Float),
    }
}

/// An array as compact JSON, of at most so many levels: as `serde_json` writes it, but with its numbers as they are.
pub(super) fn array(raw: &RawValue, levels: usize) -> Result<String, Unwritten> {
    let mut out = String::with_capacity(raw.get().len());
    write(raw, levels, &mut out)?;
    Ok(out)
}

fn write(raw: &RawValue, levels: usize, out: &mut String) -> Result<(), Unwritten> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'[' | b'{') if levels == 0 => return Err(Unwritten::TooDeep),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(Unwritten::Json)?;
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, levels - 1, out)?;
            }
            out.push(']');
        }
        Some(b'{') => {
            let fields: BTreeMap<Name<'_>, &RawValue> = serde_json::from_str(text).map_err(Unwritten::Json)?;
            out.push('{');
            for (index, (Name(name), value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(&name).map_err(Unwritten::Json)?);
                out.push(':');
                write(value, levels - 1, out)?;
            }
            out.push('}');
        }
        Some(b'-' | b'0'..=b'9') => out.push_str(text),
        _ => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(Unwritten::Json)?;
            out.push_str(&value.to_string());
        }
    }
    Ok(())
}
