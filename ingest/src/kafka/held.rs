//! Records beside the gateway's log, in files below `records/`: of topics that Kafka does not take while it takes others, so that
//! these go on; single records that Kafka refuses for good; and what a version without a log left.
//!
//! ```text
//! id-topic.batch   waits for its topic, and is sent again every few seconds
//! ….refused        is for a person: after the cause is mended, rename it to ….batch
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ulid::Ulid;

use super::addressed::{Addressed, encode, read_all};
use crate::spool::folder::{Content, Folder, FolderError};

/// See the module.
pub struct Held {
    folder: Folder,
    /// Bytes that wait, by the mark of their topic.
    waiting: Mutex<HashMap<String, u64>>,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Where.
    pub path: PathBuf,
    /// The mark of its topic. A file of a version without a log has its own, since it may hold several topics.
    pub mark: String,
}

impl Held {
    /// Opens the folder. Blocking, as everything here.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let held = Self { folder: Folder::open(path)?, waiting: Mutex::default() };
        held.files()?;
        Ok(held)
    }

    /// Whether records of a topic wait here.
    pub fn has(&self, topic: &str) -> bool {
        self.lock().contains_key(&mark(topic))
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.lock().values().sum()
    }

    /// Keeps records of one topic. They outlive the power.
    pub fn hold(&self, topic: &str, records: &[Addressed]) -> Result<(), FolderError> {
        let mark = mark(topic);
        let bytes = self.write(&format!("{}-{mark}", Ulid::generate()), records)?;
        *self.lock().entry(mark).or_default() += bytes;
        Ok(())
    }

    /// What waits, oldest first.
    pub fn files(&self) -> Result<Vec<HeldFile>, FolderError> {
        let mut files = Vec::new();
        let mut waiting = HashMap::<String, u64>::new();
        for path in self.folder.look()?.files {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let mark = stem.split_once('-').map_or(stem.as_ref(), |(_, mark)| mark).to_owned();
            *waiting.entry(mark.clone()).or_default() += path.metadata().map_or(0, |metadata| metadata.len());
            files.push(HeldFile { path, mark });
        }
        *self.lock() = waiting;
        Ok(files)
    }

    /// The records of a file; `None` when it is damaged, and set aside.
    pub fn read(&self, file: &HeldFile) -> Result<Option<Vec<Addressed>>, FolderError> {
        let content = self.folder.read(&file.path)?;
        Ok(content.map(|content| read_all(Bytes::from(content.chunks.concat()))))
    }

    /// Forgets what of a file was sent.
    pub fn keep_only(&self, file: &HeldFile, rest: &[Addressed]) -> Result<(), FolderError> {
        match file.path.file_stem() {
            Some(stem) if !rest.is_empty() => self.write(&stem.to_string_lossy(), rest).map(drop),
            _ => self.folder.remove(&file.path),
        }
    }

    /// Keeps a record for a person. Returns the name of its file.
    pub fn park(&self, record: &Addressed) -> Result<String, FolderError> {
        let bytes = encode(std::slice::from_ref(record));
        let name = format!("{:016x}-{:08x}", record.hash, crc32fast::hash(&bytes));
        self.folder.keep(&name, "refused", &bytes)?;
        Ok(name)
    }

    fn write(&self, name: &str, records: &[Addressed]) -> Result<u64, FolderError> {
        let bytes = Bytes::from(encode(records));
        let length = bytes.len() as u64;
        let content = Content { token: name.to_owned(), rows: records.len(), chunks: vec![bytes], days: Vec::new() };
        let path = self.folder.write(name, &content)?;
        self.folder.sync(&path)?;
        Ok(length)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A topic's name may be as long as a file's.
fn mark(topic: &str) -> String {
    format!("{:08x}", crc32fast::hash(topic.as_bytes()))
}

impl From<FolderError> for io::Error {
    fn from(error: FolderError) -> Self {
        Self::other(error)
    }
}
