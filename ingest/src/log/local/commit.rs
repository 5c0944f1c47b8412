//! The committed offset of the reader, and the intent from there ([`crate::intent`]).
//!
//! Two slots are written in turn. After a torn write the other slot holds the commit before.

use std::io;

use super::disk::{Disk, DiskFile};

/// The file that the log is read by.
pub const COMMIT: &str = "commit";

/// Bytes of a slot.
const SLOT: u64 = 8 << 10;

/// Bytes before the metadata.
const HEADER: usize = 32;

/// Longest metadata. Intents are shorter.
const MAX_METADATA: usize = SLOT as usize - HEADER;

/// What the newest slot says that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The offset of the first record that is not stored yet.
    pub next: i64,
    /// An intent; empty when nothing was being inserted.
    pub metadata: String,
}

/// The file of commits.
pub struct Commits<F> {
    file: F,
    /// Of the commit that counts. It lies in the slot of this number modulo two.
    sequence: u64,
}

impl<F: DiskFile> Commits<F> {
    /// Opens it, or makes it. `None`: nothing was ever committed. The last value tells whether a slot is torn or damaged.
    pub fn open<D: Disk<File = F>>(disk: &D, name: &str) -> io::Result<(Self, Option<Committed>, bool)> {
        let file = match disk.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = disk.create(name, 2 * SLOT)?;
                file.sync()?;
                disk.sync_names()?;
                file
            }
            file => file?,
        };
        let mut newest: Option<(u64, Committed)> = None;
        let mut is_damaged = false;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT as usize];
            let read = file.read_at(&mut bytes, slot * SLOT)?;
            let found = bytes.get(..read).and_then(decode);
            is_damaged |= found.is_none() && bytes.iter().any(|byte| *byte != 0);
            newest = newest.into_iter().chain(found).max_by_key(|(sequence, _)| *sequence);
        }
        let sequence = newest.as_ref().map_or(0, |(sequence, _)| *sequence);
        Ok((Self { file, sequence }, newest.map(|(_, committed)| committed), is_damaged))
    }

    /// Commits. After an error the commit before counts, or this one; repeating it is safe.
    pub fn commit(&mut self, next: i64, metadata: &str) -> io::Result<()> {
        if metadata.len() > MAX_METADATA {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an intent that is too long"));
        }
        let sequence = self.sequence + 1;
        self.file.write_at(&encode(sequence, next, metadata), sequence % 2 * SLOT)?;
        self.file.sync()?;
        // Only now: a repetition must not write over the other slot.
        self.sequence = sequence;
        Ok(())
    }
}

/// Reads what is committed, and changes nothing: another process may be writing. The last value tells whether a slot is torn, which it is for a
/// moment while it is written.
pub fn peek(bytes: &[u8]) -> (Option<Committed>, bool) {
    let mut slots = bytes.chunks(SLOT as usize).map(|slot| (decode(slot), slot.iter().any(|byte| *byte != 0)));
    let (mut newest, mut is_torn) = (None, false);
    for (found, is_used) in slots.by_ref().take(2) {
        is_torn |= found.is_none() && is_used;
        newest = newest.into_iter().chain(found).max_by_key(|(sequence, _)| *sequence);
    }
    (newest.map(|(_, committed)| committed), is_torn)
}

/// Sequence, offset, length and checksum, metadata.
fn encode(sequence: u64, next: i64, metadata: &str) -> Vec<u8> {
    let fixed = [sequence, next as u64, metadata.len() as u64].map(u64::to_le_bytes).concat();
    let checksum = u64::from(checksum(&fixed, metadata.as_bytes()));
    [&fixed, checksum.to_le_bytes().as_slice(), metadata.as_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Option<(u64, Committed)> {
    let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (sequence, next, length) = (number(0)?, number(8)?, usize::try_from(number(16)?).ok()?);
    let metadata = bytes.get(HEADER..)?.get(..length)?;
    let is_whole = number(24)? == u64::from(checksum(bytes.get(..24)?, metadata));
    let metadata = std::str::from_utf8(metadata).ok()?.to_owned();
    (is_whole && sequence > 0).then_some((sequence, Committed { next: next as i64, metadata }))
}

fn checksum(fixed: &[u8], metadata: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fixed);
    hasher.update(metadata);
    hasher.finalize()
}
