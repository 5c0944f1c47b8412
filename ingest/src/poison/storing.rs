//! Stores one batch, with as many attempts as it takes.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tallyhouse_schema::limits::DAY_MS;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::clickhouse::{self, Row};
use tallyhouse_sql::native::Rows;
use tallyhouse_sql::{Fault, StoreError, within};
use tokio::time::Instant;

use super::blame::{Verdict, read};
use super::repair::{self, Step};
use super::search::{self, Cause};
use super::trouble::BatchTrouble;
use super::{BatchWriter, Fence, Origin, RefusedEvent, SEARCH_AFTER, refused_rows, until_done};
use crate::dead_letters::DeadLetter;
use crate::store::Block;
use tallyhouse_service::retry;

/// Between two searches that found nothing to act on: the first, and the longest.
const SEARCH_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// How far clocks of two processes may be apart, in milliseconds.
const CLOCKS: i64 = 60_000;

/// What happened to a batch so far.
pub(super) struct Course {
    pub(super) rows: Option<Arc<Rows>>,
    pub(super) refused: Vec<(usize, Cause)>,
    /// Of [`Self::refused`] those that are nobody's dead letter: their people were erased.
    erased: BTreeSet<usize>,
    /// An attempt may have written some of it.
    pub(super) may_be_written: bool,
    /// Refused rows among it.
    pub(super) has_leftovers: bool,
    refusals: (u32, u32),
    pub(super) broken_since: Option<Instant>,
    pub(super) trouble: Option<BatchTrouble>,
    search_not_before: Instant,
    search_pause: Duration,
}

impl Course {
    fn new() -> Self {
        Self {
            rows: None,
            refused: Vec::new(),
            erased: BTreeSet::new(),
            may_be_written: false,
            has_leftovers: false,
            refusals: (0, 0),
            broken_since: None,
            trouble: None,
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

    /// Leaves rows of erased people out.
    async fn leave_out(&mut self, block: Block<'_>, erased: &[usize]) {
        if erased.is_empty() {
            return;
        }
        if self.rows.is_none() {
            self.rows = read(block.chunks).await;
        }
        // Our own block. If it cannot be read all the same, the erasure looks again when the batch is stored.
        if self.rows.is_none() {
            tracing::error!(
                token = block.token,
                "a begun batch cannot be read back; it is stored with people who were erased"
            );
            return;
        }
        self.erased = erased.iter().copied().collect();
        self.refused.retain(|(row, _)| !self.erased.contains(row));
        let cause = Cause { code: 0, reason: String::new() };
        self.refused.extend(erased.iter().map(|row| (*row, cause.clone())));
        self.refused.sort_by_key(|(row, _)| *row);
        tracing::info!(token = block.token, rows = erased.len(), "a batch is repeated without people who were erased");
    }

    pub(super) fn search_later(&mut self) {
        self.search_not_before = Instant::now() + self.search_pause;
        self.search_pause = (self.search_pause * 2).min(SEARCH_AGAIN.1);
    }
}

impl BatchWriter {
    /// Stores a batch, however often it takes: all of it but the events that are returned: ClickHouse refuses
    /// them for good, and they are dead letters.
    pub async fn store<F: Fence>(
        &self,
        block: Block<'_>,
        origin: Origin<'_>,
        fence: &F,
    ) -> Result<Vec<RefusedEvent>, F::Lost> {
        let mut course = Course::new();
        course.may_be_written = origin.begun.is_some();
        // Since when it may have been written, in milliseconds since 1970.
        let since = origin.begun.unwrap_or_else(now_ms);
        if origin.begun.is_some() {
            self.recall(block, &mut course, fence).await?;
        }
        course.leave_out(block, origin.erased).await;
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
                Ok(()) => {
                    let refused = self.finish(block, &mut course, fence).await?;
                    if course.may_be_written {
                        self.reopen(block, since, &course, fence).await?;
                    }
                    return Ok(refused);
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
            tokio::time::sleep(retry::WRITE.pause(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Reads which rows of a batch are dead letters already. Tries until ClickHouse answers.
    async fn recall<F: Fence>(&self, block: Block<'_>, course: &mut Course, fence: &F) -> Result<(), F::Lost> {
        #[derive(Row, Deserialize)]
        struct RefusedBefore {
            id: String,
            reason: String,
        }
        let prefix = refused_rows::prefix(block.token);
        let read_dead_letters = || {
            let query = self.store.client.query(
                "SELECT id, reason FROM dead_letters WHERE startsWith(id, {prefix:String}) AND code = {code:String} \
                 GROUP BY id, reason",
            );
            let query = query.param("prefix", &prefix).param("code", refused_rows::CODE);
            within(self.store.timeout, query.fetch_all::<RefusedBefore>())
        };
        let dead_letters = until_done("read dead letters of the batch", fence, read_dead_letters).await?;
        let row = |dead_letter: RefusedBefore| {
            let row = dead_letter.id.strip_prefix(&prefix)?.parse().ok().filter(|row| *row < block.rows)?;
            Some((row, Cause { code: 0, reason: dead_letter.reason }))
        };
        course.refused = dead_letters.into_iter().filter_map(row).collect();
        course.refused.sort_by_key(|(row, _)| *row);
        course.refused.dedup_by_key(|(row, _)| *row);
        if !course.refused.is_empty() {
            course.has_leftovers = true;
            course.rows = read(block.chunks).await;
            tracing::info!(
                token = block.token,
                dead_letters = course.refused.len(),
                "a batch is repeated without its dead letters"
            );
        }
        Ok(())
    }

    /// One attempt, without the refused rows.
    async fn attempt(&self, block: Block<'_>, course: &Course) -> Result<(), StoreError> {
        let Some(rows) = course.rows.as_ref().filter(|_| !course.refused.is_empty()) else {
            return self.store.attempt(block).await;
        };
        let kept = search::without(block.rows, &course.refused);
        let left = block.rows - course.refused.len();
        if left == 0 {
            return Ok(());
        }
        let chunks = rows.block_of(&kept);
        self.store.attempt(Block { rows: left, chunks: &chunks, ..block }).await
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
        let dead_letters: Vec<DeadLetter> = refused
            .iter()
            .map(|(row, cause)| refused_rows::dead_letter(block.token, origin.topic, &rows, *row, cause))
            .collect();
        let first = refused.first().map_or(0, |(row, _)| *row);
        let token = format!("{}-refused-{first}-{}", block.token, refused.len());
        if course.may_be_written {
            let pending = repair::block(block.token, &days_of(&rows, &refused), Step::Pending);
            self.note(&format!("{token}-pending"), pending, fence).await?;
            course.has_leftovers = true;
        }
        self.write_dead_letters(&token, dead_letters, fence).await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        tracing::error!(
            token = block.token,
            dead_letters = refused.len(),
            reason = refused.first().map(|(_, cause)| cause.reason.as_str()),
            "events that ClickHouse refuses for good are dead letters; the rest of their batch goes on"
        );
        course.refused.extend(refused);
        course.refused.sort_by_key(|(row, _)| *row);
        (course.refusals, course.search_pause) = ((0, 0), SEARCH_AGAIN.0);
        Ok(())
    }

    /// A batch is stored after an attempt that failed: days that were rebuilt in between are compared again. So are all of its days when
    /// ClickHouse was started in between: a power cut loses tokens that it had noted last, and not the parts that were synced, and then
    /// rollups count the batch twice. (Raw rows of one key are one event.)
    async fn reopen<F: Fence>(&self, block: Block<'_>, since: i64, course: &Course, fence: &F) -> Result<(), F::Lost> {
        let reopened = || repair::reopened(&self.store.client, block.days, since - CLOCKS, self.store.timeout);
        let mut days = until_done("see which days were rebuilt meanwhile", fence, reopened).await?;
        let restarted = || repair::is_restarted(&self.store.client, since - CLOCKS, self.store.timeout);
        if until_done("see whether ClickHouse was started meanwhile", fence, restarted).await? {
            days.extend(block.days.iter().map(|changed| (changed.project.to_string(), changed.day)));
        }
        // Those of refused rows are open anyway.
        if let Some(rows) = course.rows.as_ref().filter(|_| course.has_leftovers) {
            let open = days_of(rows, &course.refused);
            days.retain(|day| !open.contains(day));
        }
        if days.is_empty() {
            return Ok(());
        }
        let token = format!("{}-reopen", block.token);
        self.note(&token, repair::block(&token, &days, Step::Open), fence).await
    }

    /// The rest is stored: takes refused rows out of raw, if an attempt had left them there.
    async fn finish<F: Fence>(
        &self,
        block: Block<'_>,
        course: &mut Course,
        fence: &F,
    ) -> Result<Vec<RefusedEvent>, F::Lost> {
        course.trouble = None;
        let Some(rows) = course.rows.as_ref().filter(|_| !course.refused.is_empty()) else {
            return Ok(Vec::new());
        };
        let is_erased = |row: &usize| course.erased.contains(row);
        let letters: Vec<_> = course.refused.iter().filter(|(row, _)| !is_erased(row)).cloned().collect();
        if !letters.is_empty() {
            self.tidy(block, rows, &letters, course.has_leftovers, fence).await?;
        }
        if course.has_leftovers || !course.erased.is_empty() {
            let token = format!("{}-open-{}", block.token, course.refused.len());
            let days = days_of(rows, &course.refused);
            self.note(&token, repair::block(block.token, &days, Step::Open), fence).await?;
        }
        let event = |(row, cause): &(usize, Cause)| RefusedEvent {
            row: *row,
            project: refused_rows::text(rows, "project_id", *row),
            event_id: refused_rows::text(rows, "event_id", *row),
            code: cause.code,
        };
        Ok(letters.iter().map(event).collect())
    }
}

/// The days that some rows fall on.
fn days_of(rows: &Rows, refused: &[(usize, Cause)]) -> BTreeSet<(String, i32)> {
    let day = |(row, _): &(usize, Cause)| {
        let day = i32::try_from(refused_rows::integer(rows, "ts", *row)?.div_euclid(DAY_MS)).ok()?;
        Some((refused_rows::text(rows, "project_id", *row), day))
    };
    refused.iter().filter_map(day).collect()
}
