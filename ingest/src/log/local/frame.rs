//! The bytes of a segment.
//!
//! ```text
//! segment   group … | zeros                                               its name says its base offset and salt
//! group     magic, bytes of the body, first offset, time, records, checksum | record …
//! record    bytes of the payload, checksum, payload                      numbers are little endian
//! ```
//!
//! Checksums begin with the salt of the segment, which nobody outside knows: a group that a client sent as the text of an event is not
//! taken for one when damage is searched through.

/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 32;

/// Bytes in front of a record's payload.
pub const RECORD_HEADER: usize = 8;

const GROUP_MAGIC: [u8; 4] = *b"\xa7grp";

/// What a group's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    /// Bytes of its records.
    pub body: u32,
    /// The offset of its first record.
    pub first: i64,
    /// When it was written, in milliseconds since 1970.
    pub at: i64,
    pub records: u32,
}

impl GroupHeader {
    /// As it is written.
    pub fn encode(self, salt: u32) -> [u8; GROUP_HEADER] {
        let mut bytes = [0; GROUP_HEADER];
        let fields: [&[u8]; 5] = [
            &GROUP_MAGIC,
            &self.body.to_le_bytes(),
            &self.first.to_le_bytes(),
            &self.at.to_le_bytes(),
            &self.records.to_le_bytes(),
        ];
        let written = fields.concat();
        let fields = [written.as_slice(), &checksum(salt, &written).to_le_bytes()].concat();
        bytes.copy_from_slice(&fields);
        bytes
    }

    /// Reads it; `None` when there is none, or it is damaged.
    pub fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let header = Self {
            body: u32_at(bytes, 4)?,
            first: i64_at(bytes, 8)?,
            at: i64_at(bytes, 16)?,
            records: u32_at(bytes, 24)?,
        };
        let is_whole = bytes.get(..4)? == GROUP_MAGIC && u32_at(bytes, 28)? == checksum(salt, bytes.get(..28)?);
        (is_whole && header.records > 0 && header.first >= 0).then_some(header)
    }

    /// Bytes of the group.
    pub fn bytes(self) -> usize {
        GROUP_HEADER + self.body as usize
    }

    /// The offset after its last record.
    pub fn end(self) -> i64 {
        self.first.saturating_add(i64::from(self.records))
    }
}

/// Appends a record that `payload` writes. Its group counts it.
pub fn write_record(salt: u32, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let header = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    let start = out.len();
    payload(out);
    let written = out.get(start..).unwrap_or_default();
    let (length, checksum) = (u32::try_from(written.len()).unwrap_or(u32::MAX), checksum(salt, written));
    let numbers = [length.to_le_bytes(), checksum.to_le_bytes()];
    if let Some(room) = out.get_mut(header..start) {
        room.copy_from_slice(numbers.as_flattened());
    }
}

/// Appends a record.
#[cfg(test)]
pub fn push_record(salt: u32, payload: &[u8], out: &mut Vec<u8>) {
    write_record(salt, out, |out| out.extend_from_slice(payload));
}

/// The records of a group's body from an offset on, with their offsets: `None` for one that is damaged. After a length that cannot be, the
/// rest is.
pub fn records(header: GroupHeader, salt: u32, body: &[u8], from: i64) -> impl Iterator<Item = (i64, Option<&[u8]>)> {
    let mut at = 0_usize;
    (header.first..header.end()).filter_map(move |offset| {
        let length = u32_at(body, at).map(|length| length as usize);
        let payload = length.and_then(|length| body.get(at + RECORD_HEADER..)?.get(..length));
        let written = u32_at(body, at + 4);
        match payload {
            Some(payload) => {
                at += RECORD_HEADER + payload.len();
                let is_whole = || written == Some(checksum(salt, payload));
                (offset >= from).then(|| (offset, is_whole().then_some(payload)))
            }
            None => {
                at = body.len();
                (offset >= from).then_some((offset, None))
            }
        }
    })
}

/// Whether every record of a group is whole, and nothing else is in it.
pub fn is_whole(header: GroupHeader, salt: u32, body: &[u8]) -> bool {
    let mut bytes = 0;
    for (_, payload) in records(header, salt, body, header.first) {
        let Some(payload) = payload else { return false };
        bytes += RECORD_HEADER + payload.len();
    }
    bytes == body.len()
}

/// What a segment has at an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentItem {
    /// A group whose header is whole, and whose body is there. Its records may be damaged.
    Group(GroupHeader),
    /// No group; the next one that is whole begins so many bytes later.
    Damage {
        /// How far away it is.
        bytes: usize,
    },
    /// No group, and none after it.
    End,
}

/// Looks at the beginning of `bytes` for a group of offsets from `least` on.
pub fn look(bytes: &[u8], salt: u32, least: i64) -> SegmentItem {
    let group = |bytes: &[u8]| {
        GroupHeader::decode(bytes, salt).filter(|header| header.first >= least && header.bytes() <= bytes.len())
    };
    if let Some(header) = group(bytes) {
        return SegmentItem::Group(header);
    }
    let later = memchr::memmem::find_iter(bytes, &GROUP_MAGIC).find(|at| {
        bytes.get(*at..).and_then(group).is_some_and(|header| {
            bytes.get(at + GROUP_HEADER..at + header.bytes()).is_some_and(|body| is_whole(header, salt, body))
        })
    });
    match later {
        Some(bytes) => SegmentItem::Damage { bytes },
        None => SegmentItem::End,
    }
}

fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..at + 8)?.try_into().ok().map(i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 77;

    fn group(first: i64, payloads: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        payloads.iter().for_each(|payload| push_record(SALT, payload, &mut body));
        let header = GroupHeader { body: body.len() as u32, first, at: 5, records: payloads.len() as u32 };
        [header.encode(SALT).as_slice(), &body].concat()
    }

    #[test]
    fn a_header_comes_back_and_damage_is_seen() {
        let bytes = group(7, &[b"a", b""]);
        let header = GroupHeader::decode(&bytes, SALT).unwrap();
        assert_eq!((header.first, header.end(), header.at, header.bytes()), (7, 9, 5, bytes.len()));
        for bit in 0..8 * GROUP_HEADER {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bytes, SALT), None, "{bit}");
        }
        assert_eq!(GroupHeader::decode(&bytes, SALT + 1), None, "of another segment");
    }

    #[test]
    fn records_are_read_alone() {
        let bytes = group(7, &[b"one", b"two", b"three"]);
        let header = GroupHeader::decode(&bytes, SALT).unwrap();
        let mut body = bytes[GROUP_HEADER..].to_vec();
        assert!(is_whole(header, SALT, &body));
        body[RECORD_HEADER * 2 + 4] ^= 1; // In "two".
        let found: Vec<_> = records(header, SALT, &body, 0).collect();
        assert_eq!(found, [(7, Some(&b"one"[..])), (8, None), (9, Some(&b"three"[..]))]);
        assert!(!is_whole(header, SALT, &body));
        body[0] = 0xff;
        assert_eq!(records(header, SALT, &body, 0).filter(|(_, payload)| payload.is_some()).count(), 0);
    }

    #[test]
    fn groups_after_damage_are_found_and_texts_of_clients_are_not() {
        // An event's text that is a group by another salt, and an older group of this segment.
        let forged = {
            let mut forged = group(50, &[b"forged"]);
            forged[31] ^= 1;
            forged
        };
        let next = group(9, &[b"next"]);
        let mut bytes = [group(7, &[&forged, &group(3, &[b"old"])]), next.clone()].concat();
        let first = bytes.len() - next.len();
        assert!(matches!(look(&bytes, SALT, 7), SegmentItem::Group(header) if header.end() == 9));
        bytes[8] ^= 1;
        assert_eq!(look(&bytes, SALT, 7), SegmentItem::Damage { bytes: first });
        assert_eq!(look(&bytes[..first], SALT, 7), SegmentItem::End);
        assert_eq!(look(&[0; 100], SALT, 0), SegmentItem::End);
    }
}
