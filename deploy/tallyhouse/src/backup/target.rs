//! Where backups are kept: the folder that ClickHouse writes them to, another one, or a bucket.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::manifest::{self, Manifest};
use super::s3::S3;
use super::{BackupError, files};
use crate::config::BucketAccess;

/// Files that are on their way to or from a bucket at once.
const AT_ONCE: usize = 8;

/// A place for backups.
#[derive(Debug)]
pub enum Target {
    /// Where ClickHouse writes itself.
    Staging(Folder),
    Folder(Folder),
    Bucket(Box<S3>),
}

impl Target {
    /// `BACKUP_TARGET`, else the folder that ClickHouse writes to, which is made.
    pub async fn open(target: Option<&str>, access: &BucketAccess, staging: &Path) -> Result<Self, BackupError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(BackupError::file(path));
        let staging = absolute(staging)?;
        files::make_folder(&staging)?;
        match target {
            Some(bucket) if bucket.starts_with("s3://") => {
                let bucket = S3::new(bucket, access)?;
                bucket.check().await?;
                Ok(Self::Bucket(Box::new(bucket)))
            }
            Some(folder) if absolute(Path::new(folder))? != staging => {
                Ok(Self::Folder(Folder::at(absolute(Path::new(folder))?)?))
            }
            _ => Ok(Self::Staging(Folder::at(staging)?)),
        }
    }

    /// Whether files are there when they are staged.
    pub(super) fn is_staging(&self) -> bool {
        matches!(self, Self::Staging(_))
    }

    /// Takes files of the staging folder.
    pub(super) async fn put(&self, staging: &Path, inner: &[&str]) -> Result<(), BackupError> {
        match self {
            Self::Staging(_) => Ok(()),
            Self::Folder(folder) => inner.iter().try_for_each(|inner| folder.put(&staging.join(inner), inner)),
            Self::Bucket(bucket) => at_once(inner, async |inner| bucket.put(&staging.join(inner), inner).await).await,
        }
    }

    /// Brings files here: where each is, and where it goes.
    pub(super) async fn fetch(&self, files: &[(&str, PathBuf)]) -> Result<(), BackupError> {
        match self {
            Self::Staging(folder) | Self::Folder(folder) => {
                files.iter().try_for_each(|(inner, to)| folder.fetch(inner, to))
            }
            Self::Bucket(bucket) => at_once(files, async |(inner, to)| bucket.fetch(inner, to).await).await,
        }
    }

    /// Length and checksum of a file; `None`: it is not there.
    pub(super) async fn sum(&self, inner: &str) -> Result<Option<(u64, String)>, BackupError> {
        match self {
            Self::Staging(folder) | Self::Folder(folder) => folder.sum(inner),
            Self::Bucket(bucket) => bucket.sum(inner).await,
        }
    }

    /// Removes everything of a backup; the manifest first, so that it is none from then on.
    pub(super) async fn remove(&self, name: &str) -> Result<(), BackupError> {
        let bucket = match self {
            Self::Staging(folder) | Self::Folder(folder) => return folder.remove(name),
            Self::Bucket(bucket) => bucket,
        };
        bucket.remove(&format!("{name}/{}", manifest::FILE)).await?;
        for folder in [format!("{name}/"), format!("clickhouse/{name}/")] {
            let files = bucket.list(&folder).await?;
            at_once(&files, async |inner| bucket.remove(inner).await).await?;
        }
        Ok(())
    }

    /// The manifest of a backup.
    pub async fn manifest(&self, name: &str) -> Result<Manifest, BackupError> {
        let unknown = || BackupError::Unknown { name: name.to_owned(), target: self.to_string() };
        if !manifest::is_name(name) {
            return Err(unknown());
        }
        let inner = format!("{name}/{}", manifest::FILE);
        let text = match self {
            Self::Staging(folder) | Self::Folder(folder) => folder.read(&inner)?,
            Self::Bucket(bucket) => bucket.read(&inner).await?.map(Vec::from),
        };
        Manifest::read(name, &text.ok_or_else(unknown)?)
    }

    /// All backups that have a manifest, the oldest first.
    pub async fn names(&self) -> Result<Vec<String>, BackupError> {
        let names = match self {
            Self::Staging(folder) | Self::Folder(folder) => {
                let has_manifest = |name: &String| folder.root().join(name).join(manifest::FILE).is_file();
                folder.entries("")?.into_iter().filter(has_manifest).collect()
            }
            Self::Bucket(bucket) => {
                let name = |inner: &String| inner.strip_suffix(manifest::FILE)?.strip_suffix('/').map(str::to_owned);
                bucket.list("").await?.iter().filter_map(name).collect::<Vec<_>>()
            }
        };
        let names: BTreeSet<String> = names.into_iter().filter(|name| manifest::is_name(name)).collect();
        Ok(names.into_iter().collect())
    }

    /// Those that were begun and not ended.
    pub(super) async fn unfinished(&self) -> Result<Vec<String>, BackupError> {
        let whole = self.names().await?;
        let begun = match self {
            Self::Staging(folder) | Self::Folder(folder) => {
                [folder.entries("")?, folder.entries("clickhouse")?].concat()
            }
            Self::Bucket(bucket) => {
                let first =
                    |inner: &String| inner.trim_start_matches("clickhouse/").split('/').next().map(str::to_owned);
                bucket.list("").await?.iter().filter_map(first).collect()
            }
        };
        let begun: BTreeSet<String> = begun.into_iter().filter(|name| manifest::is_made(name)).collect();
        Ok(begun.into_iter().filter(|name| !whole.contains(name)).collect())
    }
}

/// Does something with several at once; the first error ends it.
async fn at_once<T: Sync>(all: &[T], work: impl AsyncFn(&T) -> Result<(), BackupError>) -> Result<(), BackupError> {
    use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
    let mut running = iter(all.iter().map(|one| work(one))).buffer_unordered(AT_ONCE);
    while running.try_next().await?.is_some() {}
    Ok(())
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Staging(folder) | Self::Folder(folder) => folder.root().display().fmt(f),
            Self::Bucket(bucket) => bucket.name().fmt(f),
        }
    }
}
