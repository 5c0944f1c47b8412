//! Batches on their way into ClickHouse, as files.
//!
//! An insert writes to a table and three views, one after the other. A process that dies in the middle leaves some of them
//! written, and only the same bytes with the same token can complete the rest. So a batch is a file before its first
//! attempt and until its last: whoever starts next sends it again, and what was there already is not counted twice.
//!
//! Failure cases:
//! * died while writing: `*.part` - no attempt was made, nobody was told "accepted"; removed.
//! * died during or after the insert: `*.batch` - sent again at start, before anything new is taken.
//! * unreadable `*.batch` (wrong length or checksum): set aside as `*.damaged` and counted; it blocks nobody.
//! * the disk is full: the batch is handed back before any attempt.
//! * a stored batch's file cannot be removed: its batch stays uncertain and removal is repeated, loudly.
//!
//! Files are not fsynced: they outlive the process, not the power. What an acknowledgement survives is decided by
//! ClickHouse's own fsync settings, because acknowledging waits for the insert.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;

const VERSION: u32 = 1;

/// First line of a file; the block follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    token: String,
    rows: usize,
    bytes: usize,
    crc32: u32,
}

/// The folder.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    _lock: File,
}

/// A batch that an earlier process left behind.
#[derive(Debug)]
pub struct Left {
    /// Its file.
    pub path: PathBuf,
    /// Its token.
    pub token: String,
    /// Events in it.
    pub rows: usize,
    /// Its block.
    pub block: Bytes,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("{folder}: another ingester uses this folder; give each its own TALLYHOUSE_DATA")]
    InUse {
        /// The folder.
        folder: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        source: io::Error,
    },
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub struct Found {
    /// Files to be sent again, oldest first.
    pub batches: Vec<PathBuf>,
    /// Half-written files that were removed.
    pub unfinished: usize,
}

impl Journal {
    /// Opens the folder, which only one process may have.
    pub fn open(data: &Path) -> Result<Self, JournalError> {
        let folder = data.join("ingest").join("journal");
        let io = |source| JournalError::Io { path: folder.display().to_string(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        // Events are in the files: they are nobody else's.
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(io)?;
        let lock = File::create(folder.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(JournalError::InUse { folder: folder.display().to_string() }),
            Err(fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Where a batch's file is.
    pub fn path(&self, batch: &Batch) -> PathBuf {
        self.folder.join(format!("{:016}-{}.batch", batch.sequence, batch.token))
    }

    /// Writes a batch. Blocking.
    pub fn write(&self, batch: &Batch) -> Result<PathBuf, JournalError> {
        let path = self.path(batch);
        let part = path.with_extension("part");
        let io = |source| JournalError::Io { path: part.display().to_string(), source };
        let written = write_file(&part, &header(batch), &batch.chunks).and_then(|()| fs::rename(&part, &path));
        if let Err(error) = written {
            // Best effort: a leftover part is removed at the next start anyway.
            drop(fs::remove_file(&part));
            return Err(io(error));
        }
        Ok(path)
    }

    /// Forgets a batch that is stored.
    pub fn remove(&self, path: &Path) -> Result<(), JournalError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::Io { path: path.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }

    /// What earlier processes left; half-written files are removed.
    pub fn look(&self) -> Result<Found, JournalError> {
        let io = |source| JournalError::Io { path: self.folder.display().to_string(), source };
        let mut found = Found::default();
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("batch") => found.batches.push(path),
                Some("part") => {
                    fs::remove_file(&path).map_err(io)?;
                    found.unfinished += 1;
                }
                _ => {}
            }
        }
        found.batches.sort();
        Ok(found)
    }

    /// Reads a batch back; `None` when it is damaged, and then it has been set aside.
    pub fn read(&self, path: &Path) -> Result<Option<Left>, JournalError> {
        let io = |source| JournalError::Io { path: path.display().to_string(), source };
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line).map_err(io)?;
        let mut block = Vec::new();
        file.read_to_end(&mut block).map_err(io)?;
        let header = serde_json::from_slice::<Header>(&line).ok().filter(|header| {
            header.version == VERSION && header.bytes == block.len() && header.crc32 == crc32fast::hash(&block)
        });
        match header {
            Some(Header { token, rows, .. }) => {
                Ok(Some(Left { path: path.to_owned(), token, rows, block: block.into() }))
            }
            None => {
                fs::rename(path, path.with_extension("damaged")).map_err(io)?;
                Ok(None)
            }
        }
    }
}

fn header(batch: &Batch) -> Header {
    let mut crc = crc32fast::Hasher::new();
    batch.chunks.iter().for_each(|chunk| crc.update(chunk));
    Header {
        version: VERSION,
        token: batch.token.clone(),
        rows: batch.rows,
        bytes: batch.bytes(),
        crc32: crc.finalize(),
    }
}

fn write_file(path: &Path, header: &Header, chunks: &[Bytes]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer(&mut file, header)?;
    file.write_all(b"\n")?;
    for chunk in chunks {
        file.write_all(chunk)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::batch::Outcome;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tallyhouse-journal-{name}-{}", ulid::Ulid::generate()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn batch() -> Batch {
        Batch {
            sequence: 3,
            token: "t-1".into(),
            rows: 2,
            chunks: vec![Bytes::from_static(b"ab\n"), Bytes::from_static(b"c")],
            keys: vec![],
            outcome: watch::Sender::new(Outcome::Pending),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = Folder::new("roundtrip");
        let journal = Journal::open(&folder.0).unwrap();
        let path = journal.write(&batch()).unwrap();
        assert_eq!(journal.look().unwrap().batches, std::slice::from_ref(&path));
        let left = journal.read(&path).unwrap().unwrap();
        assert_eq!((left.token.as_str(), left.rows, &left.block[..]), ("t-1", 2, &b"ab\nc"[..]));
        journal.remove(&path).unwrap();
        assert!(journal.look().unwrap().batches.is_empty());
    }

    #[test]
    fn damaged_and_unfinished_files_block_nobody() {
        let folder = Folder::new("damaged");
        let journal = Journal::open(&folder.0).unwrap();
        let path = journal.write(&batch()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        fs::write(path.with_extension("part"), "x").unwrap();
        let found = journal.look().unwrap();
        assert_eq!((found.batches.len(), found.unfinished), (1, 1));
        assert!(journal.read(&path).unwrap().is_none());
        assert!(path.with_extension("damaged").exists() && journal.look().unwrap().batches.is_empty());
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = Folder::new("lock");
        let _owner = Journal::open(&folder.0).unwrap();
        assert!(matches!(Journal::open(&folder.0), Err(JournalError::InUse { .. })));
    }
}
