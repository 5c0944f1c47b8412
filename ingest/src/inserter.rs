//! Batches -> ClickHouse, or onto the disk while it is away.
//!
//! ```text
//! batch -> file -> first attempt -> stored -> file removed
//!                     | failed, or not through within a second, or others wait already
//!                     v
//!                  file synced -> sealed: acknowledged -> drained in order, until stored -> file removed
//! ```
//!
//! An insert writes to a table and three views. A process that dies in the middle leaves some of them written, and only the
//! same bytes with the same token can complete the rest. So a batch is a file before its first attempt and until it is stored:
//! whoever starts next sends it again, and what was there already is not counted twice.
//!
//! A batch that was attempted is never given up. Events of it that ClickHouse refuses for good become dead letters, and the rest is
//! stored ([`crate::poison`]); while one finds out which, later batches wait on the disk, acknowledged. While files wait nothing newer is attempted, so no insert can push the token
//! of the oldest one out of ClickHouse's window, however long it waits.
//!
//! While files wait, batches are closed less often than they can be inserted: many small ones would never be caught up with.
//!
//! Failure cases beside those of [`crate::spool`]:
//! * the file cannot be written: the batch is handed back before any attempt;
//! * the file of an attempted batch cannot be synced: it is not acknowledged, and attempted until it is stored;
//! * a file is damaged when it is read back: its ids are forgotten, so that sending its events again counts them.
//!
//! No breaker stands before ClickHouse here: the first failure sends everything to the disk, and the drainer's attempts are
//! the probes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tallyhouse_service::clock::{now_ms, steady_ms};
use tallyhouse_service::health::Status;
use tokio::task::JoinHandle;
use ulid::Ulid;

use crate::batch::{Batch, Promise};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::poison::{Alone, BatchWriter, Origin, Refused, Stored};
use crate::spool::folder::{Content, Folder, FolderError};
use crate::spool::shelf::Shelf;
use crate::store::{Block, Store};

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// It may be stored, in part or as a whole.
    Failed,
    /// A rehearsal showed that some of it would be refused; nothing was written.
    Untried,
}

/// A batch whose file waits.
pub struct Sealed {
    promise: Promise,
    /// The attempt that was under way when it was sealed.
    attempt: Mutex<Option<JoinHandle<Outcome>>>,
    /// When it may have been attempted first, in milliseconds since 1970; `None`: it was not.
    began_at: Option<i64>,
    /// An earlier process wrote it, and may have made dead letters of some of its events.
    is_adopted: bool,
}

impl Sealed {
    /// One that an earlier process left.
    pub fn adopted(promise: Promise) -> Arc<Self> {
        Arc::new(Self { promise, attempt: Mutex::default(), began_at: Some(0), is_adopted: true })
    }
}

/// What works with batches; clones share it.
#[derive(Clone)]
pub struct Inserter {
    /// Where batches go.
    pub store: Store,
    /// How they get there when an attempt fails.
    pub writer: BatchWriter,
    /// Where their files are.
    pub folder: Arc<Folder>,
    /// Files that wait.
    pub shelf: Arc<Shelf<Arc<Sealed>>>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// How long the last insert took, in milliseconds.
    pub took_ms: Arc<AtomicU64>,
}

/// Bounds of the time between batches while files wait. An acknowledgement waits for it, so it is no longer than that for
/// which an attempt may hold one up ([`SEAL_AFTER`]); the shortest makes four files a second, and ClickHouse takes twenty.
const BEHIND_PACE: (Duration, Duration) = (Duration::from_millis(250), SEAL_AFTER);

/// An attempt that takes longer than this goes on while its requests are answered from the disk.
const SEAL_AFTER: Duration = Duration::from_secs(1);

/// Between attempts to remove a stored batch's file.
const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(3);

impl Inserter {
    /// Stores or seals batches until the intake ends.
    pub async fn run(self, intake: Arc<Intake>) {
        while let Some(batch) = intake.next().await {
            self.settle(&intake, batch).await;
            intake.slow_down(self.behind_pace());
        }
    }

    /// Twice what an insert takes, while files wait.
    fn behind_pace(&self) -> Option<Duration> {
        let took = Duration::from_millis(self.took_ms.load(Ordering::Relaxed));
        (!self.shelf.is_empty()).then(|| (took * 2).clamp(BEHIND_PACE.0, BEHIND_PACE.1))
    }

    fn inserted(&self, took: Duration) {
        self.took_ms.store(took.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn settle(&self, intake: &Intake, batch: Batch) {
        let Batch { promise, token, rows, chunks, days } = batch;
        let content = Arc::new(Content { token, rows, chunks, days });
        let is_full = self.shelf.is_full(now_ms());
        intake.set_full(is_full);
        let path = match self.write(&promise, &content).await {
            Ok(path) if !is_full => path,
            Ok(path) => {
                self.forget(&path).await;
                self.metrics.spool.refused.inc_by(rows as u64);
                return intake.handed_back(&promise);
            }
            Err(error) => {
                self.metrics.spool.journal_errors.inc();
                tracing::error!(%error, rows, "a batch cannot be written down and is handed back");
                return intake.handed_back(&promise);
            }
        };
        let (mut began_at, mut attempt) = (None, None);
        if self.shelf.is_empty() {
            began_at = Some(now_ms());
            let mut running = self.attempt(Arc::clone(&content));
            match tokio::time::timeout(SEAL_AFTER, &mut running).await {
                Ok(Ok(Outcome::Stored)) => {
                    self.forget(&path).await;
                    return intake.stored(&promise, steady_ms());
                }
                Ok(Ok(Outcome::Untried)) => (began_at, attempt) = (None, Some(None)),
                Ok(_) => attempt = Some(None),
                Err(_) => attempt = Some(Some(running)),
            }
        }
        self.seal(intake, Unsealed { path, promise, content, began_at, attempt }).await;
    }

    fn attempt(&self, content: Arc<Content>) -> JoinHandle<Outcome> {
        let this = self.clone();
        tokio::spawn(async move {
            if this.writer.is_wary() && !this.writer.would_take(block(&content)).await {
                return Outcome::Untried;
            }
            match this.store.attempt(block(&content)).await {
                Ok(took) => {
                    this.inserted(took);
                    Outcome::Stored
                }
                Err(error) => {
                    tracing::warn!(%error, token = content.token, rows = content.rows, "an insert failed; the batch waits on the disk");
                    Outcome::Failed
                }
            }
        })
    }

    async fn seal(&self, intake: &Intake, unsealed: Unsealed) {
        let Unsealed { path, promise, content, began_at, attempt } = unsealed;
        let (folder, file) = (Arc::clone(&self.folder), path.clone());
        let synced = tokio::task::spawn_blocking(move || folder.sync(&file)).await;
        if let Ok(Ok(())) = synced {
            self.metrics.spool.sealed.inc_by(content.rows as u64);
            intake.sealed(&promise);
            let attempt = Mutex::new(attempt.flatten());
            return self.shelf.put(&path, Arc::new(Sealed { promise, attempt, began_at, is_adopted: false }));
        }
        self.metrics.spool.journal_errors.inc();
        tracing::error!(?synced, token = content.token, "a batch cannot be synced to the disk");
        if attempt.is_none() {
            self.forget(&path).await;
            return intake.handed_back(&promise);
        }
        let refused = self.store_content(&content, false, began_at).await;
        self.forget(&path).await;
        stored(intake, &promise, &refused);
    }

    /// Stores a batch, however often it takes; what ClickHouse refuses for good of it is dead letters.
    ///
    /// `since` is when it may have been attempted first.
    async fn store_content(&self, content: &Content, is_repeated: bool, since: Option<i64>) -> Refused {
        let origin = Origin { topic: "", is_repeated, since };
        match self.writer.store(block(content), origin, &Alone).await {
            Ok(Stored { took, refused }) => {
                self.inserted(took);
                refused
            }
        }
    }

    /// Inserts files that wait, the oldest first. Never ends.
    pub async fn drain(self, intake: Arc<Intake>) {
        loop {
            let (path, sealed) = self.shelf.first().await;
            let running = sealed.attempt.lock().unwrap_or_else(PoisonError::into_inner).take();
            let outcome = match running {
                Some(running) => Some(running.await.unwrap_or(Outcome::Failed)),
                None => None,
            };
            let since = sealed.began_at.filter(|_| outcome != Some(Outcome::Untried));
            let mut refused = Refused::default();
            if outcome != Some(Outcome::Stored) {
                match self.read(&path).await {
                    Some(content) => refused = self.store_content(&content, sealed.is_adopted, since).await,
                    None => {
                        self.metrics.spool.journal_damaged.inc();
                        tracing::error!(path = %path.display(), "a batch on the disk is damaged and was set aside");
                        self.shelf.take(&path);
                        intake.handed_back(&sealed.promise);
                        continue;
                    }
                }
            }
            self.forget(&path).await;
            self.shelf.take(&path);
            stored(&intake, &sealed.promise, &refused);
        }
    }

    /// The file's content; `None` when it is damaged. Tries until it can be read.
    async fn read(&self, path: &Path) -> Option<Content> {
        loop {
            let (folder, file) = (Arc::clone(&self.folder), path.to_owned());
            match tokio::task::spawn_blocking(move || folder.read(&file)).await {
                Ok(Ok(content)) => return content,
                other => {
                    self.metrics.spool.journal_errors.inc();
                    tracing::error!(?other, path = %path.display(), "a batch cannot be read back; trying again");
                    tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn write(&self, promise: &Promise, content: &Arc<Content>) -> Result<PathBuf, FolderError> {
        let name = format!("{:016}-{:016}-{}", now_ms(), promise.sequence, Ulid::generate());
        let (folder, content) = (Arc::clone(&self.folder), Arc::clone(content));
        let failed = |error: tokio::task::JoinError| FolderError::Io { path: String::new(), source: error.into() };
        tokio::task::spawn_blocking(move || folder.write(&name, &content)).await.map_err(failed)?
    }

    /// Removes a file, however often it takes.
    ///
    /// Not given up: a file that stays would be sent again at some later start, when ClickHouse may have forgotten its token,
    /// and be counted twice. Until it is gone nothing gets too far ahead of it: a batch that was never sealed counts as uncertain
    /// so long (see [`Intake::next`]), and the file of a sealed one is on the shelf, which holds newer ones back.
    async fn forget(&self, path: &Path) {
        while let Err(error) = self.folder.remove(path) {
            self.metrics.spool.journal_errors.inc();
            tracing::error!(%error, "the file of a stored batch cannot be removed; trying again");
            tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
        }
    }

    /// Tells what waits, and whether more may.
    pub fn report(&self, intake: &Intake) {
        let is_full = self.shelf.is_full(now_ms());
        self.metrics.spool.waiting(self.shelf.gauges(now_ms()));
        intake.set_full(is_full);
        match is_full {
            true => self.store.health.set("spool", Status::Down, "full: events are refused until ClickHouse is back"),
            false => self.store.health.set("spool", Status::Up, ""),
        }
    }
}

/// A batch that is about to be sealed.
struct Unsealed {
    path: PathBuf,
    promise: Promise,
    content: Arc<Content>,
    began_at: Option<i64>,
    /// `None`: not attempted. `Some(None)`: attempted in vain. Else: being attempted.
    attempt: Option<Option<JoinHandle<Outcome>>>,
}

fn stored(intake: &Intake, promise: &Promise, refused: &Refused) {
    match refused.rows.is_empty() {
        true => intake.stored(promise, steady_ms()),
        false => intake.stored_without(promise, steady_ms(), refused),
    }
}

fn block(content: &Content) -> Block<'_> {
    Block { token: &content.token, rows: content.rows, chunks: &content.chunks, days: &content.days }
}
