//! Backups in a folder: the one that ClickHouse writes to, or another one. Blocking.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::files;
use super::manifest;

/// A folder of backups.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// One that is there.
    pub(super) fn at(root: PathBuf) -> Result<Self, BackupError> {
        if !root.is_dir() {
            return Err(BackupError::NoTarget(root));
        }
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Brings a file there.
    pub(super) fn put(&self, from: &Path, inner: &str) -> Result<(), BackupError> {
        files::copy(from, &self.root.join(inner))
    }

    /// Brings a file here.
    pub(super) fn fetch(&self, inner: &str, to: &Path) -> Result<(), BackupError> {
        files::copy(&self.root.join(inner), to)
    }

    /// Length and checksum of a file; `None`: it is not there.
    pub(super) fn sum(&self, inner: &str) -> Result<Option<(u64, String)>, BackupError> {
        let path = self.root.join(inner);
        match files::sum(&path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackupError::file(&path)(error)),
        }
    }

    /// Removes everything of a backup; the manifest first, so that it is none from then on.
    pub(super) fn remove(&self, name: &str) -> Result<(), BackupError> {
        let folder = self.root.join(name);
        files::remove(&folder.join(manifest::FILE))?;
        files::remove(&folder)?;
        files::remove(&self.root.join("clickhouse").join(name))
    }

    /// A small file whole; `None`: it is not there.
    pub(super) fn read(&self, inner: &str) -> Result<Option<Vec<u8>>, BackupError> {
        let path = self.root.join(inner);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackupError::file(&path)(error)),
        }
    }

    /// Names of what is in a folder; none when there is no such folder.
    pub(super) fn entries(&self, inner: &str) -> Result<Vec<String>, BackupError> {
        let folder = self.root.join(inner);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(BackupError::file(&folder))?,
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }
}
