//! Makes a stream of bytes UTF-8: a column may hold any bytes, a text answer may not.

use bytes::Bytes;

/// Replaces what is not UTF-8 by U+FFFD, as [`String::from_utf8_lossy`] does, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Utf8 {
    /// The beginning of a character whose rest is still to come: at most three bytes.
    begun: Vec<u8>,
}

impl Utf8 {
    /// What may be sent of the next bytes.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.begun.is_empty() && std::str::from_utf8(&chunk).is_ok() {
            return chunk;
        }
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(&chunk);
        let mut text = String::with_capacity(bytes.len());
        let mut pieces = bytes.utf8_chunks().peekable();
        while let Some(piece) = pieces.next() {
            text.push_str(piece.valid());
            if pieces.peek().is_none() && is_begun(piece.invalid()) {
                self.begun = piece.invalid().to_vec();
            } else if !piece.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text.into()
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Bytes {
        let is_whole = std::mem::take(&mut self.begun).is_empty();
        if is_whole { Bytes::new() } else { Bytes::from_static("\u{fffd}".as_bytes()) }
    }
}

/// Whether more bytes could make a character of these.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_text_as_the_whole() {
        let whole = b"a\xff\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xed\xa0\x80\xe2\x82\"\xf0\x9f\x98,\xc3";
        for size in 1..=whole.len() {
            let mut utf8 = Utf8::default();
            let mut out = Vec::new();
            for chunk in whole.chunks(size) {
                let sent = utf8.push(Bytes::copy_from_slice(chunk));
                assert!(std::str::from_utf8(&sent).is_ok() && utf8.begun.len() < 4, "{size}");
                out.extend_from_slice(&sent);
            }
            out.extend_from_slice(&utf8.finish());
            assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8_lossy(whole), "{size}");
        }
    }
}
