//! Whether the process that had this data folder before came to an orderly end.
//!
//! ```text
//! start  `running/*` that nobody holds was left by a process that was killed -> unclean, and ours to settle
//!        -> a file of our own, held as long as we live
//! told   everything may have changed -> what was left is removed
//! stop   everything was told         -> our own is removed
//! ```
//!
//! A process that is killed between an insert and telling of it ([`crate::changed_days`]) takes with it what it had to tell, and the
//! batch is neither in the journal nor in Kafka any more. So whoever comes next has to know that there was such a process.
//! Processes may share the folder, as consumers that have no spool do: a lock tells whose files are in use, and the lock goes
//! with its process.
//!
//! Failure cases; none of them keeps anybody from starting or stopping:
//! * the folder cannot be read or written: nobody can say how the last process ended, now or at the next start, so it counts as
//!   unclean;
//! * a file cannot be removed: the next start is taken for an unclean one, which costs a cold cache;
//! * killed again before Redis was told: the files are still there, and the next start finds them;
//! * killed between making its file and naming it: nothing was inserted yet, and an empty `*.part` stays;
//! * the folder does not come back, as on a new machine: nothing is known of the last process. It stays on the list of writers in Redis
//!   without a beat, so that every answer has a short time, until an operator clears the cache or the last answer from before is gone.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ulid::Ulid;

const RUNNING: &str = "running";

/// A file, and the lock on it.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    _lock: File,
}

impl Held {
    fn id(&self) -> Option<String> {
        Some(self.path.file_stem()?.to_str()?.to_owned())
    }
}

/// Says that this process runs, until [`Marker::end`]. Dropped before that, it stays behind, as after a kill.
#[derive(Debug)]
pub struct Marker {
    own: Option<Held>,
    left: Vec<Held>,
    is_unclean: bool,
}

impl Marker {
    /// Looks at what is left in `running/` below a folder, and leaves a file there. Blocking, as everything here. Before the
    /// first insert.
    pub fn set(folder: &Path) -> Self {
        let folder = folder.join(RUNNING);
        let left = or_warn(&folder, take_over(&folder));
        let own = or_warn(&folder, make(&folder));
        let is_unclean = own.is_none() || left.as_ref().is_none_or(|left| !left.is_empty());
        Self { own, left: left.unwrap_or_default(), is_unclean }
    }

    /// Whether a process before this one may have told less than it inserted.
    pub fn is_unclean(&self) -> bool {
        self.is_unclean
    }

    /// What this process is called among those that write: the name of its file.
    pub fn id(&self) -> String {
        self.own.as_ref().and_then(Held::id).unwrap_or_else(|| Ulid::generate().to_string())
    }

    /// What the processes were called that are gone.
    pub fn gone(&self) -> Vec<String> {
        self.left.iter().filter_map(Held::id).collect()
    }

    /// What it did not tell does no harm any more.
    pub fn settle(&mut self) {
        self.is_unclean = false;
        self.left.drain(..).for_each(remove);
    }

    /// This process has told everything.
    pub fn end(self) {
        self.own.into_iter().for_each(remove);
    }
}

fn or_warn<T>(folder: &Path, found: io::Result<T>) -> Option<T> {
    let warn = |error: &io::Error| {
        tracing::warn!(folder = %folder.display(), %error, "it is not known how the last process ended; it counts as killed");
    };
    found.inspect_err(warn).ok()
}

/// The files of processes that are gone.
fn take_over(folder: &Path) -> io::Result<Vec<Held>> {
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
            // Its process ended in order just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        match lock.try_lock() {
            Ok(()) => left.push(Held { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(left)
}

/// Makes a file of our own, on the disk before anything is inserted. It is locked before it has its name: nobody who looks
/// takes it for one that was left.
fn make(folder: &Path) -> io::Result<Held> {
    fs::create_dir_all(folder)?;
    let path = folder.join(Ulid::generate().to_string()).with_extension(RUNNING);
    let part = path.with_extension("part");
    let lock = File::create_new(&part)?;
    lock.try_lock()?;
    fs::rename(&part, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(Held { path, _lock: lock })
}

fn remove(Held { path, .. }: Held) {
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
            let marker = Marker::set(&scratch.0);
            assert!(!marker.is_unclean());
            assert_eq!(scratch.files(), 1);
            marker.end();
            assert_eq!(scratch.files(), 0);
        }
    }

    #[test]
    fn a_start_after_a_kill_is_unclean_until_one_has_settled_it() {
        let scratch = Scratch::new();
        let killed = Marker::set(&scratch.0);
        let id = killed.id();
        drop(killed);
        // Killed before it settled it, and then stopped without having settled it.
        let next = Marker::set(&scratch.0);
        assert_eq!((next.is_unclean(), next.gone()), (true, vec![id]));
        drop(next);
        let stopped = Marker::set(&scratch.0);
        assert!(stopped.is_unclean());
        stopped.end();
        let mut marker = Marker::set(&scratch.0);
        assert!(marker.is_unclean());
        marker.settle();
        assert!(!marker.is_unclean());
        assert_eq!(scratch.files(), 1, "its own");
        marker.end();
        assert!(!Marker::set(&scratch.0).is_unclean());
    }

    #[test]
    fn who_shares_the_folder_and_lives_was_not_killed() {
        let scratch = Scratch::new();
        let (one, other) = (Marker::set(&scratch.0), Marker::set(&scratch.0));
        assert!(!other.is_unclean());
        other.end();
        drop(one);
        assert!(Marker::set(&scratch.0).is_unclean(), "the one was killed, whatever became of the other");
    }

    #[test]
    fn a_folder_that_cannot_be_used_counts_as_unclean_and_stops_nobody() {
        let scratch = Scratch::new();
        fs::write(&scratch.0, "no folder").unwrap();
        let mut marker = Marker::set(&scratch.0);
        assert!(marker.is_unclean());
        marker.settle();
        assert!(!marker.is_unclean(), "once is enough");
        marker.end();
        fs::remove_file(&scratch.0).unwrap();
    }
}
