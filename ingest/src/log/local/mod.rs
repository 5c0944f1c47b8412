//! The local log: segment files in `TALLYHOUSE_DATA`, one writer, one reader.
//!
//! ```text
//! append -> the open group -> written and synced with all that came during the last sync -> durable: the request is answered
//! read   <- what is synced, in order
//! commit -> one of two slots, synced                        -> segments that are read go
//! start  -> read every segment: cut the torn tail, set damage aside -> the next append begins a segment of its own
//! ```
//!
//! **A group** is what one sync makes durable: the records of all requests that came while the one before was synced. Nothing lingers
//! where few wait: with nobody else there, a request is written at once. While many do, a group gathers for as long as the sync
//! before it took (`writer`): each sync costs processor time that they want themselves. A group has a header, and each record a length and a checksum
//! ([`frame`]).
//!
//! **What survives** depends on `LOG_SYNC`, see [`Sync`]. Exactness does not depend on it: an intent is written only for records that are
//! synced, so a power cut can lose events that were acknowledged without a sync, but can never make a batch of other events out of
//! its range.
//!
//! Failure cases:
//! * killed, or the power goes, while a group is written: it was not acknowledged. A torn group at the end of the last segment is
//!   cut off and kept beside the segment (`….torn`);
//! * damage before the end: the records of the group that are whole are used; the group is kept beside the segment (`….damaged`),
//!   the others are counted and named in the log. What follows is found again by its header and used;
//! * a write or a sync fails: nothing of the group is acknowledged, and nothing of it is tried again in this file, since a second
//!   `fdatasync` may succeed although the pages are gone. The segment ends where it was last synced; the next append begins
//!   another one, which takes the offsets over;
//! * the disk is nearly full, or as much waits as may: appends are refused before anything is written;
//! * a commit is torn: the slot before it counts, and the batch is inserted again under its token, as its intent says;
//! * the writer panics, by a fault of ours: appends are refused until the next start, and what is synced is still stored;
//! * a file cannot be removed: it is tried again with the next commit; at a start it is known to be read already.

pub mod commit;
pub mod disk;
pub mod frame;
pub mod group;
pub mod identity;
mod options;
pub mod segments;
mod writer;

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_service::clock::now_ms;
use tokio::sync::watch;

use crate::event_key::EventKey;
use crate::intent::Intent;
use crate::telemetry::Metrics;
pub use commit::Committed;
use commit::{COMMIT, Commits};
use disk::{Disk, Folder};
use group::Open;
pub use group::{Appending, Outcome, Place, Ticket};
pub use identity::Identity;
pub use options::{Limits, OnLost, Options, Sync};
use segments::{Bounds, Segments};
pub use segments::{Damage, Progress, Record};
pub use writer::Writer;

pub struct LocalLog<D: Disk = Folder> {
    segments: Mutex<Segments<D>>,
    open: Mutex<Open>,
    arrived: Condvar,
    commits: Mutex<Commits<D::File>>,
    /// The offset up to which all is synced: what may be read.
    synced: watch::Sender<i64>,
    /// The offset up to which damage was counted.
    inspected: AtomicI64,
    /// Not asked of the segments: who writes holds their lock.
    salt: u32,
    sync: Sync,
    limits: Limits,
    /// Groups that were acknowledged and are not synced yet: where each ends, its ids, and how many records it has.
    unsynced: Mutex<Vec<(i64, Vec<EventKey>, u32)>>,
    /// How often acknowledged records were lost.
    losses: AtomicU64,
    wants_sync: AtomicBool,
    is_full: AtomicBool,
    on_lost: OnLost,
    metrics: Arc<Metrics>,
}

impl<D: Disk> LocalLog<D> {
    /// Opens the log on a disk that only this process has, and gives each record that is still there to `visit`.
    pub fn on(disk: D, options: Options, visit: impl FnMut(Record<'_>)) -> io::Result<(Self, Option<Committed>)> {
        let Options { sync, limits, metrics, on_lost, saved } = options;
        let (commits, committed, is_damaged) = Commits::open(&disk, COMMIT)?;
        if is_damaged {
            // A torn one is harmless, since nothing is inserted before its intent is synced; they look the same.
            metrics.log.errors.inc();
            tracing::error!(
                "a commit of the log is torn or damaged, and the one before is taken; if the power was not cut, a batch may be counted \
                 twice: run `tallyhouse rollups verify`"
            );
        }
        let Committed { next: first, metadata } = committed.clone().unwrap_or_default();
        // Offsets that an intent names are not used again, even if the log lost its records.
        let intent = Intent::read(first, &metadata).ok().flatten();
        let named = intent.map_or(first, |intent| intent.last + 1);
        let (segments, damage) =
            Segments::open(disk, limits.segment_bytes(), Bounds { committed: first, named, saved }, visit)?;
        metrics.log.damaged(damage.records, damage.torn_bytes);
        if damage != Damage::default() {
            tracing::error!(
                ?damage,
                next = segments.next(),
                "the local log was damaged; what is damaged is kept beside it"
            );
        }
        let next = segments.next();
        let log = Self {
            open: Mutex::new(Open::at(next)),
            arrived: Condvar::new(),
            commits: Mutex::new(commits),
            synced: watch::Sender::new(next),
            inspected: AtomicI64::new(next),
            salt: segments.salt(),
            segments: Mutex::new(segments),
            sync,
            limits,
            unsynced: Mutex::default(),
            losses: AtomicU64::new(0),
            wants_sync: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            on_lost,
            metrics,
        };
        Ok((log, committed))
    }

    /// What the checksums of appended records begin with ([`frame::write_record`]).
    pub fn salt(&self) -> u32 {
        self.salt
    }

    /// Begins to append. Others wait meanwhile, so nothing else is done before it is dropped.
    pub fn append(&self) -> Appending<'_> {
        Appending::new(self.open(), &self.arrived)
    }

    /// Whether as much waits as may.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Whether the writer ended by a fault: nothing is taken any more, until the process is started again.
    pub fn has_failed(&self) -> bool {
        self.open().has_failed()
    }

    /// How often records that had been acknowledged were lost, with [`Sync`] other than `always`: their offsets belong to others then.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Counts events that were refused because it is.
    pub fn refused(&self, events: usize) {
        self.metrics.log.refused.inc_by(events as u64);
    }

    /// Up to where it may be read; changes as more becomes durable.
    pub fn synced(&self) -> watch::Receiver<i64> {
        self.synced.subscribe()
    }

    /// Makes what is appended readable soon, whatever [`Sync`] says.
    pub fn request_sync(&self) {
        if self.sync != Sync::Always {
            self.wants_sync.store(true, Ordering::Relaxed);
            // With the lock: the writer is not between its look and its wait.
            let _open = self.open();
            self.arrived.notify_one();
        }
    }

    /// Gives records from an offset on to `visit`, until it returns `false` or no more are synced. Blocking.
    pub fn read(&self, from: i64, mut visit: impl FnMut(Record<'_>) -> bool) -> io::Result<Progress> {
        let (view, until) = {
            let segments = self.segments();
            let until = *self.synced.borrow();
            (segments.view(from, until), until)
        };
        let goes_on = Cell::new(true);
        let mut visit = |record: Record<'_>| {
            goes_on.set(visit(record));
            goes_on.get()
        };
        // The same damage is met by whoever reads over it, and was met by recovery.
        let inspected = self.inspected.load(Ordering::Relaxed).clamp(from, until.max(from));
        let mut progress = Progress { next: from, damage: Damage::default() };
        if from < inspected {
            progress = segments::read(&view, from, inspected, &mut visit)?;
            if !goes_on.get() {
                return Ok(progress);
            }
        }
        let Progress { next, damage } = segments::read(&view, inspected, until, &mut visit)?;
        let is_first = self.inspected.fetch_max(next, Ordering::Relaxed) <= inspected;
        if is_first && damage != Damage::default() {
            self.metrics.log.damaged(damage.records, damage.torn_bytes);
            tracing::error!(?damage, from, next, "the local log is damaged");
        }
        Ok(Progress { next, damage: progress.damage.and(damage) })
    }

    /// The offsets that are there.
    pub fn range(&self) -> std::ops::Range<i64> {
        let segments = self.segments();
        segments.first()..segments.synced()
    }

    /// Ids of the segments up to the one that begins here were not read again ([`Bounds::saved`]).
    pub fn passed(&self) -> i64 {
        self.segments().passed()
    }

    /// Commits. Blocking.
    pub fn commit(&self, next: i64, metadata: &str) -> io::Result<()> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).commit(next, metadata)
    }

    /// First and end offsets of segments that are read and take no more.
    pub fn ended_before(&self, offset: i64) -> Vec<(i64, i64)> {
        self.segments().ended_before(offset)
    }

    /// Removes segments that lie before an offset.
    pub fn retire(&self, before: i64) {
        self.segments().retire(before);
    }

    /// Makes the file of the next segment when it will soon be needed. Blocking, for about as long as a segment takes to be written; one
    /// caller at a time.
    pub fn prepare(&self) -> io::Result<()> {
        let wanted = self.segments().wants_spare().filter(|_| !self.is_full());
        if let Some((disk, bytes)) = wanted {
            let spare = segments::make_spare(&disk, bytes)?;
            self.segments().take_spare(spare);
        }
        Ok(())
    }

    /// Bytes of records from an offset on, whether they are stored or not.
    pub fn bytes_from(&self, offset: i64) -> u64 {
        self.segments().bytes_from(offset)
    }

    /// What may wait in it.
    pub fn spool_bytes(&self) -> u64 {
        self.limits.bytes
    }

    /// Looks at how much waits from an offset on, and since when.
    pub fn measure(&self, committed: i64, oldest_ms: Option<i64>) -> Backlog {
        let limits = self.limits;
        let (bytes, free) = {
            let segments = self.segments();
            (segments.bytes_from(committed), segments.free())
        };
        let age = oldest_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest));
        let oldest = Duration::from_millis(u64::try_from(age).unwrap_or_default());
        let has_room = free.is_none_or(|free| free > limits.reserved_bytes());
        let is_full = bytes >= limits.bytes || oldest >= limits.age || !has_room;
        self.is_full.store(is_full, Ordering::Relaxed);
        Backlog { bytes, oldest, has_room }
    }

    fn segments(&self) -> MutexGuard<'_, Segments<D>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsynced(&self) -> MutexGuard<'_, Vec<(i64, Vec<EventKey>, u32)>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records of the log that are not committed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that are not committed.
    pub bytes: u64,
    /// Since when the oldest of them waits.
    pub oldest: Duration,
    /// Whether the disk has room for more.
    pub has_room: bool,
}

#[cfg(test)]
mod power_cuts;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
