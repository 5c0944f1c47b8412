//! A circuit breaker: stops calls to a dependency that fails, so that not every request waits for its timeout.
//!
//! ```text
//! closed --share of failures, or failures in a row--> open --pause is over--> half-open: one probe at a time
//!    ^                                                 ^                          |
//!    +------------------ the probe succeeds            +------ the probe fails ---+
//! ```
//!
//! Which failures open it, and for how long, is a [`BreakerRules`]. Calls that overlap take a [`Pass`] and record its outcome: only
//! the probe's own success closes the breaker, not that of a call which began before it opened. A probe that was given
//! up lets the next call probe; one whose outcome is never recorded does so after a pause.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerRules {
    /// Share of failed calls in the last minute, 0 to 1.
    pub ratio: f64,
    /// Calls of the last minute below which the share says nothing.
    pub least: u32,
    /// Failures in a row that open it by themselves; `None` where only the share counts.
    pub in_a_row: Option<u32>,
    /// How long it is open before a call may probe, in milliseconds.
    pub pause_ms: i64,
}

impl Default for BreakerRules {
    /// Half of a minute's calls, or three in a row: the share alone would take half a minute to notice that a busy
    /// dependency has gone.
    fn default() -> Self {
        Self { ratio: 0.5, least: 20, in_a_row: Some(3), pause_ms: 2_000 }
    }
}

/// What the breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// One call at a time is made, to see.
    HalfOpen,
    /// No call is made.
    Open,
}

/// The right to make one call, whose outcome goes to [`Breaker::record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The breaker was closed.
    Normal,
    /// The breaker is half-open, and this call decides.
    Probe,
}

/// What a call said about the dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    Failed,
    /// Nothing: the call was given up, or failed for a reason of its own.
    Nothing,
}

/// A circuit breaker. Time is passed in, in milliseconds of any clock.
#[derive(Debug)]
pub struct Breaker {
    /// To what, for the log; a transition of one without a name is not told.
    to: Option<&'static str>,
    rules: BreakerRules,
    state: Mutex<Circuit>,
}

/// The last minute, in slots.
const SLOTS: usize = 6;
const SLOT_MS: i64 = 10_000;

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    number: i64,
    calls: u32,
    failures: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Open {
        until_ms: i64,
    },
    /// A probe is under way; after `until_ms` it counts as lost.
    Probing {
        until_ms: i64,
    },
}

#[derive(Debug, Default)]
struct Circuit {
    slots: [Slot; SLOTS],
    in_a_row: u32,
    phase: Phase,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(BreakerRules::default())
    }
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: BreakerRules) -> Self {
        Self { to: None, rules, state: Mutex::default() }
    }

    /// Tells in the log when it opens and closes.
    #[must_use]
    pub fn told(self, to: &'static str) -> Self {
        Self { to: Some(to), ..self }
    }

    /// The right to make a call, unless it is open or somebody else probes.
    pub fn pass(&self, now_ms: i64) -> Option<Pass> {
        let mut state = self.lock();
        match state.phase {
            Phase::Closed => Some(Pass::Normal),
            Phase::Open { until_ms } | Phase::Probing { until_ms } if self.is_ahead(until_ms, now_ms) => None,
            Phase::Open { .. } | Phase::Probing { .. } => {
                state.phase = Phase::Probing { until_ms: now_ms + self.rules.pause_ms };
                Some(Pass::Probe)
            }
        }
    }

    /// Records the outcome of a call that had a pass.
    pub fn record(&self, pass: Pass, verdict: Verdict, now_ms: i64) {
        match (pass, verdict) {
            (Pass::Normal, Verdict::Succeeded) => self.lock().count(now_ms, Verdict::Succeeded),
            (Pass::Probe, Verdict::Succeeded) => self.succeeded(now_ms),
            (Pass::Normal | Pass::Probe, Verdict::Failed) => self.fail(pass, now_ms),
            (Pass::Normal, Verdict::Nothing) => {}
            (Pass::Probe, Verdict::Nothing) => {
                let mut state = self.lock();
                if matches!(state.phase, Phase::Probing { .. }) {
                    state.phase = Phase::Open { until_ms: now_ms };
                }
            }
        }
    }

    /// Whether a call may be made, for callers that record the outcome with [`Breaker::succeeded`] and [`Breaker::failed`]. When the
    /// pause is over one caller is let through; the next waits for another pause unless that call succeeds.
    pub fn allows(&self, now_ms: i64) -> bool {
        self.pass(now_ms).is_some()
    }

    /// A call succeeded. While a probe is under way that closes the breaker, and the past is forgotten.
    pub fn succeeded(&self, now_ms: i64) {
        let mut state = self.lock();
        let closes = matches!(state.phase, Phase::Probing { .. });
        if closes {
            *state = Circuit::default();
        }
        state.count(now_ms, Verdict::Succeeded);
        drop(state);
        if let Some(name) = self.to.filter(|_| closes) {
            tracing::info!(name, "a breaker closed: calls are made again");
        }
    }

    pub fn failed(&self, now_ms: i64) {
        self.fail(Pass::Probe, now_ms);
    }

    fn fail(&self, pass: Pass, now_ms: i64) {
        let mut state = self.lock();
        state.count(now_ms, Verdict::Failed);
        let opens = match state.phase {
            Phase::Closed => self.is_too_much(&state, now_ms),
            Phase::Probing { .. } => pass == Pass::Probe,
            // A call that began before it opened does not keep it open for longer.
            Phase::Open { .. } => false,
        };
        let was_closed = state.phase == Phase::Closed;
        if opens {
            state.phase = Phase::Open { until_ms: now_ms + self.rules.pause_ms };
        }
        drop(state);
        // A probe that failed opens it again, which is no news.
        if let Some(name) = self.to.filter(|_| opens && was_closed) {
            tracing::warn!(name, pause_ms = self.rules.pause_ms, "a breaker opened: no call is made for a while");
        }
    }

    /// What it would do with a call now.
    pub fn state(&self, now_ms: i64) -> BreakerState {
        match self.lock().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until_ms } if self.is_ahead(until_ms, now_ms) => BreakerState::Open,
            Phase::Open { .. } | Phase::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// For how long no call is let through, in milliseconds; `None` when that depends on calls, not on time.
    pub fn opens_in_ms(&self, now_ms: i64) -> Option<i64> {
        match self.lock().phase {
            Phase::Open { until_ms } if self.is_ahead(until_ms, now_ms) => Some(until_ms - now_ms),
            Phase::Closed | Phase::Open { .. } | Phase::Probing { .. } => None,
        }
    }

    /// Whether calls are being refused or only tried.
    pub fn is_open(&self) -> bool {
        self.lock().phase != Phase::Closed
    }

    /// A clock that went back must not keep it open for ever.
    fn is_ahead(&self, until_ms: i64, now_ms: i64) -> bool {
        now_ms < until_ms && until_ms - now_ms <= self.rules.pause_ms
    }

    fn is_too_much(&self, state: &Circuit, now_ms: i64) -> bool {
        let oldest = now_ms.div_euclid(SLOT_MS) - SLOTS as i64;
        let recent = state.slots.iter().filter(|slot| slot.number > oldest);
        let (calls, failures) =
            recent.fold((0_u32, 0_u32), |sum, s| (sum.0.saturating_add(s.calls), sum.1.saturating_add(s.failures)));
        let is_share = calls >= self.rules.least && f64::from(failures) >= f64::from(calls) * self.rules.ratio;
        is_share || self.rules.in_a_row.is_some_and(|limit| state.in_a_row >= limit)
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Circuit {
    fn count(&mut self, now_ms: i64, verdict: Verdict) {
        let is_failure = verdict == Verdict::Failed;
        self.in_a_row = if is_failure { self.in_a_row.saturating_add(1) } else { 0 };
        let number = now_ms.div_euclid(SLOT_MS);
        let Some(slot) = self.slots.get_mut(number.rem_euclid(SLOTS as i64) as usize) else { return };
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(is_failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_call_try() {
        let breaker = Breaker::default();
        breaker.failed(0);
        breaker.failed(0);
        breaker.succeeded(0);
        breaker.failed(0);
        breaker.failed(0);
        assert!(breaker.allows(0));
        breaker.failed(0);
        assert!(breaker.is_open() && !breaker.allows(1_999));
        assert!(breaker.allows(2_000) && !breaker.allows(2_001), "one probe a pause");
        breaker.succeeded(2_002);
        assert!(breaker.allows(2_002) && !breaker.is_open());
    }

    #[test]
    fn it_opens_when_half_of_a_minutes_calls_fail() {
        let breaker = Breaker::default();
        (0..20).for_each(|second| breaker.succeeded(second));
        let mut failures = 0;
        while !breaker.is_open() {
            breaker.failed(20_000);
            failures += 1;
            if failures % 2 == 0 && !breaker.is_open() {
                breaker.succeeded(20_000);
            }
        }
        assert!((30..50).contains(&failures), "{failures} failures against 20 successes and one for every two");
        // A minute later the past no longer counts.
        let breaker = Breaker::default();
        (0..1_000).for_each(|_| breaker.succeeded(0));
        for _ in 0..10 {
            breaker.failed(80_000);
            breaker.succeeded(80_000);
        }
        assert!(!breaker.is_open(), "20 calls are needed");
        breaker.failed(80_000);
        assert!(breaker.is_open());
    }

    #[test]
    fn a_clock_that_goes_back_does_not_keep_it_open() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| breaker.failed(1_000_000));
        assert!(!breaker.allows(1_000_001));
        assert!(breaker.allows(5_000));
    }

    /// As for a store: only the share counts.
    const SHARE: BreakerRules = BreakerRules { ratio: 0.3, least: 10, in_a_row: None, pause_ms: 30_000 };

    fn opened() -> Breaker {
        let breaker = Breaker::new(SHARE);
        (0..10).for_each(|_| breaker.record(Pass::Normal, Verdict::Failed, 0));
        assert_eq!(breaker.state(29_999), BreakerState::Open);
        breaker
    }

    #[test]
    fn the_share_alone_opens_it_when_failures_in_a_row_do_not_count() {
        let breaker = Breaker::new(SHARE);
        (0..9).for_each(|_| breaker.failed(0));
        assert_eq!(breaker.state(0), BreakerState::Closed, "nine calls say nothing");
        (0..30).for_each(|_| breaker.succeeded(0));
        (0..3).for_each(|_| breaker.failed(0));
        assert_eq!(breaker.state(0), BreakerState::Closed, "12 of 42");
        (0..1).for_each(|_| breaker.failed(0));
        assert_eq!(breaker.state(0), BreakerState::Open, "13 of 43");
    }

    #[test]
    fn half_open_one_call_probes_and_decides() {
        let breaker = opened();
        assert_eq!((breaker.pass(29_999), breaker.state(30_000)), (None, BreakerState::HalfOpen));
        assert_eq!([0, 29_999, 30_000].map(|now_ms| breaker.opens_in_ms(now_ms)), [Some(30_000), Some(1), None]);
        assert_eq!((breaker.pass(30_000), breaker.pass(30_001)), (Some(Pass::Probe), None));
        assert_eq!(breaker.opens_in_ms(30_001), None, "the probe decides");
        breaker.record(Pass::Probe, Verdict::Failed, 30_500);
        assert_eq!((breaker.pass(60_499), breaker.pass(60_500)), (None, Some(Pass::Probe)));
        breaker.record(Pass::Probe, Verdict::Succeeded, 60_600);
        assert_eq!((breaker.pass(60_600), breaker.state(60_600)), (Some(Pass::Normal), BreakerState::Closed));
        breaker.failed(60_700);
        assert!(!breaker.is_open(), "the past is forgotten");
    }

    #[test]
    fn a_call_that_began_before_it_opened_neither_closes_it_nor_keeps_it_open() {
        let breaker = opened();
        breaker.record(Pass::Normal, Verdict::Succeeded, 1);
        breaker.record(Pass::Normal, Verdict::Failed, 20_000);
        assert_eq!((breaker.state(29_999), breaker.pass(30_000)), (BreakerState::Open, Some(Pass::Probe)));
        breaker.record(Pass::Normal, Verdict::Succeeded, 30_001);
        breaker.record(Pass::Normal, Verdict::Failed, 30_001);
        assert_eq!(breaker.pass(60_000), Some(Pass::Probe), "the probe was under way until its own end");
    }

    #[test]
    fn a_probe_that_is_given_up_or_lost_lets_the_next_call_try() {
        let breaker = opened();
        assert_eq!(breaker.pass(30_000), Some(Pass::Probe));
        breaker.record(Pass::Probe, Verdict::Nothing, 30_100);
        assert_eq!((breaker.pass(30_100), breaker.pass(60_099)), (Some(Pass::Probe), None));
        assert_eq!(breaker.pass(60_100), Some(Pass::Probe), "its outcome was never recorded");
    }
}
