//! Where backups are kept: the folder that ClickHouse writes them to, or another one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::files;
use super::manifest::{self, Manifest};

/// A folder of backups.
#[derive(Debug, Clone)]
pub struct Target {
    root: PathBuf,
    /// Whether ClickHouse writes there itself.
    is_staging: bool,
}

impl Target {
    /// `BACKUP_TARGET`, else the folder that ClickHouse writes to, which is made.
    pub fn open(target: Option<&str>, staging: &Path) -> Result<Self, BackupError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(BackupError::file(path));
        let staging = absolute(staging)?;
        files::make_folder(&staging)?;
        let Some(target) = target else { return Ok(Self { root: staging, is_staging: true }) };
        let root = absolute(Path::new(target))?;
        if !root.is_dir() {
            return Err(BackupError::NoTarget(root));
        }
        Ok(Self { is_staging: root == staging, root })
    }

    /// Whether files are there when they are staged.
    pub(super) fn is_staging(&self) -> bool {
        self.is_staging
    }

    /// Takes a file of the staging folder.
    pub(super) fn put(&self, staging: &Path, inner: &str) -> Result<(), BackupError> {
        if self.is_staging {
            return Ok(());
        }
        files::copy(&staging.join(inner), &self.root.join(inner))
    }

    /// Brings a file to the staging folder. It has it already when that is the target.
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

    /// The manifest of a backup.
    pub fn manifest(&self, name: &str) -> Result<Manifest, BackupError> {
        let unknown = || BackupError::Unknown { name: name.to_owned(), target: self.to_string() };
        if !manifest::is_name(name) {
            return Err(unknown());
        }
        let path = self.root.join(name).join(manifest::FILE);
        match fs::read(&path) {
            Ok(text) => Manifest::read(name, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(unknown()),
            Err(error) => Err(BackupError::file(&path)(error)),
        }
    }

    /// All backups that have a manifest, the oldest first.
    pub fn names(&self) -> Result<Vec<String>, BackupError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(BackupError::file(&self.root))? {
            let entry = entry.map_err(BackupError::file(&self.root))?;
            let has_manifest = entry.path().join(manifest::FILE).is_file();
            names.extend(entry.file_name().into_string().ok().filter(|name| has_manifest && manifest::is_name(name)));
        }
        names.sort();
        Ok(names)
    }

    /// Those that were begun and not ended.
    pub(super) fn unfinished(&self) -> Result<Vec<String>, BackupError> {
        let whole = self.names()?;
        let mut names = Vec::new();
        for folder in [self.root.clone(), self.root.join("clickhouse")] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries.map_err(BackupError::file(&folder))?,
            };
            let found = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.extend(found.filter(|name| manifest::is_made(name) && !whole.contains(name)));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.root.display().fmt(f)
    }
}
