//! A journal: a folder of files that are written once, each a line of header and then bytes. It knows nothing of what is in them.
//!
//! Versions without a log kept batches (`journal/`) and records for Kafka (`records/`) in it; they are read once, at the first start after an
//! upgrade. Records of topics that Kafka takes nothing for are still kept so ([`crate::kafka::held`]).

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tallyhouse_service::day_versions::DayChange;

const VERSION: u32 = 1;

/// First line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    token: String,
    rows: usize,
    bytes: usize,
    crc32: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    days: Vec<DayChange>,
}

/// The folder. One process may have it at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    _lock: File,
}

/// What one file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFile {
    /// What makes repeated attempts one; never used for other bytes.
    pub token: String,
    /// Events in it.
    pub rows: usize,
    /// The bytes, in order.
    pub chunks: Vec<Bytes>,
    /// The days that its events fall on, where that is known.
    pub days: Vec<DayChange>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("{folder}: another ingester uses this folder; give each its own TALLYHOUSE_DATA")]
    InUse { folder: String },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        path: String,
        /// What it said.
        source: io::Error,
    },
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub struct Contents {
    /// Whole files, oldest first.
    pub files: Vec<PathBuf>,
    /// Half-written files that were removed.
    pub unfinished: usize,
}

const WHOLE: &str = "batch";

impl Journal {
    /// Opens a folder, and makes it if need be.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |source| error(path, source);
        fs::create_dir_all(path).map_err(io)?;
        // Events are in the files: they are nobody else's.
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(JournalError::InUse { folder: path.display().to_string() }),
            Err(fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Writes a file; names sort in the order in which files are to be drained. It outlives the process, but not yet the power.
    /// Blocking, as everything here.
    pub fn write(&self, name: &str, content: &JournalFile) -> Result<PathBuf, JournalError> {
        let path = self.path.join(name).with_extension(WHOLE);
        let part = path.with_extension("part");
        let written = write_file(&part, content).and_then(|()| fs::rename(&part, &path));
        if let Err(source) = written {
            // Best effort: a leftover part is removed at the next start anyway.
            drop(fs::remove_file(&part));
            return Err(error(&part, source));
        }
        Ok(path)
    }

    /// Keeps bytes for a person, in a file that is not among those that are found. It outlives the power when it returns.
    pub fn keep(&self, name: &str, extension: &str, bytes: &[u8]) -> Result<(), JournalError> {
        let content = JournalFile {
            token: name.to_owned(),
            rows: 1,
            chunks: vec![Bytes::copy_from_slice(bytes)],
            days: Vec::new(),
        };
        let path = self.path.join(name).with_extension(extension);
        write_file(&path, &content).map_err(|source| error(&path, source))?;
        self.sync(&path)
    }

    /// Makes a file outlive the power, too: its bytes and its name.
    pub fn sync(&self, path: &Path) -> Result<(), JournalError> {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.and_then(|()| File::open(&self.path)?.sync_all()).map_err(|source| error(path, source))
    }

    /// Forgets a file.
    pub fn remove(&self, path: &Path) -> Result<(), JournalError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(path, source)),
            _ => Ok(()),
        }
    }

    /// What earlier processes left; half-written files are removed, so nobody may write meanwhile.
    pub fn look(&self) -> Result<Contents, JournalError> {
        let unfinished = self.of("part")?;
        for path in &unfinished {
            self.remove(path)?;
        }
        Ok(Contents { files: self.files()?, unfinished: unfinished.len() })
    }

    /// Whole files, oldest first.
    pub fn files(&self) -> Result<Vec<PathBuf>, JournalError> {
        self.of(WHOLE)
    }

    fn of(&self, extension: &str) -> Result<Vec<PathBuf>, JournalError> {
        let io = |source| error(&self.path, source);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Reads a file back; `None` when it is damaged, and then it has been set aside.
    pub fn read(&self, path: &Path) -> Result<Option<JournalFile>, JournalError> {
        let io = |source| error(path, source);
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let header = serde_json::from_slice::<Header>(&line).ok().filter(|header| {
            header.version == VERSION && header.bytes == bytes.len() && header.crc32 == crc32fast::hash(&bytes)
        });
        match header {
            Some(Header { token, rows, days, .. }) => {
                Ok(Some(JournalFile { token, rows, chunks: vec![bytes.into()], days }))
            }
            None => {
                fs::rename(path, path.with_extension("damaged")).map_err(io)?;
                Ok(None)
            }
        }
    }
}

fn error(path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { path: path.display().to_string(), source }
}

fn write_file(path: &Path, content: &JournalFile) -> io::Result<()> {
    let mut crc = crc32fast::Hasher::new();
    content.chunks.iter().for_each(|chunk| crc.update(chunk));
    let header = Header {
        version: VERSION,
        token: content.token.clone(),
        rows: content.rows,
        bytes: content.chunks.iter().map(Bytes::len).sum(),
        crc32: crc.finalize(),
        days: content.days.clone(),
    };
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer(&mut file, &header)?;
    file.write_all(b"\n")?;
    for chunk in &content.chunks {
        file.write_all(chunk)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("tallyhouse-journal-{}", ulid::Ulid::generate())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn content() -> JournalFile {
        let chunks = vec![Bytes::from_static(b"ab\n"), Bytes::from_static(b"c")];
        JournalFile { token: "t-1".into(), rows: 2, chunks, days: vec![] }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let scratch = Scratch::new();
        let folder = Journal::open(&scratch.0).unwrap();
        let path = folder.write("1", &content()).unwrap();
        folder.sync(&path).unwrap();
        assert_eq!(folder.look().unwrap().files, std::slice::from_ref(&path));
        let read = folder.read(&path).unwrap().unwrap();
        assert_eq!((read.token.as_str(), read.rows, &read.chunks.concat()[..]), ("t-1", 2, &b"ab\nc"[..]));
        folder.remove(&path).unwrap();
        assert!(folder.look().unwrap().files.is_empty());
    }

    #[test]
    fn files_that_are_cut_anywhere_or_have_a_flipped_bit_block_nobody() {
        let scratch = Scratch::new();
        let folder = Journal::open(&scratch.0).unwrap();
        let path = folder.write("1", &content()).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(folder.read(&path).unwrap(), None, "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            fs::write(&path, &flipped).unwrap();
            let read = folder.read(&path).unwrap();
            // The token and the count are not summed, the bytes are.
            assert!(read.is_none_or(|read| read.chunks.concat() == b"ab\nc"), "bit flipped in byte {at}");
        }
        fs::write(path.with_extension("part"), "x").unwrap();
        assert_eq!(folder.look().unwrap().unfinished, 1);
        assert!(path.with_extension("damaged").exists());
    }

    #[test]
    fn a_folder_has_one_owner() {
        let scratch = Scratch::new();
        let _owner = Journal::open(&scratch.0).unwrap();
        assert!(matches!(Journal::open(&scratch.0), Err(JournalError::InUse { .. })));
    }
}
