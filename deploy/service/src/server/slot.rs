//! What a connection is doing, as its task, its socket and the table of connections see it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Limits;
use crate::clock::steady_ms;

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// The rest of a head, or the first byte of the first.
    Head,
    /// Until the response was handed over; a stream of events until its end.
    Request,
    /// The first byte of a further request.
    Idle,
}

impl Phase {
    const fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Head,
            1 => Self::Request,
            _ => Self::Idle,
        }
    }
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may go on, at least so long.
    Wait(Duration),
    /// It is overdue, for this reason.
    Close(&'static str),
}

/// A connection.
pub(super) struct Slot {
    pub(super) address: IpAddr,
    phase: AtomicU8,
    /// Of the phase, in milliseconds of the steady clock.
    since: AtomicI64,
    /// Told when it has to make room.
    pub(super) replaced: Notify,
}

impl Slot {
    pub(super) fn new(address: IpAddr) -> Self {
        let (phase, since) = (AtomicU8::new(Phase::Head as u8), AtomicI64::new(steady_ms()));
        Self { address, phase, since, replaced: Notify::new() }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    /// Since when it could make room for another; `None` while it has a request.
    pub(super) fn replaceable_since(&self) -> Option<i64> {
        (self.phase() != Phase::Request).then(|| self.since.load(Ordering::Relaxed))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.since.store(steady_ms(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Bytes came: between two requests these begin a head.
    pub(super) fn received(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    pub(super) fn verdict(&self, limits: Limits) -> Verdict {
        let since = steady_ms().saturating_sub(self.since.load(Ordering::Relaxed));
        judge(self.phase(), Duration::from_millis(since.unsigned_abs()), limits)
    }
}

/// Looks again early enough that a head which begins meanwhile is not overdue for long.
fn judge(phase: Phase, since: Duration, limits: Limits) -> Verdict {
    const LOOK_WITHIN: Duration = Duration::from_secs(4);
    let left = |bound: Duration| bound.checked_sub(since).filter(|left| !left.is_zero());
    match phase {
        Phase::Head => left(limits.head).map_or(Verdict::Close("head_timeout"), Verdict::Wait),
        Phase::Request => Verdict::Wait(LOOK_WITHIN),
        Phase::Idle => {
            left(limits.idle).map_or(Verdict::Close("idle_timeout"), |left| Verdict::Wait(left.min(LOOK_WITHIN)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_an_idle_connection_are_overdue_and_a_request_never_is() {
        let (limits, hour) = (Limits::ADMIN, Duration::from_secs(3_600));
        assert_eq!(judge(Phase::Head, Duration::from_secs(4), limits), Verdict::Wait(Duration::from_secs(6)));
        assert_eq!(judge(Phase::Head, limits.head, limits), Verdict::Close("head_timeout"));
        assert_eq!(judge(Phase::Idle, Duration::from_secs(74), limits), Verdict::Wait(Duration::from_secs(1)));
        assert_eq!(judge(Phase::Idle, limits.idle, limits), Verdict::Close("idle_timeout"));
        assert!(matches!(judge(Phase::Request, hour, limits), Verdict::Wait(_)));
        // A head that begins just after a look is closed within five seconds of its bound.
        assert!(
            matches!(judge(Phase::Idle, Duration::ZERO, limits), Verdict::Wait(next) if next <= Duration::from_secs(5))
        );
    }

    #[test]
    fn bytes_between_two_requests_begin_a_head() {
        let slot = Slot::new([127, 0, 0, 1].into());
        slot.enter(Phase::Request);
        slot.received();
        assert_eq!((slot.phase(), slot.replaceable_since()), (Phase::Request, None));
        slot.enter(Phase::Idle);
        slot.received();
        assert_eq!(slot.phase(), Phase::Head);
        assert!(slot.replaceable_since().is_some());
    }
}
