//! Leaves a dependency alone that does not answer, so that its silence is paid for once and not by every request.

use std::sync::Mutex;

/// Failures in a row that open it.
const FAILURES: u32 = 3;

/// How long it stays open before one call may try again, in milliseconds.
const OPEN_MS: i64 = 2_000;

/// A circuit breaker. Time is passed in.
#[derive(Debug, Default)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    failures: u32,
    retry_at_ms: Option<i64>,
}

impl Breaker {
    /// Whether a call may be made. When the pause is over one caller is let through; the next waits for another pause
    /// unless that call succeeds.
    pub fn allows(&self, now_ms: i64) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        match state.retry_at_ms {
            None => true,
            Some(retry_at) if now_ms < retry_at => false,
            Some(_) => {
                state.retry_at_ms = Some(now_ms + OPEN_MS);
                true
            }
        }
    }

    /// A call succeeded.
    pub fn succeeded(&self) {
        if let Ok(mut state) = self.state.lock() {
            *state = State::default();
        }
    }

    /// A call failed.
    pub fn failed(&self, now_ms: i64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.retry_at_ms = Some(now_ms + OPEN_MS);
        }
    }

    /// Whether calls are being refused or only tried.
    pub fn is_open(&self) -> bool {
        self.state.lock().map_or(true, |state| state.retry_at_ms.is_some())
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
        breaker.succeeded();
        breaker.failed(0);
        breaker.failed(0);
        assert!(breaker.allows(0));
        breaker.failed(0);
        assert!(breaker.is_open() && !breaker.allows(1_999));
        assert!(breaker.allows(2_000) && !breaker.allows(2_001), "one probe a pause");
        breaker.succeeded();
        assert!(breaker.allows(2_002) && !breaker.is_open());
    }
}
