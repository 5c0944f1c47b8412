//! A remembered answer, and how it is written down for Redis.

use bytes::Bytes;

/// An answer, rendered but for what changes from one reader to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The JSON from its start into `meta`, which is left open.
    pub head: Bytes,
    /// Weak entity tag of the data, with its quotes.
    pub etag: String,
    /// When it was computed, in milliseconds since the epoch.
    pub computed_ms: i64,
    /// When it ends.
    pub expires_ms: i64,
}

/// First bytes of a written entry.
const MAGIC: &[u8; 4] = b"THA1";

/// Length of everything before the tag.
const FIXED: usize = 4 + 4 + 8 + 8 + 2;

impl Entry {
    /// Whether it may still be given out.
    pub fn is_fresh(&self, now_ms: i64) -> bool {
        now_ms < self.expires_ms
    }

    /// Seconds since it was computed.
    pub fn age_s(&self, now_ms: i64) -> i64 {
        (now_ms - self.computed_ms).max(0) / 1_000
    }

    /// Whole seconds until it ends.
    pub fn remaining_s(&self, now_ms: i64) -> i64 {
        (self.expires_ms - now_ms).max(0) / 1_000
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.etag.len() + size_of::<Self>()
    }

    /// Magic, checksum of the rest, times, length of the tag, tag, head; numbers little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let tag_length = u16::try_from(self.etag.len()).unwrap_or(0);
        let mut rest = Vec::with_capacity(FIXED + self.etag.len() + self.head.len());
        rest.extend_from_slice(&self.computed_ms.to_le_bytes());
        rest.extend_from_slice(&self.expires_ms.to_le_bytes());
        rest.extend_from_slice(&tag_length.to_le_bytes());
        rest.extend_from_slice(self.etag.as_bytes());
        rest.extend_from_slice(&self.head);
        let checksum = crc32fast::hash(&rest).to_le_bytes();
        [MAGIC.as_slice(), &checksum, &rest].concat()
    }

    /// Reads what [`Entry::encode`] wrote; `None` for anything else.
    pub fn decode(written: &[u8]) -> Option<Self> {
        let (checksum, rest) = written.strip_prefix(MAGIC)?.split_first_chunk()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (computed, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (tag_length, rest) = rest.split_first_chunk()?;
        let (tag, head) = rest.split_at_checked(usize::from(u16::from_le_bytes(*tag_length)))?;
        Some(Self {
            head: Bytes::copy_from_slice(head),
            etag: std::str::from_utf8(tag).ok()?.to_owned(),
            computed_ms: i64::from_le_bytes(*computed),
            expires_ms: i64::from_le_bytes(*expires),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            head: Bytes::from_static(b"{\"data\":["),
            etag: "W/\"a\"".into(),
            computed_ms: 1_000,
            expires_ms: 61_000,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Entry::decode(&entry().encode()), Some(entry()));
    }

    #[test]
    fn any_damage_is_noticed() {
        let written = entry().encode();
        for length in 0..written.len() {
            assert_eq!(Entry::decode(&written[..length]), None, "cut to {length}");
        }
        for place in 0..written.len() {
            let mut damaged = written.clone();
            damaged[place] ^= 1;
            assert_eq!(Entry::decode(&damaged), None, "byte {place}");
        }
    }

    #[test]
    fn an_end_is_an_end() {
        assert!(entry().is_fresh(60_999) && !entry().is_fresh(61_000));
        assert_eq!((entry().age_s(3_500), entry().remaining_s(3_500)), (2, 57));
    }
}
