//! Decides by rehearsals whether events or ClickHouse cause a refusal; [`super::search`] chooses what to rehearse.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;
use tallyhouse_schema::Event;
use tallyhouse_schema::event::Dim;
use tallyhouse_schema::raw::{Property, PropertyValue};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Status;
use tallyhouse_sql::clickhouse::{self, Row};
use tallyhouse_sql::native::Rows;
use tallyhouse_sql::rehearsal::{Entry, Refusal, Rehearsal, ViewIndex};
use tallyhouse_sql::{Fault, StoreError, within};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::search::{self, Cause, Limits, RefusedRows, Suspect, Trial, Trials};
use super::storing::Course;
use super::trouble::{BatchTrouble, Trouble};
use super::{BatchWriter, Fence, refused_rows};
use crate::batch::Builder;
use crate::store::{Block, Store};

/// How often the fence is asked for while one searches.
const HOLD_EVERY: Duration = Duration::from_secs(3);

/// Views that refuse rows of one batch, at most; what more refuse is searched after the next attempt.
const MOST_VIEWS: usize = 8;

/// What a rehearsal of a batch showed.
enum Rehearsed {
    /// It would be stored.
    Taken,
    /// Not its events are to blame, or not yet.
    Blamed(Suspect, Cause),
    /// These rows are to blame.
    Found(RefusedRows),
}

/// What a search came to.
pub(super) enum Verdict {
    /// These rows become dead letters, each for its cause; the rest is stored.
    Refused(Vec<(usize, Cause)>),
    /// Nothing is to be done but to attempt again.
    Wait,
}

impl BatchWriter {
    /// Finds out whose fault a refusal is.
    pub(super) async fn search<F: Fence>(
        &self,
        block: Block<'_>,
        course: &mut Course,
        fence: &F,
    ) -> Result<Verdict, F::Lost> {
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
        self.store.metrics.refusals.searched(started.elapsed());
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
        // What is a dead letter already is no longer in question: rows are numbered among the others, by kind.
        let mut numbers: Vec<usize> = search::without(rows.len(), &known).into_iter().flatten().collect();
        numbers.sort_by_cached_key(|row| {
            (refused_rows::text(&rows, "project_id", *row), refused_rows::text(&rows, "event_type", *row), *row)
        });
        let permits = Semaphore::new(search::AT_ONCE);
        let entry = rehearsal.everything();
        let mut rehearsing = Rehearsing { store: &self.store, rehearsal, entry, rows, permits, numbers };
        let rehearsed = self.rehearse_in(&mut rehearsing).await;
        rehearsing.rehearsal.end().await;
        rehearsed
    }

    async fn rehearse_in(&self, rehearsing: &mut Rehearsing<'_>) -> Result<Rehearsed, StoreError> {
        let count = rehearsing.numbers.len();
        let Some((mut whole, mut view)) = rehearsing.try_all().await? else {
            return Ok(Rehearsed::Taken);
        };
        let samples = search::sample(count);
        let trying = samples.iter().map(|row| rehearsing.try_rows(std::iter::once(*row..row + 1).collect()));
        let refused = try_join_all(trying).await?.into_iter().filter(|trial| *trial != Trial::Taken).count();
        let takes_canary = refused < samples.len() || rehearsing.take_canary().await?;
        let suspect = search::suspect(count, samples.len(), refused, takes_canary);
        if suspect == Suspect::Store || (suspect == Suspect::Most && !self.has_waited()) {
            return Ok(Rehearsed::Blamed(suspect, whole));
        }
        let mut all = RefusedRows { refused: Vec::new(), untried: 0, is_complete: false };
        // What one view refuses is found through that one alone; then it is seen whether the others take the rest.
        let started = Instant::now();
        for _ in 0..MOST_VIEWS {
            rehearsing.narrow(view).await?;
            let time = Limits::DEFAULT.time.saturating_sub(started.elapsed());
            let limits = Limits { time, ..Limits::DEFAULT };
            let found = search::find(rehearsing.numbers.len(), whole, limits, rehearsing).await?;
            all.untried += found.untried;
            let is_over = !found.is_complete || found.refused.is_empty();
            all.refused.extend(rehearsing.leave_out(found.refused));
            if is_over {
                break;
            }
            let Some(next) = rehearsing.try_all().await? else { break };
            (whole, view) = next;
        }
        all.refused.sort_by_key(|(row, _)| *row);
        Ok(Rehearsed::Found(all))
    }

    /// What follows from a search, logged and reported by `/health`.
    fn judge(&self, block: Block<'_>, course: &mut Course, rehearsed: Rehearsed) -> Verdict {
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
                let detail = format!("refuses every event: {}", cause.reason);
                self.trouble(course).set(Trouble { status, is_everything: true, detail });
            }
            Rehearsed::Blamed(_, cause) => {
                let detail = format!(
                    "refuses most of a batch, which waits before its events are dead letters: {}",
                    cause.reason
                );
                self.trouble(course).set(Trouble { status: Status::Degraded, is_everything: false, detail });
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

    fn trouble<'a>(&self, course: &'a mut Course) -> &'a BatchTrouble {
        course.trouble.get_or_insert_with(|| self.troubles.of_batch(&self.store))
    }
}

/// Rows of a batch that are tried in a rehearsal.
struct Rehearsing<'a> {
    store: &'a Store,
    rehearsal: Rehearsal,
    /// What rows are tried through.
    entry: Entry,
    rows: Arc<Rows>,
    /// Of trials at once: those that are asked for at once are more.
    permits: Semaphore,
    /// The rows that are in question, those of a kind together.
    numbers: Vec<usize>,
}

impl Trials for Rehearsing<'_> {
    type Error = StoreError;

    async fn try_rows(&self, rows: Vec<Range<usize>>) -> Result<Trial, StoreError> {
        let mut tried: Vec<_> = rows.into_iter().flatten().filter_map(|at| self.numbers.get(at).copied()).collect();
        tried.sort_unstable();
        let chunks = self.rows.block_of(&consecutive(tried.into_iter()));
        Ok(self.send(&chunks).await?.map_or(Trial::Taken, |(cause, _)| Trial::Refused(cause)))
    }
}

impl Rehearsing<'_> {
    /// Rows are tried through this view only from now on; through all when it is not known which.
    async fn narrow(&mut self, view: Option<ViewIndex>) -> Result<(), StoreError> {
        if let Some(view) = view {
            self.entry = self.rehearsal.narrow(view).await?;
        }
        Ok(())
    }

    /// Tries all rows that are in question, through all views from now on. Why they are refused, and behind which view.
    async fn try_all(&mut self) -> Result<Option<(Cause, Option<ViewIndex>)>, StoreError> {
        self.entry = self.rehearsal.everything();
        let mut tried = self.numbers.clone();
        tried.sort_unstable();
        match self.rows.block_of(&consecutive(tried.into_iter())) {
            _ if self.numbers.is_empty() => Ok(None),
            chunks => self.send(&chunks).await,
        }
    }

    /// Refused rows by their numbers in the batch. They are not in question any more.
    fn leave_out(&mut self, refused: Vec<(usize, Cause)>) -> Vec<(usize, Cause)> {
        let kept: Vec<_> = search::without(self.numbers.len(), &refused).into_iter().flatten().collect();
        let number = |(at, cause): (usize, Cause)| Some((self.numbers.get(at).copied()?, cause));
        let refused = refused.into_iter().filter_map(number).collect();
        self.numbers = kept.into_iter().filter_map(|at| self.numbers.get(at).copied()).collect();
        refused
    }

    /// Whether the store takes any other row: else it is to blame. No row is known to be good, whatever constraints there are. So
    /// rows with all fields and with none are tried, of a type of our own and of the most frequent types of today and yesterday.
    async fn take_canary(&self) -> Result<bool, StoreError> {
        #[derive(Row, Deserialize)]
        struct Stored {
            project: String,
            kind: String,
        }
        let frequent = "SELECT toString(project_id) AS project, toString(event_type) AS kind FROM rollup_1d \
             WHERE bucket >= toStartOfDay(now('UTC')) - INTERVAL 1 DAY AND dim_set = '' \
             GROUP BY project, kind ORDER BY sum(rollup_1d.events) DESC LIMIT 8";
        let frequent = within(self.store.timeout, self.store.client.query_raw(frequent).fetch_all::<Stored>()).await;
        let frequent = frequent.unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known which types of events were stored; only rows of our own are tried");
            Vec::new()
        });
        let own = Stored { project: "tallyhouse-canary".to_owned(), kind: "canary".to_owned() };
        for Stored { project, kind } in std::iter::once(own).chain(frequent) {
            for canary in canaries(&project, &kind) {
                if self.send(&canary).await?.is_none() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Why rows are refused, and behind which view.
    async fn send(&self, chunks: &[Bytes]) -> Result<Option<(Cause, Option<ViewIndex>)>, StoreError> {
        // Never closed.
        let _permit = self.permits.acquire().await;
        self.store.metrics.refusals.trials.inc();
        match self.rehearsal.send(&self.entry, chunks, self.store.timeout).await {
            Ok(()) => Ok(None),
            Err(Refusal { error, view }) => match error {
                StoreError::Refused { code, .. } if error.fault() != Fault::Operational => {
                    Ok(Some((Cause { code, reason: error.reason() }, view)))
                }
                error => Err(error),
            },
        }
    }
}

/// A row with no field, and one with every field.
fn canaries(project: &str, kind: &str) -> [Vec<Bytes>; 2] {
    let now = now_ms();
    let bare = Event {
        event_id: "canary".into(),
        event_type: kind.into(),
        ts: now,
        original_ts: now,
        received_at: now,
        retention_days: 30,
        ..Event::default()
    };
    let number = Property::new("value", PropertyValue::Number(1.0));
    let text = Property::new("plan", PropertyValue::Text("canary".into()));
    let full = Event {
        value: Some(1.0),
        user_id: "canary".into(),
        anonymous_id: "canary".into(),
        user_hash: 1,
        session_id: "canary".into(),
        country: "DE".into(),
        device: "mobile".into(),
        os: "Android".into(),
        browser: "Firefox".into(),
        locale: "de-DE".into(),
        page: "/canary".into(),
        ip: "203.0.113.0".into(),
        properties: vec![text, number],
        dims: vec![Dim { set: "country", value: "DE".into() }],
        ..bare.clone()
    };
    [bare, full].map(|event| {
        let mut builder = Builder::default();
        builder.push(project, &event);
        builder.finish().chunks
    })
}

/// Reads a block on a thread for blocking work: it may be 32 MiB.
pub(super) async fn read(chunks: &[Bytes]) -> Option<Arc<Rows>> {
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
