//! Leaves a dependency alone that does not answer, so that its silence is paid for once and not by every request.
//!
//! It opens when half of the calls of the last minute failed, or a few in a row: the share alone would take half a minute to
//! notice that a busy dependency has gone. Open, it lets one call through per pause; a success closes it and forgets the past.

use std::sync::{Mutex, PoisonError};

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerRules {
    /// Share of failed calls in the last minute, 0 to 1.
    pub ratio: f64,
    /// Calls of the last minute below which the share says nothing.
    pub least: u32,
    /// Failures in a row that open it by themselves.
    pub in_a_row: u32,
    /// Between two calls that are let through while it is open, in milliseconds.
    pub pause_ms: i64,
}

impl Default for BreakerRules {
    fn default() -> Self {
        Self { ratio: 0.5, least: 20, in_a_row: 3, pause_ms: 2_000 }
    }
}

/// A circuit breaker. Time is passed in, in milliseconds of any clock.
#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    state: Mutex<State>,
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

#[derive(Debug, Default)]
struct State {
    slots: [Slot; SLOTS],
    in_a_row: u32,
    retry_at_ms: Option<i64>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(BreakerRules::default())
    }
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: BreakerRules) -> Self {
        Self { rules, state: Mutex::default() }
    }

    /// Whether a call may be made. When the pause is over one caller is let through; the next waits for another pause
    /// unless that call succeeds.
    pub fn allows(&self, now_ms: i64) -> bool {
        let mut state = self.lock();
        match state.retry_at_ms {
            None => true,
            // A clock that went back must not keep it open for ever.
            Some(retry_at) if now_ms < retry_at && retry_at - now_ms <= self.rules.pause_ms => false,
            Some(_) => {
                state.retry_at_ms = Some(now_ms + self.rules.pause_ms);
                true
            }
        }
    }

    /// A call succeeded.
    pub fn succeeded(&self, now_ms: i64) {
        let mut state = self.lock();
        if state.retry_at_ms.take().is_some() {
            state.slots = Default::default();
        }
        state.in_a_row = 0;
        if let Some(slot) = state.slot(now_ms) {
            slot.calls = slot.calls.saturating_add(1);
        }
    }

    /// A call failed.
    pub fn failed(&self, now_ms: i64) {
        let mut state = self.lock();
        state.in_a_row = state.in_a_row.saturating_add(1);
        if let Some(slot) = state.slot(now_ms) {
            slot.calls = slot.calls.saturating_add(1);
            slot.failures = slot.failures.saturating_add(1);
        }
        let oldest = now_ms.div_euclid(SLOT_MS) - SLOTS as i64;
        let recent = state.slots.iter().filter(|slot| slot.number > oldest);
        let (calls, failures) =
            recent.fold((0_u32, 0_u32), |sum, s| (sum.0.saturating_add(s.calls), sum.1.saturating_add(s.failures)));
        let is_share = calls >= self.rules.least && f64::from(failures) >= f64::from(calls) * self.rules.ratio;
        if is_share || state.in_a_row >= self.rules.in_a_row {
            state.retry_at_ms = Some(now_ms + self.rules.pause_ms);
        }
    }

    /// Whether calls are being refused or only tried.
    pub fn is_open(&self) -> bool {
        self.lock().retry_at_ms.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot(&mut self, now_ms: i64) -> Option<&mut Slot> {
        let number = now_ms.div_euclid(SLOT_MS);
        let slot = self.slots.get_mut(number.rem_euclid(SLOTS as i64) as usize)?;
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        Some(slot)
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
}
