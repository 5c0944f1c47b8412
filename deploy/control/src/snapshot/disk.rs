//! The last snapshot on the disk, for a start while ClickHouse is away.
//!
//! One line with a checksum, then JSON. It holds no secret, but whoever writes it decides who is let in: a file that others may write or
//! read is not used, nor is one that is damaged; ClickHouse is then waited for, and the file is made anew.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallyhouse_service::private_file::{self, PrivateFile};

use super::Snapshot;
use crate::kind::Kind;
use crate::records::Record;
use crate::store::Mark;

const HEAD: &str = "tallyhouse-control-1";

/// Where the copy is.
#[derive(Debug, Clone)]
pub struct DiskCopy {
    path: PathBuf,
}

/// Why a copy is not used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// Who wrote it is not known.
    #[error("{} may be read or written by others (mode {mode:o}), so it is not used; it is made anew", .path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} is damaged, so it is not used; it is made anew", .path.display())]
    Damaged { path: PathBuf },
}

#[derive(Serialize, Deserialize)]
struct Content {
    mark: Mark,
    records: Vec<CopiedRecord>,
}

#[derive(Serialize, Deserialize)]
struct CopiedRecord {
    kind: String,
    project: String,
    name: String,
    version: u32,
    document: String,
    by: String,
    at: i64,
}

impl DiskCopy {
    /// The copy of a service below a data folder.
    pub fn of(data: &Path, service: &str) -> Self {
        Self { path: data.join(format!("control-{service}.json")) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there; `None` when nothing is.
    pub fn read(&self) -> Result<Option<(Mark, Vec<Record>)>, CopyError> {
        let path = || self.path.clone();
        let file = match PrivateFile::read(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // What is not UTF-8 is not what we wrote.
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(CopyError::Damaged { path: path() }),
            Err(source) => return Err(CopyError::File { path: path(), source }),
        };
        if file.is_open() {
            return Err(CopyError::Open { path: path(), mode: file.mode });
        }
        parse(&file.text).map(Some).ok_or_else(|| CopyError::Damaged { path: path() })
    }

    /// Replaces it, and returns when the disk has it.
    pub fn write(&self, snapshot: &Snapshot) -> Result<(), CopyError> {
        let failed = |source| CopyError::File { path: self.path.clone(), source };
        private_file::write(&self.path, &text(snapshot)).map_err(failed)
    }
}

fn text(snapshot: &Snapshot) -> String {
    let records = snapshot.all_records().map(|record| CopiedRecord {
        kind: record.kind.name().to_owned(),
        project: record.project.to_string(),
        name: record.name.to_string(),
        version: record.version,
        document: record.document.clone(),
        by: record.created_by.clone(),
        at: record.created_ms,
    });
    let content = Content { mark: snapshot.mark().unwrap_or_default(), records: records.collect() };
    // Texts and numbers alone: it cannot fail.
    let json = serde_json::to_string(&content).unwrap_or_default();
    format!("{HEAD} {:08x}\n{json}\n", crc32fast::hash(json.as_bytes()))
}

fn parse(text: &str) -> Option<(Mark, Vec<Record>)> {
    let (head, json) = text.split_once('\n')?;
    let json = json.strip_suffix('\n')?;
    let sum = head.strip_prefix(HEAD)?.strip_prefix(' ')?;
    if sum != format!("{:08x}", crc32fast::hash(json.as_bytes())) {
        return None;
    }
    let Content { mark, records } = serde_json::from_str(json).ok()?;
    let records = records.into_iter().filter_map(|record| {
        Some(Record {
            kind: Kind::named(&record.kind)?,
            project: record.project.into(),
            name: record.name.into(),
            version: record.version,
            document: record.document,
            created_by: record.by,
            created_ms: record.at,
        })
    });
    Some((mark, records.collect()))
}
