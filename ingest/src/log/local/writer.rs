//! The writer thread: writes and syncs a group of all records that came while the one before was synced.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tallyhouse_service::clock::now_ms;

use super::disk::{Disk, DiskFile, Folder};
use super::group::Group;
use super::{LocalLog, Sync};

/// Between two syncs that nobody waits for, with [`Sync::Interval`].
const INTERVAL: Duration = Duration::from_secs(1);

/// Requests of one group from which on the next one gathers for longer than a sync takes.
const MANY: usize = 16;

/// Between the beginnings of two groups while many requests come, at most: each sync costs processor time, and requests that are answered
/// together cost less than one by one. Far less than an acknowledgement may take.
const GATHERS: Duration = Duration::from_millis(4);

/// What writes a log. It ends when this is dropped.
pub struct Writer<D: Disk = Folder> {
    log: Arc<LocalLog<D>>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> Writer<D> {
    /// Waits until all that was appended is written.
    pub async fn end(mut self) {
        self.log.end();
        let Some(thread) = self.thread.take() else { return };
        // `Watch` logged a panic.
        drop(tokio::task::spawn_blocking(move || thread.join()).await);
    }
}

impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        self.log.end();
    }
}

/// Sees the thread end.
struct Watch<'a, D: Disk>(&'a LocalLog<D>);

impl<D: Disk> Drop for Watch<'_, D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.metrics.log.errors.inc();
            self.0.open().fail();
            tracing::error!(
                "the writer of the local log ended by a fault; events are refused until the process is started again"
            );
        }
    }
}

impl<D: Disk> LocalLog<D> {
    /// Begins to write, on a thread of its own.
    pub fn start(self: &Arc<Self>) -> io::Result<Writer<D>> {
        let log = Arc::clone(self);
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            let _watch = Watch(&log);
            log.write();
        })?;
        Ok(Writer { log: Arc::clone(self), thread: Some(thread) })
    }

    /// Writes and syncs groups until [`Self::end`].
    pub(super) fn write(&self) {
        let mut last_sync = Instant::now();
        loop {
            let due = match self.sync {
                Sync::Interval => Some(last_sync + INTERVAL),
                Sync::Always | Sync::Off => None,
            };
            let Some(group) = self.next_group(due) else { break };
            if group.records() > 0 {
                let (waiting, begun) = (group.waiting(), Instant::now());
                self.write_group(group);
                if waiting >= MANY && self.sync == Sync::Always {
                    let took = begun.elapsed();
                    // On a disk that is quick the gain is small, and so is the pause.
                    std::thread::sleep(took.min(GATHERS.saturating_sub(took)));
                }
            }
            let is_due = due.is_some_and(|due| Instant::now() >= due);
            if self.wants_sync.swap(false, Ordering::Relaxed) || is_due {
                last_sync = Instant::now();
                self.sync_written();
            }
        }
        self.sync_written();
    }

    /// Lets [`Self::write`] end when all is written. Nothing is taken any more.
    pub(super) fn end(&self) {
        self.open().end();
        self.arrived.notify_one();
    }

    /// The next group; an empty one when a sync is wanted or due.
    fn next_group(&self, due: Option<Instant>) -> Option<Group> {
        let mut open = self.open();
        loop {
            if open.has_records() || self.wants_sync.load(Ordering::Relaxed) {
                return Some(open.take());
            }
            if open.has_ended() {
                return None;
            }
            open = match due {
                None => self.arrived.wait(open).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Some(open.take());
                    }
                    self.arrived.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn write_group(&self, mut group: Group) {
        let started = Instant::now();
        let first = group.first();
        let (bytes, records) = group.bytes();
        let written = self.segments().write(first, bytes, records, now_ms());
        let durable = written.and_then(|()| if self.sync == Sync::Always { self.sync() } else { Ok(()) });
        match durable {
            Ok(()) => {
                self.metrics.log.written(records, started.elapsed());
                if self.sync != Sync::Always {
                    let mut unsynced = self.unsynced();
                    unsynced.push((group.end(), group.keys().to_vec(), records));
                    // A segment that ended was synced.
                    let synced = self.segments().synced();
                    unsynced.retain(|(end, ..)| *end > synced);
                }
                self.open().written(&group);
            }
            Err(error) => {
                tracing::error!(%error, records, "the local log could not be written; events are refused, and the next ones get another segment");
                self.start_over(Some(group));
            }
        }
    }

    fn sync_written(&self) {
        if let Err(error) = self.sync() {
            tracing::error!(%error, "the local log could not be synced");
            self.start_over(None);
        }
    }

    fn sync(&self) -> io::Result<()> {
        let unsynced = self.segments().unsynced();
        if let Some(unsynced) = unsynced {
            // Without the lock: reading goes on.
            let synced = DiskFile::sync(&*unsynced.file);
            self.segments().synced_to(&unsynced, synced)?;
        }
        self.publish_synced();
        Ok(())
    }

    /// Publishes up to where the log may be read.
    fn publish_synced(&self) {
        let synced = self.segments().synced();
        self.unsynced().retain(|(end, ..)| *end > synced);
        self.synced.send_if_modified(|known| std::mem::replace(known, synced) != synced);
    }

    /// Offsets go on after what is synced. A group that is not, and what came behind it, are lost: their offsets are used again.
    fn start_over(&self, group: Option<Group>) {
        self.metrics.log.errors.inc();
        let behind = {
            let mut open = self.open();
            open.refuse(true);
            open.take()
        };
        let lost: Vec<_> = group.into_iter().chain([behind]).collect();
        self.publish_synced();
        let next = self.segments().next();
        let acknowledged = std::mem::take(&mut *self.unsynced());
        if !acknowledged.is_empty() {
            self.losses.fetch_add(1, Ordering::AcqRel);
            let records = acknowledged.iter().map(|(.., records)| u64::from(*records)).sum();
            self.metrics.log.damaged(records, 0);
            tracing::error!(records, "events that were acknowledged before their sync are lost");
        }
        // Before the offsets are used again.
        acknowledged.iter().for_each(|(_, keys, _)| (self.on_lost)(keys));
        lost.iter().for_each(|group| (self.on_lost)(group.keys()));
        let mut open = self.open();
        open.go_back(next);
        open.refuse(false);
        drop(open);
        lost.into_iter().for_each(Group::lose);
    }
}
