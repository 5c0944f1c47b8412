//! The unclean-shutdown marker: whether the process that had this data folder before was killed.
//!
//! ```text
//! start                   a file in `running/` that nobody holds was left by a killed process -> unclean, and ours to resolve
//!                         -> a file of our own, locked as long as the process lives
//! everything invalidated  -> the files that were left are removed
//! clean stop              every changed day was published -> our own file is removed
//! ```
//!
//! A process that is killed between an insert and publishing its changed days ([`crate::changed_days`]) loses these days: the batch is
//! neither in the journal nor in Kafka any more. So the next process has to know that there was such a process. Processes may share the
//! folder, as consumers without a local log do: a lock shows which files are in use, and it goes with its process.
//!
//! Failure cases; none of them keeps a process from starting or stopping:
//! * the folder cannot be read or written: nobody knows how the last process ended, now or at the next start, so it counts as unclean;
//! * a file cannot be removed: the next start counts as unclean, which costs a cold cache;
//! * killed again before everything was invalidated: the files are still there, and the next start finds them;
//! * killed between creating its file and naming it: nothing was inserted yet, and an empty `*.part` stays;
//! * the folder does not come back, as on a new machine: nothing is known of the last process. It stays on the list of writers in Redis
//!   without a heartbeat, so that every answer has a short TTL, until an operator clears the cache or the last answer from before is gone.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ulid::Ulid;

const RUNNING: &str = "running";

/// A marker file, and the lock on it.
#[derive(Debug)]
struct LockedFile {
    path: PathBuf,
    _lock: File,
}

impl LockedFile {
    fn id(&self) -> Option<String> {
        Some(self.path.file_stem()?.to_str()?.to_owned())
    }
}

/// The marker of this process, until [`ShutdownMarker::remove`]. Dropped before that, its file stays, as after a kill.
#[derive(Debug)]
pub struct ShutdownMarker {
    own: Option<LockedFile>,
    left: Vec<LockedFile>,
    is_unclean: bool,
}

impl ShutdownMarker {
    /// Finds the markers that are left in `running/` below a folder, and places one there. Before the first insert. Blocking, like
    /// everything here.
    pub fn place(folder: &Path) -> Self {
        let folder = folder.join(RUNNING);
        let left = or_warn(&folder, take_over(&folder));
        let own = or_warn(&folder, make(&folder));
        let is_unclean = own.is_none() || left.as_ref().is_none_or(|left| !left.is_empty());
        Self { own, left: left.unwrap_or_default(), is_unclean }
    }

    /// Whether a process before this one may have inserted more than it published.
    pub fn is_unclean(&self) -> bool {
        self.is_unclean
    }

    /// The writer id of this process: the name of its file.
    pub fn id(&self) -> String {
        self.own.as_ref().and_then(LockedFile::id).unwrap_or_else(|| Ulid::generate().to_string())
    }

    /// The writer ids of killed processes.
    pub fn gone(&self) -> Vec<String> {
        self.left.iter().filter_map(LockedFile::id).collect()
    }

    /// Everything was invalidated: removes the markers that were left.
    pub fn resolve(&mut self) {
        self.is_unclean = false;
        self.left.drain(..).for_each(remove_file);
    }

    /// This process has published every changed day: removes its own marker.
    pub fn remove(self) {
        self.own.into_iter().for_each(remove_file);
    }
}

fn or_warn<T>(folder: &Path, found: io::Result<T>) -> Option<T> {
    let warn = |error: &io::Error| {
        tracing::warn!(folder = %folder.display(), %error, "it is not known how the last process ended: the shutdown counts as unclean");
    };
    found.inspect_err(warn).ok()
}

/// The files of killed processes, locked.
fn take_over(folder: &Path) -> io::Result<Vec<LockedFile>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut left = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension() != Some(OsStr::new(RUNNING)) {
            continue;
        }
        let lock = match File::open(&path) {
            // Its process has just stopped cleanly.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        match lock.try_lock() {
            Ok(()) => left.push(LockedFile { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(left)
}

/// Creates our own file, synced before anything is inserted. It is locked before it gets its name, so that no other process takes it
/// for one that was left.
fn make(folder: &Path) -> io::Result<LockedFile> {
    fs::create_dir_all(folder)?;
    let path = folder.join(Ulid::generate().to_string()).with_extension(RUNNING);
    let part = path.with_extension("part");
    let lock = File::create_new(&part)?;
    lock.try_lock()?;
    fs::rename(&part, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(LockedFile { path, _lock: lock })
}

fn remove_file(LockedFile { path, .. }: LockedFile) {
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "a marker cannot be removed; the next start counts as unclean");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("tallyhouse-marker-{}", Ulid::generate())))
        }

        fn files(&self) -> usize {
            fs::read_dir(self.0.join(RUNNING)).unwrap().count()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_first_start_and_one_after_an_orderly_stop_are_clean() {
        let scratch = Scratch::new();
        for _ in 0..2 {
            let marker = ShutdownMarker::place(&scratch.0);
            assert!(!marker.is_unclean());
            assert_eq!(scratch.files(), 1);
            marker.remove();
            assert_eq!(scratch.files(), 0);
        }
    }

    #[test]
    fn a_start_after_a_kill_is_unclean_until_it_is_resolved() {
        let scratch = Scratch::new();
        let killed = ShutdownMarker::place(&scratch.0);
        let id = killed.id();
        drop(killed);
        // Killed before it was resolved, and then stopped without resolving it.
        let next = ShutdownMarker::place(&scratch.0);
        assert_eq!((next.is_unclean(), next.gone()), (true, vec![id]));
        drop(next);
        let stopped = ShutdownMarker::place(&scratch.0);
        assert!(stopped.is_unclean());
        stopped.remove();
        let mut marker = ShutdownMarker::place(&scratch.0);
        assert!(marker.is_unclean());
        marker.resolve();
        assert!(!marker.is_unclean());
        assert_eq!(scratch.files(), 1, "its own");
        marker.remove();
        assert!(!ShutdownMarker::place(&scratch.0).is_unclean());
    }

    #[test]
    fn who_shares_the_folder_and_lives_was_not_killed() {
        let scratch = Scratch::new();
        let (one, other) = (ShutdownMarker::place(&scratch.0), ShutdownMarker::place(&scratch.0));
        assert!(!other.is_unclean());
        other.remove();
        drop(one);
        assert!(ShutdownMarker::place(&scratch.0).is_unclean(), "the one was killed, whatever became of the other");
    }

    #[test]
    fn a_folder_that_cannot_be_used_counts_as_unclean_and_stops_nobody() {
        let scratch = Scratch::new();
        fs::write(&scratch.0, "no folder").unwrap();
        let mut marker = ShutdownMarker::place(&scratch.0);
        assert!(marker.is_unclean());
        marker.resolve();
        assert!(!marker.is_unclean(), "once is enough");
        marker.remove();
        fs::remove_file(&scratch.0).unwrap();
    }
}
