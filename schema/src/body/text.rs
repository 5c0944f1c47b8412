//! Decodes the bytes of a body as text. Invalid UTF-8, and half a surrogate pair, becomes U+FFFD; only then is the body copied.

use std::borrow::Cow;

use memchr::memchr;

use super::BodyError;

const REPLACEMENT: char = '\u{fffd}';
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The text of a body.
#[derive(Debug)]
pub struct Text<'a> {
    text: Cow<'a, str>,
    /// Where in the text something was replaced, in order.
    repairs: Vec<usize>,
}

/// Bytes as they are to be read.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// All of it is text.
    Clean(Text<'a>),
    /// Some of it is not, and has to be copied.
    Broken(Broken<'a>),
}

/// Bytes that are not all text.
#[derive(Debug)]
pub struct Broken<'a>(&'a [u8]);

/// Reads bytes as UTF-8; a byte order mark in front is skipped.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, BodyError> {
    if let Some(encoding) = compression(bytes) {
        return Err(BodyError::Compressed { encoding });
    }
    if is_utf16(bytes) {
        return Err(BodyError::Utf16);
    }
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) if next_half(bytes, 0).is_none() => {
            Decoded::Clean(Text { text: Cow::Borrowed(text), repairs: Vec::new() })
        }
        _ => Decoded::Broken(Broken(bytes)),
    })
}

/// How bytes are compressed, by their first ones: neither stands in front of any text.
fn compression(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        _ => None,
    }
}

/// A byte order mark of UTF-16 or UTF-32, or a first character of two bytes or four: JSON begins with one of ASCII.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [1..=0x7f, 0, ..])
}

impl<'a> Text<'a> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether something was replaced in a part of it.
    pub fn is_repaired(&self, part: &str) -> bool {
        if self.repairs.is_empty() {
            return false;
        }
        // A part knows where it lies only by its address.
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let first = self.repairs.partition_point(|at| *at < start);
        self.repairs.get(first).is_some_and(|at| *at < start + part.len())
    }
}

impl<'a> Broken<'a> {
    /// The most that its text can take: each byte may become a character of three.
    pub fn most_bytes(&self, most: usize) -> usize {
        self.0.len().saturating_mul(REPLACEMENT.len_utf8()).min(most)
    }

    /// Replaces what is no text; the text may have `most` bytes.
    pub fn repair(self, most: usize) -> Result<Text<'a>, BodyError> {
        let mut text = String::with_capacity(self.0.len());
        let mut repairs = Vec::new();
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some((before, after)) =
                next_half(rest.as_bytes(), 0).and_then(|at| Some((rest.get(..at)?, rest.get(at + ESCAPE_BYTES..)?)))
            {
                text.push_str(before);
                repairs.push(text.len());
                text.push(REPLACEMENT);
                rest = after;
            }
            text.push_str(rest);
            if !chunk.invalid().is_empty() {
                repairs.push(text.len());
                text.push(REPLACEMENT);
            }
            if text.len() > most {
                return Err(BodyError::RepairedTooLarge { most });
            }
        }
        Ok(Text { text: Cow::Owned(text), repairs })
    }
}

/// Bytes of `\ud800`.
const ESCAPE_BYTES: usize = 6;

/// Where the next escape stands that is half of a surrogate pair without the other half.
fn next_half(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr(b'\\', bytes.get(at..)?)?;
        at += match (unit(bytes, at), unit(bytes, at + ESCAPE_BYTES)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * ESCAPE_BYTES,
            (Some(0xd800..=0xdfff), _) => return Some(at),
            (Some(_), _) => ESCAPE_BYTES,
            // Another escape: `\\` above all, behind which no escape begins.
            (None, _) => 2,
        };
    }
}

/// The UTF-16 unit of the escape at `at`, if one is there.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(bytes: &[u8]) -> (String, Vec<usize>) {
        match decode(bytes).unwrap() {
            Decoded::Clean(text) => {
                assert!(matches!(text.text, Cow::Borrowed(_)), "what is whole is not copied");
                (text.as_str().to_owned(), text.repairs)
            }
            Decoded::Broken(broken) => {
                let text = broken.repair(1_000).unwrap();
                (text.as_str().to_owned(), text.repairs)
            }
        }
    }

    #[test]
    fn what_is_no_text_is_replaced_and_nothing_else() {
        for (bytes, text, repairs) in [
            (&b"\xef\xbb\xbf{}"[..], "{}", &[][..]),
            ("{\"ü\\u00fc\\n\"}".as_bytes(), "{\"ü\\u00fc\\n\"}", &[]),
            (br#""\ud83d\ude00""#, r#""\ud83d\ude00""#, &[]),
            (br#""\\ud800 \\\\uDC00""#, r#""\\ud800 \\\\uDC00""#, &[]),
            (b"a\xffb\xc3(", "a\u{fffd}b\u{fffd}(", &[1, 5]),
            (br"\ud800x", "\u{fffd}x", &[0]),
            (br"x\uDC00\ud83d\ude00\ud83d", "x\u{fffd}\\ud83d\\ude00\u{fffd}", &[1, 16]),
            (br"\ud800\ud83d\ude00", "\u{fffd}\\ud83d\\ude00", &[0]),
            (br"\\\ud800", "\\\\\u{fffd}", &[2]),
            (br"\ud8", r"\ud8", &[]),
            (b"\\\xff\\ud800", "\\\u{fffd}\u{fffd}", &[1, 4]),
        ] {
            assert_eq!(repaired(bytes), (text.to_owned(), repairs.to_vec()), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_part_knows_whether_it_was_repaired() {
        let Decoded::Broken(broken) = decode(b"[1,\xff,3]").unwrap() else { panic!("it is broken") };
        let text = broken.repair(100).unwrap();
        let parts: Vec<_> =
            text.as_str().trim_matches(['[', ']']).split(',').map(|part| text.is_repaired(part)).collect();
        assert_eq!(parts, [false, true, false]);
    }

    #[test]
    fn other_encodings_are_named_and_copies_are_bounded() {
        for (bytes, named) in [(&b"\x1f\x8b\x08\x00"[..], "gzip"), (b"\x28\xb5\x2f\xfd\x24", "zstd")] {
            assert_eq!(decode(bytes).unwrap_err(), BodyError::Compressed { encoding: named });
        }
        let utf16 = |order: fn(u16) -> [u8; 2]| "[{}]".encode_utf16().flat_map(order).collect::<Vec<_>>();
        for bytes in [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes), b"\xff\xfe".to_vec(), b"\xfe\xff".to_vec()] {
            assert_eq!(decode(&bytes).unwrap_err(), BodyError::Utf16, "{bytes:?}");
        }
        let Decoded::Broken(broken) = decode(&[b'a', 0xff, 0xff]).unwrap() else { panic!("it is broken") };
        assert_eq!(broken.most_bytes(5), 5);
        assert_eq!(broken.repair(5).unwrap_err(), BodyError::RepairedTooLarge { most: 5 });
    }
}
