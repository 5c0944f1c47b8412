//! Records beside the gateway's log, in files below `records/`: of topics that Kafka does not take while it takes others, so that
//! these go on; single records that Kafka refuses for good; and what a version without a log left.
//!
//! ```text
//! id-topic.batch   waits for its topic, and is sent again every few seconds
//! ….refused        is for a person: after the cause is mended, rename it to ….batch
//! ```

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ulid::Ulid;

use super::addressed::{Addressed, encode, read_all};
use crate::journal::{Journal, JournalError, JournalFile};

pub struct HeldRecords {
    folder: Journal,
    /// Who lists or writes files.
    files: Mutex<()>,
    /// Bytes that wait.
    bytes: AtomicU64,
    /// Hashes of topics that Kafka takes nothing for, as far as was tried last.
    refused: Mutex<HashSet<u32>>,
    /// Whether there are any: they are asked about for each request.
    is_any_refused: AtomicBool,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    pub path: PathBuf,
    /// The hash of its topic. A file of a version without a log has its own, since it may hold several topics.
    pub topic_hash: u32,
}

impl HeldRecords {
    /// Opens the folder. Blocking, as everything here.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let folder = Journal::open(path)?;
        folder.look()?;
        let held = Self {
            folder,
            files: Mutex::default(),
            bytes: AtomicU64::new(0),
            refused: Mutex::default(),
            is_any_refused: AtomicBool::new(false),
        };
        held.files()?;
        Ok(held)
    }

    /// Whether Kafka takes nothing for a topic. Records may still wait for a topic that it takes again: they are sent beside new ones.
    pub fn has(&self, topic: &str) -> bool {
        self.is_any_refused.load(Ordering::Acquire) && lock(&self.refused).contains(&topic_hash(topic))
    }

    /// Notes whether Kafka takes records of the topic with this hash.
    pub fn tried(&self, hash: u32, is_taken: bool) {
        let mut refused = lock(&self.refused);
        if is_taken {
            refused.remove(&hash);
        } else {
            refused.insert(hash);
        }
        self.is_any_refused.store(!refused.is_empty(), Ordering::Release);
    }

    /// Hashes of topics that Kafka takes nothing for.
    pub fn refused(&self) -> Vec<u32> {
        lock(&self.refused).iter().copied().collect()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Keeps records of a topic that Kafka takes nothing for, synced.
    pub fn hold(&self, topic: &str, records: &[Addressed]) -> Result<(), JournalError> {
        let hash = topic_hash(topic);
        let _files = lock(&self.files);
        let bytes = self.write(&format!("{}-{hash:08x}", Ulid::generate()), records)?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tried(hash, false);
        Ok(())
    }

    /// What waits, oldest first.
    pub fn files(&self) -> Result<Vec<HeldFile>, JournalError> {
        let _files = lock(&self.files);
        let (mut files, mut bytes) = (Vec::new(), 0);
        for path in self.folder.files()? {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let named = stem.split_once('-').and_then(|(_, hash)| u32::from_str_radix(hash, 16).ok());
            let hash = named.unwrap_or_else(|| self::topic_hash(&stem));
            bytes += path.metadata().map_or(0, |metadata| metadata.len());
            files.push(HeldFile { path, topic_hash: hash });
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(files)
    }

    /// The records of a file; `None` when it is damaged, and set aside.
    pub fn read(&self, file: &HeldFile) -> Result<Option<Vec<Addressed>>, JournalError> {
        let content = self.folder.read(&file.path)?;
        Ok(content.map(|content| read_all(Bytes::from(content.chunks.concat()))))
    }

    /// Rewrites a file without the records that were sent.
    pub fn keep_only(&self, file: &HeldFile, rest: &[Addressed]) -> Result<(), JournalError> {
        let _files = lock(&self.files);
        match file.path.file_stem() {
            Some(stem) if !rest.is_empty() => self.write(&stem.to_string_lossy(), rest).map(drop),
            _ => self.folder.remove(&file.path),
        }
    }

    /// Parks a record for an operator. Returns the name of its file.
    pub fn park(&self, record: &Addressed) -> Result<String, JournalError> {
        let bytes = encode(std::slice::from_ref(record));
        let name = format!("{:016x}-{:08x}", record.hash, crc32fast::hash(&bytes));
        self.folder.keep(&name, "refused", &bytes)?;
        Ok(name)
    }

    fn write(&self, name: &str, records: &[Addressed]) -> Result<u64, JournalError> {
        let bytes = Bytes::from(encode(records));
        let length = bytes.len() as u64;
        let content =
            JournalFile { token: name.to_owned(), rows: records.len(), chunks: vec![bytes], days: Vec::new() };
        let path = self.folder.write(name, &content)?;
        self.folder.sync(&path)?;
        Ok(length)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A topic's name may be as long as a file's. Two topics with one hash wait for each other: that is all a collision costs.
fn topic_hash(topic: &str) -> u32 {
    crc32fast::hash(topic.as_bytes())
}

impl From<JournalError> for io::Error {
    fn from(error: JournalError) -> Self {
        Self::other(error)
    }
}
