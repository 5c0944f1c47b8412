//! Which files wait, in order, and whether there is room for more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How much may wait, and how long.
#[derive(Debug, Clone, Copy)]
pub struct SpoolLimits {
    /// `SPOOL_BYTES`
    pub bytes: u64,
    /// `SPOOL_MAX_AGE_HOURS`: while something older waits, nothing new is taken. Less than the window of ids.
    pub age: Duration,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolGauges {
    /// Files that wait.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

struct File<T> {
    bytes: u64,
    since: i64,
    about: T,
}

/// Files by name, and what is known about each.
pub struct Shelf<T = ()> {
    limits: SpoolLimits,
    files: Mutex<BTreeMap<PathBuf, File<T>>>,
    changed: Notify,
}

impl<T: Clone> Shelf<T> {
    /// An empty one.
    pub fn new(limits: SpoolLimits) -> Self {
        Self { limits, files: Mutex::default(), changed: Notify::new() }
    }

    /// Puts a file on it. Its size and age are those of the file.
    pub fn put(&self, path: &Path, about: T) {
        let metadata = std::fs::metadata(path);
        let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
        let modified = metadata.and_then(|metadata| metadata.modified()).ok();
        let since = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let since = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        self.lock().insert(path.to_owned(), File { bytes, since, about });
        self.changed.notify_one();
    }

    /// The oldest file; waits for one. It stays where it is.
    pub async fn first(&self) -> (PathBuf, T) {
        loop {
            let changed = self.changed.notified();
            if let Some((path, file)) = self.lock().first_key_value() {
                return (path.clone(), file.about.clone());
            }
            changed.await;
        }
    }

    /// Takes a file off.
    pub fn take(&self, path: &Path) {
        self.lock().remove(path);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether nothing more may be taken.
    pub fn is_full(&self, now_ms: i64) -> bool {
        let gauges = self.gauges(now_ms);
        gauges.bytes >= self.limits.bytes || gauges.oldest >= self.limits.age
    }

    /// Figures for metrics.
    pub fn gauges(&self, now_ms: i64) -> SpoolGauges {
        let files = self.lock();
        let since = files.values().map(|file| file.since).min().unwrap_or(now_ms);
        SpoolGauges {
            files: files.len(),
            bytes: files.values().map(|file| file.bytes).sum(),
            oldest: Duration::from_millis(u64::try_from(now_ms.saturating_sub(since)).unwrap_or_default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, File<T>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
