//! The identity of a log, which lasts as long as its folder.

use std::io;

use ulid::Ulid;

use super::disk::{Disk, DiskFile};

const NAME: &str = "identity";

const BYTES: usize = 40;

/// Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Part of the tokens of its batches: no other log has it.
    pub id: Ulid,
    /// What the ids of its events are hashed with. Not for others: who knows it could craft ids that hide another tenant's.
    pub secret: [u8; 16],
}

impl Identity {
    /// Reads it, or makes it in a folder without one. The second value says whether it was made.
    ///
    /// One that is damaged or gone is an error: with another identity, a batch that was begun would be inserted under another token,
    /// and no id would be known.
    pub fn open<D: Disk>(disk: &D) -> io::Result<(Self, bool)> {
        match disk.open(NAME) {
            Ok(file) => {
                let mut bytes = [0; BYTES];
                let read = file.read_at(&mut bytes, 0)?;
                if let Some(identity) = Self::decode(bytes.get(..read).unwrap_or_default()) {
                    return Ok((identity, false));
                }
                refuse_another(disk)?;
                // Killed while it was made: nothing was ever appended.
                disk.remove(NAME)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => refuse_another(disk)?,
            Err(error) => return Err(error),
        }
        let identity = Self { id: Ulid::generate(), secret: rand::random() };
        let file = disk.create(NAME, BYTES as u64)?;
        file.write_at(&identity.encode(), 0)?;
        file.sync()?;
        disk.sync_names()?;
        Ok((identity, true))
    }

    fn encode(self) -> Vec<u8> {
        let bytes = [self.id.to_bytes(), self.secret].concat();
        let checksum = u64::from(crc32fast::hash(&bytes));
        [bytes.as_slice(), &checksum.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (secret, _) = rest.split_first_chunk::<16>()?;
        let identity = Self { id: Ulid::from_bytes(*id), secret: *secret };
        (identity.encode() == bytes).then_some(identity)
    }
}

/// A folder in which something was ever appended or committed does not get another identity.
fn refuse_another<D: Disk>(disk: &D) -> io::Result<()> {
    let is_of_a_log = |name: &String| name == "commit" || name.ends_with(".log") || name.ends_with(".ids");
    match disk.list()?.iter().any(is_of_a_log) {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "the file `identity` of the log is damaged or gone")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::*;

    #[test]
    fn it_stays_and_a_damaged_one_is_not_replaced() {
        let disk = Simulated::default();
        let (made, is_new) = Identity::open(&disk).unwrap();
        assert!(is_new);
        assert_eq!(Identity::open(&disk).unwrap(), (made, false));
        disk.flip(NAME, 100);
        assert_ne!(Identity::open(&disk).unwrap().0, made, "nothing was ever appended");
        disk.create("commit", 1).unwrap();
        disk.flip(NAME, 100);
        assert_eq!(Identity::open(&disk).unwrap_err().kind(), io::ErrorKind::InvalidData);
        disk.remove(NAME).unwrap();
        assert_eq!(Identity::open(&disk).unwrap_err().kind(), io::ErrorKind::InvalidData, "gone");
    }

    #[test]
    fn the_power_may_go_while_it_is_made() {
        let disk = Simulated::default();
        Identity::open(&disk).unwrap();
        for ops in 0..=disk.ops() {
            for seed in 0..20 {
                let after = disk.cut(ops, seed);
                let (made, _) = Identity::open(&after).unwrap();
                assert_eq!(Identity::open(&after).unwrap(), (made, false));
            }
        }
    }
}
