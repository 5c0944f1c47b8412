//! The permit to run one query, and how the query's outcome changes the breaker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tallyhouse_service::breaker::{Breaker, BreakerState, Pass, Verdict};
use tokio::time::Instant;

use super::blame::Blame;
use super::class::{AdmissionRequest, Class, settings};
use super::shed::MANY_OVERLOADS;
use super::slots::Slot;
use crate::telemetry::Metrics;

/// How long it is remembered that ClickHouse had too much to do.
const LATELY: Duration = Duration::from_secs(10);

/// The permit to run one query; dropping it releases the slot. Finish the call when the query says something about ClickHouse.
#[derive(Debug)]
pub struct QueryPermit {
    class: Class,
    project: String,
    deadline: Instant,
    // Dropped before the slot: the next query must find the breaker up to date.
    call: Call,
    _slot: Slot,
}

impl QueryPermit {
    pub(super) fn new(ask: &AdmissionRequest, deadline: Instant, slot: Slot, call: Call) -> Self {
        Self { class: ask.class, project: ask.project.clone(), deadline, call, _slot: slot }
    }

    /// What it was asked for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// When the answer is no longer waited for.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left until then.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The settings of ClickHouse that a query with this permit is sent with: the limits of its class, and what is left of
    /// its time.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        settings(self.class, self.remaining())
    }

    /// Finishes the call to ClickHouse. The first verdict counts; a permit that is dropped without one says nothing.
    pub fn finish(&mut self, verdict: Verdict) {
        self.call.finish(verdict);
    }

    /// ClickHouse said that it has too much to do.
    pub fn overloaded(&mut self) {
        self.call.signals.overloaded();
        self.came_to_no_end();
    }

    /// The query came to no end: it was too slow, or too big. Whether that says something about ClickHouse is for `blame.rs`.
    pub fn came_to_no_end(&mut self) {
        let verdict = if self.call.signals.is_of_the_store(&self.project) { Verdict::Failed } else { Verdict::Nothing };
        self.finish(verdict);
    }
}

/// A call to ClickHouse that the breaker let through.
#[derive(Debug)]
pub struct Call {
    signals: Arc<Signals>,
    pass: Option<Pass>,
}

impl Call {
    pub(super) fn finish(&mut self, verdict: Verdict) {
        if let Some(pass) = self.pass.take() {
            self.signals.finish(pass, verdict);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Verdict::Nothing);
    }
}

/// What is known of ClickHouse.
#[derive(Debug)]
pub(super) struct Signals {
    breaker: Breaker,
    epoch: Instant,
    /// The latest times that it had too much to do, at most [`MANY_OVERLOADS`].
    overloads: Mutex<VecDeque<Instant>>,
    blame: Mutex<Blame>,
    metrics: Metrics,
}

impl Signals {
    pub(super) fn new(breaker: Breaker, metrics: Metrics) -> Self {
        metrics.breaker(BreakerState::Closed);
        Self { breaker, epoch: Instant::now(), overloads: Mutex::default(), blame: Mutex::default(), metrics }
    }

    pub(super) fn breaker(&self) -> BreakerState {
        let state = self.breaker.state(self.now_ms());
        self.metrics.breaker(state);
        state
    }

    /// How long ClickHouse is left alone for certain.
    pub(super) fn left_alone(&self) -> Option<Duration> {
        self.breaker.opens_in_ms(self.now_ms()).map(|millis| Duration::from_millis(millis.unsigned_abs()))
    }

    pub(super) fn pass(&self) -> Option<Pass> {
        self.breaker.pass(self.now_ms())
    }

    /// A call that settles a half-open breaker, unless another one does already. A breaker that is closed needs none.
    pub(super) fn probe(self: &Arc<Self>) -> Option<Call> {
        let pass = (self.breaker() == BreakerState::HalfOpen).then(|| self.pass()).flatten();
        pass.map(|pass| self.call(pass))
    }

    /// ClickHouse was looked at.
    pub(super) fn pinged(&self, is_there: bool) {
        self.blame.lock().unwrap_or_else(PoisonError::into_inner).pinged(is_there);
    }

    fn is_of_the_store(&self, project: &str) -> bool {
        let mut blame = self.blame.lock().unwrap_or_else(PoisonError::into_inner);
        blame.is_of_the_store(project, Instant::now())
    }

    pub(super) fn call(self: &Arc<Self>, pass: Pass) -> Call {
        Call { signals: Arc::clone(self), pass: Some(pass) }
    }

    /// How often ClickHouse had too much to do of late; does not count beyond [`MANY_OVERLOADS`].
    pub(super) fn overloads(&self) -> usize {
        let overloads = self.overloads.lock().unwrap_or_else(PoisonError::into_inner);
        overloads.iter().filter(|at| at.elapsed() <= LATELY).count()
    }

    fn overloaded(&self) {
        let mut overloads = self.overloads.lock().unwrap_or_else(PoisonError::into_inner);
        if overloads.len() >= MANY_OVERLOADS {
            overloads.pop_front();
        }
        overloads.push_back(Instant::now());
    }

    fn finish(&self, pass: Pass, verdict: Verdict) {
        let before = self.breaker.is_open();
        self.breaker.record(pass, verdict, self.now_ms());
        match (before, self.breaker.is_open()) {
            (false, true) => tracing::warn!("ClickHouse fails too often and is left alone"),
            (true, false) => tracing::info!("ClickHouse answers again"),
            (true, true) | (false, false) => {}
        }
        self.metrics.breaker(self.breaker.state(self.now_ms()));
    }

    /// Milliseconds of a clock that does not go back.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
