//! The checkpoint: up to which offset stored events are also on the disk of a ClickHouse on this machine.
//!
//! ClickHouse answers an insert when the kernel has its parts, and the kernel writes them up to half a minute later. So the log keeps stored
//! events until they are synced:
//!
//! ```text
//! each minute  what is stored by now -> the file system of ClickHouse's folder is synced -> checkpoint
//! segments go  before the checkpoint
//! start        the machine was not restarted since: from the commit, as always
//!              it was: from the checkpoint. Everything is inserted again under new tokens; raw rows of one key are one event, and the days
//!              of what may have been stored before are compared with raw events, and rebuilt
//! ```
//!
//! Failure cases:
//! * the sync fails or takes long: the log keeps more, and tries again;
//! * the end of a process while it sets itself back: the next start does it again (the steps are in that order);
//! * the end of a process afterwards: its commits are those of the new tokens, and what has to be compared is noted here;
//! * a clean start of the machine: the last checkpoint is that of the stop, and nothing is inserted again.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use ulid::Ulid;

use crate::intent::Intent;
use crate::log::local::commit::{COMMIT, Commits};
use crate::log::local::disk::{Disk, DiskFile, Folder};
use crate::log::local::segments;

const NAME: &str = "checkpoint";

/// A ClickHouse that runs on this machine.
#[derive(Debug, Clone)]
pub struct LocalStore {
    /// Everything that it writes is on the file systems of these.
    pub folders: Vec<PathBuf>,
    /// Which start of the machine this is.
    pub boot: String,
}

impl LocalStore {
    /// The ClickHouse whose files are in these folders. Where the kernel does not say which start of the machine it is, each start of the
    /// process is taken for another: what may be lost is stored again.
    pub fn of(folders: Vec<PathBuf>) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self { folders, boot: boot.map_or_else(|_| Ulid::generate().to_string(), |boot| boot.trim().to_owned()) }
    }

    /// Makes what ClickHouse has written outlive the power. Blocking, for as long as it takes.
    pub fn sync(&self) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| Ok(rustix::fs::syncfs(File::open(folder)?)?))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CheckpointState {
    /// What is stored before it is on the disk.
    next: i64,
    /// The start of the machine in which it was reached.
    boot: String,
    /// Counts starts after which something was stored again: tokens are others then.
    generation: u32,
    /// What comes before it may have been stored under tokens of another generation.
    stored_before: i64,
}

/// The file of checkpoints.
struct Checkpoint<F> {
    file: Commits<F>,
    state: CheckpointState,
}

impl<F: DiskFile> Checkpoint<F> {
    /// Opens it, before the log. When the machine was started since, the commit is set back to it. Without a start (`boot`) ClickHouse is
    /// elsewhere, and nothing changes.
    fn open<D: Disk<File = F>>(disk: &D, boot: Option<&str>) -> io::Result<Self> {
        let (file, found, _) = Commits::open(disk, NAME)?;
        let (mut commit, committed, _) = Commits::open(disk, COMMIT)?;
        let known = found.and_then(|found| CheckpointState::decode(found.next, &found.metadata));
        let is_first = known.is_none();
        let mut state = known.unwrap_or_else(|| {
            // The first one, or of a version without checkpoints.
            let next = committed.as_ref().map_or(0, |committed| committed.next);
            CheckpointState { next, boot: boot.unwrap_or_default().to_owned(), generation: 0, stored_before: 0 }
        });
        let mut checkpoint = Self { file, state: state.clone() };
        let Some(boot) = boot else { return Ok(checkpoint) };
        if state.boot != boot
            && let Some(committed) = committed
        {
            // What is not understood stands still, and keeps what has to be set back once it is.
            let Ok(intent) = Intent::read(committed.next, &committed.metadata) else { return Ok(checkpoint) };
            let begun = intent.map_or(committed.next, |intent| intent.last + 1);
            // Nothing is set back to what the log has no more.
            let first = segments::first(disk)?.unwrap_or(committed.next);
            state.next = state.next.max(first).min(committed.next);
            state.stored_before = state.stored_before.max(begun);
            state.generation += 1;
            tracing::warn!(
                from = state.next,
                to = state.stored_before,
                "the machine was started since: what was stored last is stored again, and compared"
            );
            checkpoint.write(state.clone())?;
            commit.commit(state.next, "")?;
        }
        boot.clone_into(&mut state.boot);
        if is_first || state != checkpoint.state {
            checkpoint.write(state)?;
        }
        Ok(checkpoint)
    }

    /// Everything from an offset on is to be stored again, and compared up to `end`: ClickHouse was replaced by an older one. Returns from where
    /// on the log has it. Idempotent, as [`Self::open`] is.
    fn set_back<D: Disk<File = F>>(&mut self, disk: &D, from: i64, end: i64) -> io::Result<i64> {
        let (mut commit, committed, _) = Commits::open(disk, COMMIT)?;
        let Some(committed) = committed else { return Ok(from) };
        let intent = Intent::read(committed.next, &committed.metadata).map_err(io::Error::other)?;
        let begun = intent.map_or(committed.next, |intent| intent.last + 1);
        let first = segments::first(disk)?.unwrap_or(committed.next);
        let next = from.max(first).min(committed.next);
        let state = &self.state;
        let (generation, stored_before) = (state.generation + 1, state.stored_before.max(begun).max(end));
        self.write(CheckpointState { next, generation, stored_before, ..state.clone() })?;
        commit.commit(next, "")?;
        Ok(next)
    }

    /// Everything before an offset is on the disk.
    fn reach(&mut self, next: i64) -> io::Result<()> {
        self.write(CheckpointState { next, ..self.state.clone() })
    }

    fn write(&mut self, state: CheckpointState) -> io::Result<()> {
        self.file.commit(state.next, &state.encode())?;
        self.state = state;
        Ok(())
    }
}

impl CheckpointState {
    fn encode(&self) -> String {
        format!("{} {} {}", self.boot, self.generation, self.stored_before)
    }

    fn decode(next: i64, metadata: &str) -> Option<Self> {
        let mut parts = metadata.split(' ');
        let (boot, generation, stored_before) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            next,
            boot: boot.to_owned(),
            generation: generation.parse().ok()?,
            stored_before: stored_before.parse().ok()?,
        })
    }
}

/// Has everything from an offset on stored again: see [`super::restored`].
pub fn set_back(disk: &Folder, from: i64, end: i64) -> io::Result<i64> {
    Checkpoint::open(disk, None)?.set_back(disk, from, end)
}

/// Makes checkpoints.
pub struct Checkpointer {
    /// `None`: ClickHouse is elsewhere, and what it answers counts.
    store: Option<LocalStore>,
    checkpoint: Mutex<Checkpoint<File>>,
    /// Not asked of the checkpoint: who syncs holds its lock.
    next: AtomicI64,
}

impl Checkpointer {
    /// Opens the checkpoint of a log.
    pub fn open(disk: &Folder, store: Option<LocalStore>) -> io::Result<Self> {
        let checkpoint = Checkpoint::open(disk, store.as_ref().map(|store| store.boot.as_str()))?;
        let next = AtomicI64::new(checkpoint.state.next);
        Ok(Self { store, checkpoint: Mutex::new(checkpoint), next })
    }

    /// The generation of tokens, and up to where others may have stored something.
    pub fn began(&self) -> (u32, i64) {
        let checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        (checkpoint.state.generation, checkpoint.state.stored_before)
    }

    /// Segments before it may go, when what is in them is stored.
    pub fn may_go_before(&self) -> i64 {
        if self.store.is_some() { self.next.load(Ordering::Acquire) } else { i64::MAX }
    }

    /// Whether anything was ever stored.
    pub fn is_first(&self) -> bool {
        self.next.load(Ordering::Acquire) <= 0
    }

    /// Makes everything that is stored before an offset outlive the power. Blocking, for as long as the disk takes.
    pub fn checkpoint(&self, stored: i64) -> io::Result<()> {
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &self.store
            && stored > checkpoint.state.next
        {
            store.sync()?;
            checkpoint.reach(stored)?;
            self.next.store(stored, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::Skips;
    use crate::log::local::simulated::Simulated;

    /// A disk with a segment that begins at an offset.
    fn disk(first: i64) -> Simulated {
        let disk = Simulated::default();
        drop(disk.create(&format!("{first:020}-0000000001-00000001.log"), 0).unwrap());
        disk
    }

    fn commit(disk: &Simulated, next: i64, metadata: &str) {
        Commits::open(disk, COMMIT).unwrap().0.commit(next, metadata).unwrap();
    }

    /// The next offset and generation, what was stored before, and the commit.
    fn opened(disk: &Simulated, boot: &str) -> (i64, u32, i64, i64) {
        let checkpoint = Checkpoint::open(disk, Some(boot)).unwrap();
        let committed = Commits::open(disk, COMMIT).unwrap().1.map_or(-1, |committed| committed.next);
        (checkpoint.state.next, checkpoint.state.generation, checkpoint.state.stored_before, committed)
    }

    #[test]
    fn only_another_start_of_the_machine_sets_the_commit_back() {
        let disk = disk(0);
        assert_eq!(opened(&disk, "one"), (0, 0, 0, -1));
        commit(&disk, 100, "");
        Checkpoint::open(&disk, Some("one")).unwrap().reach(60).unwrap();
        assert_eq!(opened(&disk, "one"), (60, 0, 0, 100));
        assert_eq!(opened(&disk, "two"), (60, 1, 100, 60));
        // It was ended before anything was stored, and then in the middle.
        assert_eq!(opened(&disk, "two"), (60, 1, 100, 60));
        commit(&disk, 80, "");
        assert_eq!(opened(&disk, "two"), (60, 1, 100, 80));
        assert_eq!(opened(&disk, "three"), (60, 2, 100, 60));
        commit(&disk, 120, &Intent::metadata(120..=150, 1, 1, Skips::default()));
        Checkpoint::open(&disk, Some("three")).unwrap().reach(120).unwrap();
        assert_eq!(opened(&disk, "four"), (120, 3, 151, 120), "what was being inserted may be there");
    }

    #[test]
    fn an_end_at_any_moment_forgets_nothing() {
        let disk = disk(0);
        disk.sync_names().unwrap();
        drop(Checkpoint::open(&disk, Some("one")).unwrap());
        commit(&disk, 100, "");
        Checkpoint::open(&disk, Some("one")).unwrap().reach(60).unwrap();
        let before = disk.ops();
        drop(Checkpoint::open(&disk, Some("two")).unwrap());
        for ops in before..=disk.ops() {
            for seed in 0..20 {
                for boot in ["two", "three"] {
                    let (next, _, stored_before, committed) = opened(&disk.cut(ops, seed), boot);
                    assert_eq!((next, stored_before, committed), (60, 100, 60), "{ops} {seed} {boot}");
                }
            }
        }
    }

    #[test]
    fn a_folder_without_one_begins_at_its_commit() {
        let disk = Simulated::default();
        commit(&disk, 100, "");
        assert_eq!(opened(&disk, "one"), (100, 0, 0, 100));
    }

    #[test]
    fn nothing_is_set_back_to_what_the_log_has_no_more() {
        let disk = disk(80);
        assert_eq!(opened(&disk, "one"), (0, 0, 0, -1));
        commit(&disk, 100, "");
        // Without checkpoints for a while: ClickHouse was elsewhere.
        drop(Checkpoint::open(&disk, None).unwrap());
        assert_eq!(opened(&disk, "two"), (80, 1, 100, 80));
    }

    #[test]
    fn a_commit_that_is_not_understood_is_set_back_once_it_is() {
        let disk = disk(0);
        assert_eq!(opened(&disk, "one"), (0, 0, 0, -1));
        commit(&disk, 100, "of a newer version");
        assert_eq!(opened(&disk, "two"), (0, 0, 0, 100));
        commit(&disk, 100, "");
        assert_eq!(opened(&disk, "two"), (0, 1, 100, 0));
    }
}
