//! [`Control`]: what a process knows of the control plane, and how it keeps up.
//!
//! ```text
//! every 2 s, after a change of our own, on a key that nobody knows -> has the table changed? -> read what is newer -> snapshot -> disk
//!                                                                                             '-> subscribers
//! ```
//!
//! * While ClickHouse is away the last snapshot stays in use; after a restart, that of the disk. What was revoked stays revoked.
//! * A key that is not known may have been made a moment ago, by another process. So one look is taken, by one request for all that wait,
//!   at most every `MISS_EVERY`, and few may wait: a flood of wrong keys asks ClickHouse no more often, and holds nothing.
//! * A replica that lags behind would bring back what was revoked: a table with fewer versions than are held is not believed for
//!   `BELIEVE_AFTER`. After that it counts as restored from a backup.
//! * Expiry is told by a clock that does not go back, as long as the process runs.

mod health;
#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::HeaderValue;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Health;
use tallyhouse_sql::Connection;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::key_text::{self, Form, KeyDigest};
use crate::key_use;
use crate::snapshot::disk::DiskCopy;
use crate::snapshot::{FixedKeys, Key, KeyError, Snapshot};
use crate::store::{ControlError, ControlStore, Mark};

/// How often the table is looked at.
pub const REFRESH: Duration = Duration::from_secs(2);

/// How often at most because of keys that are not known.
const MISS_EVERY: Duration = Duration::from_millis(250);

/// Requests that wait for such a look at most; others are refused at once.
const MISSES: usize = 64;

/// How long such a request waits at most.
const MISS_WITHIN: Duration = Duration::from_secs(2);

/// How often what was read in part is read again at once, and how long after that while it is less than there is.
const DOUBTS: u8 = 5;
const DOUBT_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a table that went back is taken for a replica that lags.
const BELIEVE_AFTER: Duration = Duration::from_secs(60);

/// What is read again beside what is newer: writers and replicas do not take turns.
const OVERLAP_MS: i64 = 60_000;

/// How often it is written when keys were used.
const USES_EVERY: Duration = Duration::from_secs(60);

/// How long the last time may take.
const LAST_USES_WITHIN: Duration = Duration::from_secs(1);

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A key, and the digest of the text that opened it: after a rotation a key outlives its old text.
#[derive(Debug, Clone)]
pub struct OpenedKey {
    key: Arc<Key>,
    pub(crate) digest: KeyDigest,
}

impl std::ops::Deref for OpenedKey {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.key
    }
}

/// What a process has.
pub struct ControlOptions {
    /// Names the copy on the disk; processes that share a data folder differ in it.
    pub service: &'static str,
    /// Where the copy is. `None`: there is none.
    pub data: Option<PathBuf>,
    /// `None`: nothing but fixed keys.
    pub store: Option<ControlStore>,
    /// Keys that are known without ClickHouse.
    pub fixed: FixedKeys,
    pub clock: Clock,
}

/// What a process knows of the control plane. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    store: Option<ControlStore>,
    fixed: FixedKeys,
    snapshot: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    /// Cancelled: ClickHouse has answered once.
    looked: CancellationToken,
    looking: tokio::sync::Mutex<Looking>,
    misses: Semaphore,
    copy: Option<Arc<Copied>>,
    clock: Clock,
    /// The latest that the clock showed.
    latest_ms: AtomicI64,
    /// Where it is told how the control plane is.
    told: Mutex<Vec<Health>>,
}

/// The copy on the disk, and which snapshot is in it. A write goes on when whoever began it is gone, so each takes its turn.
struct Copied {
    disk: DiskCopy,
    /// The generation that is on the disk.
    written: Mutex<Option<u64>>,
    is_behind: AtomicBool,
}

/// One look at a time.
#[derive(Default)]
struct Looking {
    /// Looks that read everything again, because what was read is less than there is: a replica may lag behind another one.
    doubts: u8,
    /// When everything was last read and was less than there is.
    doubted: Option<Instant>,
    /// When the last one began.
    began: Option<Instant>,
    /// Since when the table has had fewer versions than are held.
    went_back: Option<Instant>,
    /// When uses of keys were last written, and up to which use.
    uses_written: Option<Instant>,
    uses_until_ms: i64,
}

impl Looking {
    /// Whether everything is to be read again although the table has not changed.
    fn is_in_doubt(&self) -> bool {
        self.doubts > 0 || self.doubted.is_some_and(|at| at.elapsed() >= DOUBT_AGAIN_AFTER)
    }
}

impl Copied {
    /// Writes a snapshot, unless a newer one is there. What fails is tried again with the next look.
    fn write(&self, snapshot: &Snapshot, generation: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_some_and(|written| written > generation) {
            return;
        }
        match self.disk.write(snapshot) {
            Ok(()) => {
                *written = Some(generation);
                if self.is_behind.swap(false, Ordering::Relaxed) {
                    tracing::info!("the control plane is kept on the disk again");
                }
            }
            Err(error) => {
                if !self.is_behind.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the control plane is not kept on the disk; trying again");
                }
            }
        }
    }
}

impl Control {
    /// Fixed keys and nothing else: for tests and benchmarks.
    pub fn fixed(fixed: FixedKeys) -> Self {
        Self::open(ControlOptions { service: "fixed", data: None, store: None, fixed, clock: Arc::new(now_ms) })
    }

    /// What a command works with: it keeps nothing, and looks when it is told to.
    pub fn for_command(reader: &Connection, writer: &Connection) -> Self {
        let store = Some(ControlStore::new(reader, Some(writer)));
        let fixed = FixedKeys::default();
        Self::open(ControlOptions { service: "command", data: None, store, fixed, clock: Arc::new(now_ms) })
    }

    /// What the disk has, which may be nothing. ClickHouse is not asked before [`Control::run`].
    pub fn open(options: ControlOptions) -> Self {
        let ControlOptions { service, data, store, fixed, clock } = options;
        let copy = data.map(|data| {
            if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&data) {
                tracing::warn!(%error, data = %data.display(), "no copy of the control plane can be kept here");
            }
            DiskCopy::of(&data, service)
        });
        let mut snapshot = Snapshot::of_fixed(&fixed);
        match copy.as_ref().map(DiskCopy::read) {
            Some(Ok(Some((mark, records)))) => snapshot = snapshot.only(mark, records, &fixed),
            Some(Err(error)) => tracing::error!(%error, "the copy of the control plane"),
            Some(Ok(None)) | None => {}
        }
        Self(Arc::new(Inner {
            store,
            fixed,
            snapshot: ArcSwap::from_pointee(snapshot),
            changed: watch::Sender::new(0),
            looked: CancellationToken::new(),
            looking: tokio::sync::Mutex::default(),
            misses: Semaphore::new(MISSES),
            copy: copy
                .map(|disk| Arc::new(Copied { disk, written: Mutex::default(), is_behind: AtomicBool::new(false) })),
            clock,
            latest_ms: AtomicI64::new(0),
            told: Mutex::default(),
        }))
    }

    /// Everything in force, as this process knows it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    /// Whether the snapshot is that of the table or of the disk, or there is nothing to read.
    pub fn is_read(&self) -> bool {
        self.0.store.is_none() || self.0.snapshot.load().mark().is_some()
    }

    /// Whether the snapshot is no older than this process: ClickHouse has answered once, or there is nothing to read.
    pub fn has_looked(&self) -> bool {
        self.0.store.is_none() || self.0.looked.is_cancelled()
    }

    /// Waits for that.
    pub async fn looked(&self) {
        if self.0.store.is_some() {
            self.0.looked.cancelled().await;
        }
    }

    /// Where records are created; `None`: there are fixed keys and nothing else.
    pub fn store(&self) -> Option<&ControlStore> {
        self.0.store.as_ref()
    }

    /// Counts the snapshots: whoever derives something from them awaits a change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Which of the snapshots it is: it counts those of this process.
    pub fn generation(&self) -> u64 {
        *self.0.changed.borrow()
    }

    /// Says in `health` how the keys and the control plane are, now and whenever it changes.
    pub fn report_to(&self, health: &Health) {
        health::tell(health, &self.snapshot(), self.0.store.is_some().then_some(None));
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).push(health.clone());
    }

    /// Milliseconds since 1970 by a clock that stands still while the machine's is set back.
    pub fn now_ms(&self) -> i64 {
        let (now, latest) = ((self.0.clock)(), self.0.latest_ms.load(Ordering::Relaxed));
        // To the second: a change that all processors see at each request costs more than it tells.
        if now > latest.saturating_add(1_000) {
            self.0.latest_ms.fetch_max(now, Ordering::Relaxed);
        }
        now.max(latest)
    }

    /// The key of a text, as far as it is known here. Asks nobody.
    pub fn find(&self, text: &str) -> Result<OpenedKey, KeyError> {
        let now_ms = self.now_ms();
        let snapshot = self.0.snapshot.load();
        let (key, digest) = snapshot.find_opening(text, now_ms)?;
        key.use_at(now_ms);
        Ok(OpenedKey { key: Arc::clone(key), digest })
    }

    /// Whether a page of this origin may send with the key of a text; without one, as a preflight comes, with any.
    pub fn allows_origin(&self, origin: &HeaderValue, text: Option<&str>) -> bool {
        let snapshot = self.0.snapshot.load();
        match text {
            Some(text) => snapshot.find(text, self.now_ms()).is_ok_and(|key| key.principal.origins.allows(origin)),
            None => snapshot.any_key_allows(origin),
        }
    }

    /// The key of a text. One that is not known here may have been made a moment ago: a look is taken.
    pub async fn authenticate(&self, text: &str) -> Result<OpenedKey, KeyError> {
        match self.find(text) {
            Err(KeyError::Unknown | KeyError::NotLoaded)
                if self.0.store.is_some() && key_text::form(text) == Form::Whole =>
            {
                // Whatever comes of it, what is known then counts.
                drop(tokio::time::timeout(MISS_WITHIN, self.look_after_miss()).await);
                self.find(text)
            }
            known => known,
        }
    }

    async fn look_after_miss(&self) {
        let came = Instant::now();
        let Ok(_waiting) = self.0.misses.try_acquire() else { return };
        let mut looking = self.0.looking.lock().await;
        if let Some(began) = looking.began {
            if began >= came {
                return;
            }
            tokio::time::sleep_until(began + MISS_EVERY).await;
        }
        // An error is told by the health of the process.
        drop(self.look(&mut looking).await);
    }

    /// Looks whether the table has changed, and takes over what is new.
    pub async fn refresh(&self) -> Result<(), ControlError> {
        self.look(&mut *self.0.looking.lock().await).await
    }

    async fn look(&self, looking: &mut Looking) -> Result<(), ControlError> {
        let Some(store) = &self.0.store else { return Ok(()) };
        looking.began = Some(Instant::now());
        let looked = self.take_over(store, looking).await;
        if looked.is_ok() {
            self.0.looked.cancel();
        }
        let health = self.0.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_kept = self.0.copy.as_ref().is_none_or(|copy| !copy.is_behind.load(Ordering::Relaxed));
        let told = looked.as_ref().map(|_| is_kept);
        health.iter().for_each(|health| health::tell(health, &self.snapshot(), Some(Some(told))));
        looked.map(drop)
    }

    /// Whether anything was new.
    async fn take_over(&self, store: &ControlStore, looking: &mut Looking) -> Result<bool, ControlError> {
        let (held, mark) = (self.snapshot(), store.mark().await?);
        if held.mark() == Some(mark) && !looking.is_in_doubt() {
            looking.went_back = None;
            if self.0.copy.as_ref().is_some_and(|copy| copy.is_behind.load(Ordering::Relaxed)) {
                self.keep_copy().await;
            }
            return Ok(false);
        }
        let Some(next) = self.newer(store, &held, mark, looking).await? else { return Ok(false) };
        self.0.snapshot.store(Arc::new(next));
        self.0.changed.send_modify(|count| *count += 1);
        self.keep_copy().await;
        Ok(true)
    }

    async fn newer(
        &self,
        store: &ControlStore,
        held: &Snapshot,
        mark: Mark,
        looking: &mut Looking,
    ) -> Result<Option<Snapshot>, ControlError> {
        let fixed = &self.0.fixed;
        if let Some(before) = held.mark() {
            if mark.versions < before.versions {
                let since = *looking.went_back.get_or_insert_with(Instant::now);
                if since.elapsed() < BELIEVE_AFTER {
                    return Ok(None);
                }
                tracing::error!(
                    held = before.versions,
                    found = mark.versions,
                    "the control plane went back: it was restored"
                );
            } else {
                looking.went_back = None;
                let read = store.read_since(before.newest_ms.saturating_sub(OVERLAP_MS)).await?;
                let next = held.with(mark, read, fixed);
                if next.versions() == mark.versions {
                    (looking.doubts, looking.doubted) = (0, None);
                    return Ok(Some(next));
                }
                // Something was written with an older time, a kind is not known here, or another replica has answered, which lags behind.
                // So nothing that is held goes back, and it is read once more: a few times at once, then now and then.
                let next = held.with(mark, store.read_since(0).await?, fixed);
                let is_same = before == mark;
                (looking.doubts, looking.doubted) = match next.versions() == mark.versions {
                    true => (0, None),
                    false if is_same => (looking.doubts.saturating_sub(1), Some(Instant::now())),
                    false => (DOUBTS, Some(Instant::now())),
                };
                return Ok((!is_same || next.versions() != held.versions()).then_some(next));
            }
        }
        looking.went_back = None;
        Ok(Some(held.only(mark, store.read_since(0).await?, fixed)))
    }

    /// Writes the snapshot to the disk: an operation is done when a restart would know of it.
    async fn keep_copy(&self) {
        let Some(copy) = self.0.copy.clone() else { return };
        let (snapshot, generation) = (self.snapshot(), self.generation());
        let written = tokio::task::spawn_blocking(move || copy.write(&snapshot, generation)).await;
        if let Err(error) = written {
            tracing::error!(%error, "the control plane is not kept on the disk");
        }
    }

    /// Keeps up until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            {
                let mut looking = self.0.looking.lock().await;
                drop(self.look(&mut looking).await);
                if looking.uses_written.is_none_or(|written| written.elapsed() >= USES_EVERY) {
                    self.write_uses(&mut looking).await;
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(REFRESH)).await.is_none() {
                break;
            }
        }
        let mut looking = self.0.looking.lock().await;
        drop(tokio::time::timeout(LAST_USES_WITHIN, self.write_uses(&mut looking)).await);
    }

    async fn write_uses(&self, looking: &mut Looking) {
        let Some(store) = self.0.store.as_ref().filter(|store| store.can_write()) else { return };
        looking.uses_written = Some(Instant::now());
        let uses = key_use::since(&self.snapshot(), looking.uses_until_ms);
        let Some(until_ms) = uses.iter().map(|used| used.used_ms).max() else { return };
        // Those that are not written now are newer than what was, next time too.
        if key_use::write(store, &uses).await.is_ok() {
            looking.uses_until_ms = until_ms;
        }
    }
}
