//! Poison: events that ClickHouse refuses for good. A batch is stored without them, and they become dead letters.
//!
//! ```text
//! attempt(T, all) -> stored
//!   | refused, and a value may be why (`StoreError::fault`), twice in a row
//!   v
//! rehearse: some rows by themselves, and canaries     (`search::suspect`; nothing is written, see `tallyhouse_sql::rehearsal`)
//!   | the store takes none: not an event's fault      -> wait, report it in /health, attempt again
//!   | more than half of the batch: events, or a fault that hits one kind of them -> wait for `REFUSED_GRACE_MS` first
//!   v
//! rehearse: quarters, through the view that refuses, until its refused rows are known; then the next view (`search::find`)
//!   -> dead letters, with the batch's token and the row in their ids; `repairs`: the days of these rows     durable from here
//!   -> attempt(T, the others), until it is stored
//!   -> refused rows that an attempt left in raw are deleted
//!   -> acknowledged | committed, and the file or the offset goes
//! later: rollups of the days in `repairs` are compared with raw and rebuilt where they differ               (`repair`)
//! ```
//!
//! **While there is poison about** (`WARY` after the last) a batch is rehearsed before its first attempt: what is found then was
//! written nowhere, so that nothing has to be deleted, compared or rebuilt.
//!
//! **Why nothing is written while searching.** An insert goes to raw and to three rollups. When one of them refuses, others may have
//! been written, and remember the token T (tried: sql/README.md). A half of the batch under a token of its own would be counted
//! twice there. So the rest is sent under the same T: a target that has T skips it, the others take it.
//!
//! **What a target that had T keeps** are the refused rows, too. In raw they are deleted by id and time of receipt, right after
//! the rest is stored: by then each target has T, so no attempt that is still under way can bring them back. A rollup cannot forget
//! an event, so its hours are rebuilt from raw, for all batches together, and for half of the time at most.
//!
//! **One dead letter for an event**: who sends a refused event again has it refused again. The newest dead letter stays open, the others are
//! discarded.
//!
//! **People who were erased after a batch was begun** are left out the same way, without dead letters: what has T skips the rest, and the others
//! take no row of theirs. What an attempt had left of them the erasure finds by itself in raw; the days of such rows are compared.
//!
//! **Killed anywhere**, the next process reaches the same end:
//! * before the dead letters: nothing says that a row is refused, and it is searched again;
//! * after them (one insert, so all or none): whoever repeats a batch of another process reads the dead letters of its token first and
//!   leaves those rows out, even when ClickHouse would take them by now: a row has one fate;
//! * after the rest: T makes the repetition nothing, and deleting what is gone is nothing.
//!
//! Failure cases:
//! * no rehearsal is possible (a view that this user may not copy): the batch waits, as it did before there were rehearsals;
//! * the rehearsal takes what the insert refuses: the same; only a table that keeps rows can refuse so;
//! * dead letters are refused: they are written without payloads, and when those are refused too, they are dropped and counted, so that
//!   nobody waits for a dead letter for ever (`persist`);
//! * a refused row cannot be taken out of raw again: it stays, counted and logged, so that nobody waits for it (`leftovers`);
//! * a refused row's id is forgotten: who sends the event again, or replays its dead letter after a fix, is not called a duplicate. A
//!   repeat that came while the batch was under way shares its fate.

mod blame;
mod leftovers;
mod persist;
pub mod refused_rows;
pub mod repair;
pub mod search;
mod storing;
mod trouble;

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::trouble::Troubles;
use crate::store::Store;
use tallyhouse_service::retry;

/// The right to go on with a batch, asked for before each attempt and while one searches.
pub trait Fence: Send + Sync {
    /// Why it was lost.
    type Lost: Send;

    /// Makes sure of it, however long that takes.
    fn hold(&self) -> impl Future<Output = Result<(), Self::Lost>> + Send;
}

/// Nobody else can have the batch: its file is locked.
pub struct Alone;

impl Fence for Alone {
    type Lost = Infallible;

    async fn hold(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What has to be known of a batch beside its block.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The Kafka topic; empty without Kafka.
    pub topic: &'a str,
    /// When another process began it, in milliseconds since 1970: there may be dead letters of it.
    pub begun: Option<i64>,
    /// Rows of people who were erased after it was begun, in order: they are left out.
    pub erased: &'a [usize],
}

/// An event of a batch that is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEvent {
    /// Its row in the batch.
    pub row: usize,
    pub project: String,
    pub event_id: String,
    /// ClickHouse's number for why.
    pub code: u32,
}

/// Stores batches, and isolates the events that are refused (see the module).
#[derive(Clone)]
pub struct BatchWriter {
    /// Where batches are rehearsed and inserted.
    pub store: Store,
    /// How long batches of which most is refused wait before their events are dead letters.
    pub grace: Duration,
    /// When the first such batch was seen, and the last.
    most: Arc<Mutex<Option<(Instant, Instant)>>>,
    /// When there were refused events last.
    seen: Arc<Mutex<Option<Instant>>>,
    troubles: Troubles,
}

/// So long after refused events, batches are rehearsed before they are attempted.
const WARY: Duration = Duration::from_secs(60);

/// Batches of which most is refused wait anew when there was none for so long. Else a sender of nothing but poison would hold up
/// everybody for the grace, batch after batch.
const CALM: Duration = Duration::from_secs(300);

/// Refusals in a row after which one searches: of a value, and with a number that says nothing.
const SEARCH_AFTER: (u32, u32) = (2, 5);

impl BatchWriter {
    /// One that waits so long with batches of which most is refused.
    pub fn new(store: Store, grace: Duration) -> Self {
        Self { store, grace, most: Arc::default(), seen: Arc::default(), troubles: Troubles::default() }
    }

    /// The same on another shard: what one shard refuses says nothing of another one, but `/health` reports both.
    #[must_use]
    pub fn on(&self, store: Store) -> Self {
        Self { troubles: self.troubles.clone(), ..Self::new(store, self.grace) }
    }

    /// Whether there were refused events a moment ago, so that more may come.
    pub fn is_wary(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < WARY)
    }

    /// Most of a batch is refused. Whether such batches have waited for long enough.
    fn has_waited(&self) -> bool {
        let now = Instant::now();
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        let first = most.filter(|(_, last)| now - *last < CALM).map_or(now, |(first, _)| first);
        *most = Some((first, now));
        now - first >= self.grace
    }
}

/// Calls until it is done, however often it takes, for as long as the batch is ours.
async fn until_done<F: Fence, T, E: Display + Send, C: Future<Output = Result<T, E>> + Send>(
    what: &str,
    fence: &F,
    call: impl Fn() -> C + Send,
) -> Result<T, F::Lost> {
    let mut attempt = 1;
    loop {
        fence.hold().await?;
        match call().await {
            Ok(done) => return Ok(done),
            Err(error) => tracing::warn!(%error, what, attempt, "a step of a batch failed and will be repeated"),
        }
        tokio::time::sleep(retry::WRITE.pause(attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// When a step is given up.
struct Limit<E> {
    /// How much an error counts. After errors that count 0 the step is repeated however often it takes.
    weight: fn(&E) -> u32,
    /// The error that makes up so much is the result.
    most: u32,
}

/// Calls until it is done, or given up.
async fn retry<F: Fence, T: Send, E: Display + Send, C: Future<Output = Result<T, E>> + Send>(
    what: &str,
    fence: &F,
    limit: Limit<E>,
    call: impl Fn() -> C + Send + Sync,
) -> Result<Result<T, E>, F::Lost> {
    let counted = AtomicU32::new(0);
    let limited = async || match call().await {
        Ok(done) => Ok(Ok(done)),
        Err(error) => match (limit.weight)(&error) {
            0 => Err(error),
            weight if counted.fetch_add(weight, Ordering::Relaxed) + weight < limit.most => Err(error),
            _ => Ok(Err(error)),
        },
    };
    until_done(what, fence, limited).await
}
