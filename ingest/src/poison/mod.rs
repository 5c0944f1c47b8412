//! Poison: events that ClickHouse refuses for good. A batch is stored without them, and they become dead letters.
//!
//! ```text
//! attempt(T, all) -> stored
//!   | refused, and a value may be why (`StoreError::fault`), twice in a row
//!   v
//! rehearse: some rows by themselves, and a canary     (`search::suspect`; nothing is written, see `tallyhouse_sql::rehearsal`)
//!   | the store takes none: not an event's fault      -> wait, tell it in /health, attempt again
//!   | more than half of the batch: events, or a fault that hits one kind of them -> wait for `REFUSED_GRACE_MS` first
//!   v
//! rehearse: halves, until the refused rows are known  (`search::find`)
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
//! **One letter for an event**: who sends a refused event again has it refused again. The newest letter stays open, the others are
//! discarded.
//!
//! **Killed anywhere**, the next process reaches the same end:
//! * before the letters: nothing says that a row is refused, and it is searched again;
//! * after them (one insert, so all or none): whoever repeats a batch of another process reads the letters of its token first and
//!   leaves those rows out, even when ClickHouse would take them by now: a row has one fate;
//! * after the rest: T makes the repetition nothing, and deleting what is gone is nothing.
//!
//! Failure cases:
//! * no rehearsal is possible (a view that this user may not copy): the batch waits, as it did before there were rehearsals;
//! * the rehearsal takes what the insert refuses: the same; only a table that keeps rows can refuse so;
//! * letters are refused: they are written without payloads, and when those are refused too, they are dropped and counted, so that
//!   nobody waits for a letter;
//! * a refused row's id is forgotten: who sends the event again, or replays its letter after a fix, is not called a duplicate. A
//!   repeat that came while the batch was under way shares its fate.

pub mod letters;
pub mod repair;
pub mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tallyhouse_schema::Event;
use tallyhouse_schema::limits::DAY_MS;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Status;
use tallyhouse_sql::clickhouse::{self, Row};
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::native::Rows;
use tallyhouse_sql::rehearsal::Rehearsal;
use tallyhouse_sql::{Fault, StoreError};
use tokio::time::Instant;

use crate::dead_letters::{self, DeadLetter};
use crate::store::{Block, Store, pause_after};
use repair::Step;
use search::{Cause, Found, Suspect, Trial, Trials};

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
    /// Another process may have begun it: there may be letters of it.
    pub is_repeated: bool,
    /// When it may have been attempted first, in milliseconds since 1970; `None`: it was not attempted before.
    pub since: Option<i64>,
}

/// A batch that is stored, but for some rows.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// How long the last attempt took.
    pub took: Duration,
    /// What is a dead letter instead.
    pub refused: Refused,
}

/// Rows of a batch that are dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// ClickHouse's number, by row.
    pub rows: BTreeMap<usize, u32>,
    /// Projects and ids of these events.
    pub ids: Vec<(String, String)>,
}

/// See the module.
#[derive(Clone)]
pub struct Patient {
    /// Where batches go.
    pub store: Store,
    /// How long batches of which most is refused wait before their events are dead letters.
    pub grace: Duration,
    /// When the first such batch was seen, and the last.
    most: Arc<Mutex<Option<(Instant, Instant)>>>,
    /// When there were refused events last.
    seen: Arc<Mutex<Option<Instant>>>,
}

/// So long after refused events, batches are rehearsed before they are attempted.
const WARY: Duration = Duration::from_secs(60);

/// How often the fence is asked for while one searches.
const HOLD_EVERY: Duration = Duration::from_secs(3);

/// Refusals in a row after which one searches: of a value, and with a number that tells nothing.
const SEARCH_AFTER: (u32, u32) = (2, 5);

/// Batches of which most is refused wait anew when there was none for so long. Else a sender of nothing but poison would hold up
/// everybody for the grace, batch after batch.
const CALM: Duration = Duration::from_secs(300);

/// Between two searches that found nothing to act on: the first, and the longest.
const SEARCH_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// How far clocks of two processes may be apart, in milliseconds.
const CLOCKS: i64 = 60_000;

/// The health component.
const COMPONENT: &str = "store";

/// What a rehearsal of a batch showed.
enum Rehearsed {
    /// It would be stored.
    Taken,
    /// Not its events are to blame, or not yet.
    Blamed(Suspect, Cause),
    /// These rows are.
    Found(Found),
}

/// What a search came to.
enum Verdict {
    /// These rows go.
    Refused(Vec<(usize, Cause)>),
    /// Nothing is to be done but to attempt again.
    Wait,
}

/// What happened to a batch so far.
struct Course {
    rows: Option<Arc<Rows>>,
    refused: Vec<(usize, Cause)>,
    /// An attempt may have written some of it.
    may_be_written: bool,
    /// Refused rows among it.
    has_leftovers: bool,
    refusals: (u32, u32),
    broken_since: Option<Instant>,
    /// Its trouble is in the health.
    has_told: bool,
    search_not_before: Instant,
    search_pause: Duration,
}

impl Course {
    fn new() -> Self {
        Self {
            rows: None,
            refused: Vec::new(),
            may_be_written: false,
            has_leftovers: false,
            refusals: (0, 0),
            broken_since: None,
            has_told: false,
            search_not_before: Instant::now(),
            search_pause: SEARCH_AGAIN.0,
        }
    }

    /// Notes a failed attempt. Whether it is time to search.
    fn is_suspicious(&mut self, error: &StoreError) -> bool {
        let StoreError::Refused { code, .. } = error else {
            self.refusals = (0, 0);
            return false;
        };
        let (last, times) = self.refusals;
        self.refusals = (*code, if last == *code { times + 1 } else { 1 });
        let needed = match error.fault() {
            Fault::Data => SEARCH_AFTER.0,
            Fault::Unclear => SEARCH_AFTER.1,
            Fault::Operational => return false,
        };
        self.refusals.1 >= needed && Instant::now() >= self.search_not_before
    }

    fn search_later(&mut self) {
        self.search_not_before = Instant::now() + self.search_pause;
        self.search_pause = (self.search_pause * 2).min(SEARCH_AGAIN.1);
    }
}

impl Patient {
    /// One that waits so long with batches of which most is refused.
    pub fn new(store: Store, grace: Duration) -> Self {
        Self { store, grace, most: Arc::default(), seen: Arc::default() }
    }

    /// Whether there were refused events a moment ago, so that more may come.
    pub fn is_wary(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < WARY)
    }

    /// Whether a batch would be stored as a whole. Also when that cannot be found out: the attempt shows it.
    pub async fn would_take(&self, block: Block<'_>) -> bool {
        let rehearsal = match Rehearsal::begin(&self.store.client).await {
            Ok(rehearsal) => rehearsal,
            Err(error) => {
                tracing::warn!(%error, token = block.token, "a batch cannot be rehearsed");
                return true;
            }
        };
        let refused = rehearsal.send(block.chunks, self.store.timeout).await.err();
        rehearsal.end().await;
        refused.is_none_or(|error| error.fault() == Fault::Operational)
    }

    /// Most of a batch is refused. Whether such batches have waited for long enough.
    fn has_waited(&self) -> bool {
        let now = Instant::now();
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        let first = most.filter(|(_, last)| now - *last < CALM).map_or(now, |(first, _)| first);
        *most = Some((first, now));
        now - first >= self.grace
    }

    /// Stores a batch, however often it takes: all of it but what ClickHouse refuses for good, which is dead letters by then.
    pub async fn store<F: Fence>(&self, block: Block<'_>, origin: Origin<'_>, fence: &F) -> Result<Stored, F::Lost> {
        let since = origin.since.unwrap_or_else(now_ms);
        let mut course = Course::new();
        course.may_be_written = origin.is_repeated || origin.since.is_some();
        if origin.is_repeated {
            self.recall(block, &mut course, fence).await?;
        }
        if !course.may_be_written
            && self.is_wary()
            && let Verdict::Refused(refused) = self.search(block, &mut course, fence).await?
        {
            self.bury(block, origin, refused, &mut course, fence).await?;
        }
        let mut attempt = 1;
        loop {
            fence.hold().await?;
            let error = match self.attempt(block, &course).await {
                Ok(took) => {
                    let refused = self.settle(block, &course, fence).await?;
                    if course.may_be_written {
                        self.reopen(block, since, &course, fence).await?;
                    }
                    return Ok(Stored { took, refused });
                }
                Err(error) => error,
            };
            course.may_be_written = true;
            tracing::warn!(%error, token = block.token, attempt, rows = block.rows, "an insert failed and will be repeated");
            if course.is_suspicious(&error)
                && let Verdict::Refused(refused) = self.search(block, &mut course, fence).await?
            {
                self.bury(block, origin, refused, &mut course, fence).await?;
                attempt = 1;
                continue;
            }
            tokio::time::sleep(pause_after(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Reads which rows of a batch are letters already. Tries until ClickHouse answers.
    async fn recall<F: Fence>(&self, block: Block<'_>, course: &mut Course, fence: &F) -> Result<(), F::Lost> {
        #[derive(Row, Deserialize)]
        struct Letter {
            id: String,
            reason: String,
        }
        let prefix = letters::prefix(block.token);
        let mut attempt = 1;
        let letters = loop {
            let query = self.store.client.query(
                "SELECT id, reason FROM dead_letters WHERE startsWith(id, {prefix:String}) AND code = {code:String} \
                 GROUP BY id, reason",
            );
            let query = query.param("prefix", &prefix).param("code", letters::CODE);
            match within(self.store.timeout, query.fetch_all::<Letter>()).await {
                Ok(letters) => break letters,
                Err(error) => tracing::warn!(%error, "the letters of a batch could not be read; trying again"),
            }
            fence.hold().await?;
            tokio::time::sleep(pause_after(attempt)).await;
            attempt = attempt.saturating_add(1);
        };
        let row = |letter: Letter| {
            let row = letter.id.strip_prefix(&prefix)?.parse().ok().filter(|row| *row < block.rows)?;
            Some((row, Cause { code: 0, reason: letter.reason }))
        };
        course.refused = letters.into_iter().filter_map(row).collect();
        course.refused.sort_by_key(|(row, _)| *row);
        course.refused.dedup_by_key(|(row, _)| *row);
        if !course.refused.is_empty() {
            course.has_leftovers = true;
            course.rows = read(block.chunks).await;
            tracing::info!(
                token = block.token,
                letters = course.refused.len(),
                "a batch is repeated without its dead letters"
            );
        }
        Ok(())
    }

    /// One attempt, without the refused rows.
    async fn attempt(&self, block: Block<'_>, course: &Course) -> Result<Duration, StoreError> {
        let Some(rows) = course.rows.as_ref().filter(|_| !course.refused.is_empty()) else {
            return self.store.attempt(block).await;
        };
        let kept = search::without(block.rows, &course.refused);
        let left = block.rows - course.refused.len();
        if left == 0 {
            return Ok(Duration::ZERO);
        }
        let chunks = rows.block_of(&kept);
        self.store.attempt(Block { rows: left, chunks: &chunks, ..block }).await
    }

    /// Finds out whose fault a refusal is.
    async fn search<F: Fence>(&self, block: Block<'_>, course: &mut Course, fence: &F) -> Result<Verdict, F::Lost> {
        if course.rows.is_none() {
            course.rows = read(block.chunks).await;
        }
        let Some(rows) = course.rows.clone() else {
            tracing::error!(token = block.token, "a refused batch cannot be read back; it waits");
            course.search_later();
            return Ok(Verdict::Wait);
        };
        let started = Instant::now();
        let searched = self.rehearse(rows, course.refused.clone());
        let mut searched = std::pin::pin!(searched);
        let found = loop {
            tokio::select! {
                found = &mut searched => break found,
                () = tokio::time::sleep(HOLD_EVERY) => fence.hold().await?,
            }
        };
        self.store.metrics.searched(started.elapsed());
        let rehearsed = match found {
            Ok(rehearsed) => rehearsed,
            Err(error) => {
                tracing::warn!(%error, token = block.token, "it cannot be found out which events are refused");
                course.search_later();
                return Ok(Verdict::Wait);
            }
        };
        Ok(self.judge(block, course, rehearsed))
    }

    /// Rehearses a batch and parts of it. The rows are found unless the store, or most of the batch, is to blame.
    async fn rehearse(&self, rows: Arc<Rows>, known: Vec<(usize, Cause)>) -> Result<Rehearsed, StoreError> {
        let rehearsal = Rehearsal::begin(&self.store.client).await?;
        // What is a letter already is no longer in question: rows are numbered among the others, by kind.
        let mut numbers: Vec<usize> = search::without(rows.len(), &known).into_iter().flatten().collect();
        numbers.sort_by_cached_key(|row| {
            (letters::text(&rows, "project_id", *row), letters::text(&rows, "event_type", *row), *row)
        });
        let rehearsing = Rehearsing { store: &self.store, rehearsal, rows, numbers };
        let rehearsed = self.rehearse_in(&rehearsing).await;
        rehearsing.rehearsal.end().await;
        rehearsed
    }

    async fn rehearse_in(&self, rehearsing: &Rehearsing<'_>) -> Result<Rehearsed, StoreError> {
        let count = rehearsing.numbers.len();
        let Trial::Refused(whole) = rehearsing.try_rows(std::iter::once(0..count).collect()).await? else {
            return Ok(Rehearsed::Taken);
        };
        let samples = search::sample(count);
        let mut refused = 0;
        for row in samples.iter().copied() {
            refused += usize::from(rehearsing.try_rows(std::iter::once(row..row + 1).collect()).await? != Trial::Taken);
        }
        let takes_canary = refused < samples.len() || rehearsing.send(&canary()).await? == Trial::Taken;
        let suspect = search::suspect(count, samples.len(), refused, takes_canary);
        if suspect == Suspect::Store || (suspect == Suspect::Most && !self.has_waited()) {
            return Ok(Rehearsed::Blamed(suspect, whole));
        }
        let mut found = search::find(count, whole, search::MAX_TRIALS, rehearsing).await?;
        for (row, _) in &mut found.refused {
            *row = rehearsing.numbers.get(*row).copied().unwrap_or(*row);
        }
        found.refused.sort_by_key(|(row, _)| *row);
        Ok(Rehearsed::Found(found))
    }

    /// What follows from a search, told in the log and in the health.
    fn judge(&self, block: Block<'_>, course: &mut Course, rehearsed: Rehearsed) -> Verdict {
        let health = &self.store.health;
        match rehearsed {
            Rehearsed::Found(found) if !found.refused.is_empty() => {
                if found.untried > 0 {
                    let (token, untried) = (block.token, found.untried);
                    tracing::warn!(token, untried, "too many refused events to try each by itself");
                }
                return Verdict::Refused(found.refused);
            }
            Rehearsed::Blamed(Suspect::Store, cause) => {
                let since = *course.broken_since.get_or_insert_with(Instant::now);
                let is_long = since.elapsed() >= self.grace;
                let status = if is_long { Status::Down } else { Status::Degraded };
                health.set(COMPONENT, status, format!("refuses every event: {}", cause.reason));
                self.store.metrics.store_refuses.set(1);
                course.has_told = true;
            }
            Rehearsed::Blamed(_, cause) => {
                let detail = format!(
                    "refuses most of a batch, which waits before its events are dead letters: {}",
                    cause.reason
                );
                health.set(COMPONENT, Status::Degraded, detail);
                course.has_told = true;
            }
            Rehearsed::Taken | Rehearsed::Found(_) => {
                if !course.may_be_written {
                    return Verdict::Wait;
                }
                tracing::warn!(token = block.token, "a rehearsal takes what an insert refuses; it is repeated");
            }
        }
        course.search_later();
        Verdict::Wait
    }

    /// Makes refused rows dead letters, and notes which days have to be looked at. Tries until it is done.
    async fn bury<F: Fence>(
        &self,
        block: Block<'_>,
        origin: Origin<'_>,
        refused: Vec<(usize, Cause)>,
        course: &mut Course,
        fence: &F,
    ) -> Result<(), F::Lost> {
        let Some(rows) = course.rows.clone() else { return Ok(()) };
        let letters: Vec<DeadLetter> =
            refused.iter().map(|(row, cause)| letters::letter(block.token, origin.topic, &rows, *row, cause)).collect();
        let first = refused.first().map_or(0, |(row, _)| *row);
        let token = format!("{}-refused-{first}-{}", block.token, refused.len());
        if course.may_be_written {
            let pending = repair::block(block.token, &days_of(&rows, &refused), Step::Pending);
            self.note(&format!("{token}-pending"), pending, fence).await?;
            course.has_leftovers = true;
        }
        self.write_letters(&token, letters, fence).await?;
        for (_, cause) in &refused {
            self.store.metrics.dead_lettered(cause.code);
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        tracing::error!(
            token = block.token,
            letters = refused.len(),
            reason = refused.first().map(|(_, cause)| cause.reason.as_str()),
            "events that ClickHouse refuses for good are dead letters; the rest of their batch goes on"
        );
        course.refused.extend(refused);
        course.refused.sort_by_key(|(row, _)| *row);
        (course.refusals, course.search_pause) = ((0, 0), SEARCH_AGAIN.0);
        Ok(())
    }

    /// Notes how far the repair of days is.
    async fn note<F: Fence>(&self, token: &str, rows: Vec<Bytes>, fence: &F) -> Result<(), F::Lost> {
        if let Err(error) = self.persist(repair::TABLE, token, rows, fence).await? {
            tracing::error!(%error, token, "it cannot be noted which days to compare; run `tallyhouse rollups rebuild`");
        }
        Ok(())
    }

    /// A batch is stored after an attempt that failed: days that were rebuilt in between are compared again.
    async fn reopen<F: Fence>(&self, block: Block<'_>, since: i64, course: &Course, fence: &F) -> Result<(), F::Lost> {
        let mut attempt = 1;
        let mut days = loop {
            match repair::reopened(&self.store.client, block.days, since - CLOCKS, self.store.timeout).await {
                Ok(days) => break days,
                Err(error) => {
                    tracing::warn!(%error, attempt, "it cannot be seen yet whether a day was rebuilt meanwhile")
                }
            }
            fence.hold().await?;
            tokio::time::sleep(pause_after(attempt)).await;
            attempt = attempt.saturating_add(1);
        };
        // Those of refused rows are open anyway.
        if let Some(rows) = course.rows.as_ref().filter(|_| course.has_leftovers) {
            days.retain(|day| !days_of(rows, &course.refused).contains(day));
        }
        if days.is_empty() {
            return Ok(());
        }
        let token = format!("{}-reopen", block.token);
        self.note(&token, repair::block(&token, &days, Step::Open), fence).await
    }

    /// Writes letters: without their payloads when those are refused, and none when that is refused too.
    pub async fn write_letters<F: Fence>(
        &self,
        token: &str,
        mut letters: Vec<DeadLetter>,
        fence: &F,
    ) -> Result<(), F::Lost> {
        for is_last in [false, true] {
            match self.persist(DEAD_LETTERS, token, dead_letters::block(&letters), fence).await? {
                Ok(()) => return Ok(()),
                Err(error) if is_last => {
                    self.store.metrics.dead_letters_dropped.inc_by(letters.len() as u64);
                    tracing::error!(%error, token, letters = letters.len(), "dead letters are refused, too, and were dropped");
                }
                Err(error) => {
                    tracing::error!(%error, token, "dead letters are refused; trying without their payloads");
                    letters.iter_mut().for_each(|letter| letter.payload.clear());
                }
            }
        }
        Ok(())
    }

    /// Inserts a block into a table of ours, until it is there or its values are refused.
    async fn persist<F: Fence>(
        &self,
        table: &str,
        token: &str,
        chunks: Vec<Bytes>,
        fence: &F,
    ) -> Result<Result<(), StoreError>, F::Lost> {
        let (mut attempt, mut refusals) = (1, 0);
        loop {
            fence.hold().await?;
            match insert_block(&self.store.client, table, token, &chunks, self.store.timeout).await {
                Ok(()) => return Ok(Ok(())),
                Err(error) => {
                    tracing::warn!(%error, table, token, attempt, "an insert failed and will be repeated");
                    refusals += u32::from(error.fault() == Fault::Data);
                    if refusals >= SEARCH_AFTER.1 {
                        return Ok(Err(error));
                    }
                }
            }
            tokio::time::sleep(pause_after(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// The rest is stored: takes refused rows out of raw, if an attempt had left them there.
    async fn settle<F: Fence>(&self, block: Block<'_>, course: &Course, fence: &F) -> Result<Refused, F::Lost> {
        self.store.metrics.store_refuses.set(0);
        if course.has_told {
            self.store.health.set(COMPONENT, Status::Up, "");
        }
        let Some(rows) = course.rows.as_ref().filter(|_| !course.refused.is_empty()) else {
            return Ok(Refused::default());
        };
        let mut attempt = 1;
        while let Err(error) = self.tidy(rows, course).await {
            tracing::warn!(%error, token = block.token, attempt, "what was stored of refused events could not be taken away; trying again");
            fence.hold().await?;
            tokio::time::sleep(pause_after(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
        if course.has_leftovers {
            let token = format!("{}-open-{}", block.token, course.refused.len());
            let days = days_of(rows, &course.refused);
            self.note(&token, repair::block(block.token, &days, Step::Open), fence).await?;
        }
        let id = |row: usize| (letters::text(rows, "project_id", row), letters::text(rows, "event_id", row));
        Ok(Refused {
            rows: course.refused.iter().map(|(row, cause)| (*row, cause.code)).collect(),
            ids: course.refused.iter().map(|(row, _)| id(*row)).collect(),
        })
    }
}

impl Patient {
    /// Refused rows that an attempt had left in raw go, and so do older letters of the same events.
    async fn tidy(&self, rows: &Rows, course: &Course) -> Result<(), StoreError> {
        if course.has_leftovers {
            repair::delete_rows(&self.store.client, rows, &course.refused, self.store.timeout).await?;
        }
        letters::discard_older(&self.store.client, rows, &course.refused, self.store.timeout).await
    }
}

/// The days that some rows fall on.
fn days_of(rows: &Rows, refused: &[(usize, Cause)]) -> BTreeSet<(String, i32)> {
    let day = |(row, _): &(usize, Cause)| {
        let day = i32::try_from(letters::integer(rows, "ts", *row)?.div_euclid(DAY_MS)).ok()?;
        Some((letters::text(rows, "project_id", *row), day))
    };
    refused.iter().filter_map(day).collect()
}

/// Rows of a batch that are tried in a rehearsal.
struct Rehearsing<'a> {
    store: &'a Store,
    rehearsal: Rehearsal,
    rows: Arc<Rows>,
    /// The rows that are in question, those of a kind together.
    numbers: Vec<usize>,
}

impl Trials for Rehearsing<'_> {
    type Error = StoreError;

    async fn try_rows(&self, rows: Vec<Range<usize>>) -> Result<Trial, StoreError> {
        let mut tried: Vec<_> = rows.into_iter().flatten().filter_map(|at| self.numbers.get(at).copied()).collect();
        tried.sort_unstable();
        let chunks = self.rows.block_of(&consecutive(tried.into_iter()));
        self.send(&chunks).await
    }
}

impl Rehearsing<'_> {
    async fn send(&self, chunks: &[Bytes]) -> Result<Trial, StoreError> {
        self.store.metrics.refused_trials.inc();
        match self.rehearsal.send(chunks, self.store.timeout).await {
            Ok(()) => Ok(Trial::Taken),
            Err(error) => match error {
                StoreError::Refused { code, .. } if error.fault() != Fault::Operational => {
                    Ok(Trial::Refused(Cause { code, reason: error.reason() }))
                }
                error => Err(error),
            },
        }
    }
}

/// The table of letters.
const DEAD_LETTERS: &str = "dead_letters";

/// A row that was always taken: of no project, without a value.
fn canary() -> Vec<Bytes> {
    let now = now_ms();
    let event = Event {
        event_id: "canary".into(),
        event_type: "canary".into(),
        ts: now,
        original_ts: now,
        received_at: now,
        retention_days: 30,
        ..Event::default()
    };
    let mut builder = crate::batch::Builder::default();
    builder.push("tallyhouse-canary", &event, None);
    builder.finish().chunks
}

/// Reads a block on a thread for blocking work: it may be 16 MiB.
async fn read(chunks: &[Bytes]) -> Option<Arc<Rows>> {
    let chunks = chunks.to_vec();
    tokio::task::spawn_blocking(move || Rows::read(&chunks).map(Arc::new)).await.ok().flatten()
}

/// Rows as ranges.
fn consecutive(rows: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut),
    }
}
