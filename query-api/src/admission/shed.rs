//! Load shedding: one decision, from how loaded the classes and ClickHouse are, about which classes are refused.
//!
//! ```text
//! calm -> ad hoc refused -> real-time and streams refused too (cached values are given instead) -> all refused (breaker open)
//! ```
//!
//! The queue of ad hoc queries does not count as load: its length does not matter while dashboards do not wait.

use std::time::Duration;

use tallyhouse_service::breaker::BreakerState;

use super::class::{Class, Policy};

/// How loaded things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// The way to ClickHouse.
    pub(super) breaker: BreakerState,
    /// How long the first dashboard in its queue has waited.
    pub(super) dashboards_wait: Duration,
    /// How long the first real-time question in its queue has waited.
    pub(super) realtime_waits: Duration,
    /// How often ClickHouse said of late that it has too much to do.
    pub(super) overloads: usize,
}

/// Who is refused. The order is that of severity: each refuses whom the one before refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shed {
    /// Nobody.
    Nobody,
    /// Ad hoc questions.
    AdHoc,
    /// Real-time ones and streams too.
    Realtime,
    /// Everybody: ClickHouse is left alone.
    Everybody,
}

/// Times that ClickHouse says of late that it has too much to do, after which real-time is refused too. The first is
/// enough for ad hoc.
pub(super) const MANY_OVERLOADS: usize = 5;

impl Shed {
    /// Whom this load refuses.
    ///
    /// Waits are measured in parts of the longest wait: of dashboards a quarter for ad hoc and a half for
    /// real-time, of real-time a half for ad hoc.
    pub(super) fn under(load: &Load, policy: &Policy) -> Self {
        let of_breaker = match load.breaker {
            BreakerState::Closed => Self::Nobody,
            BreakerState::HalfOpen => Self::AdHoc,
            BreakerState::Open => Self::Everybody,
        };
        let longest_wait = policy.dashboard.longest_wait();
        let of_dashboards = match load.dashboards_wait {
            wait if wait >= longest_wait / 2 => Self::Realtime,
            wait if wait >= longest_wait / 4 => Self::AdHoc,
            _ => Self::Nobody,
        };
        let of_realtime = match load.realtime_waits {
            wait if wait >= policy.realtime.longest_wait() / 2 => Self::AdHoc,
            _ => Self::Nobody,
        };
        let of_overloads = match load.overloads {
            MANY_OVERLOADS.. => Self::Realtime,
            1.. => Self::AdHoc,
            0 => Self::Nobody,
        };
        of_breaker.max(of_dashboards).max(of_realtime).max(of_overloads)
    }

    /// Whether it refuses a class.
    pub(super) const fn refuses(self, class: Class) -> bool {
        match (self, class) {
            (Self::Nobody, _) => false,
            (Self::AdHoc, class) => matches!(class, Class::AdHoc),
            (Self::Realtime, class) => matches!(class, Class::AdHoc | Class::Stream | Class::Realtime),
            (Self::Everybody, _) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Load = Load {
        breaker: BreakerState::Closed,
        dashboards_wait: Duration::ZERO,
        realtime_waits: Duration::ZERO,
        overloads: 0,
    };

    const BREAKERS: [BreakerState; 3] = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open];

    fn shed(load: Load) -> Shed {
        Shed::under(&load, &Policy::for_total(8))
    }

    fn dashboards_wait(millis: u64) -> Shed {
        shed(Load { dashboards_wait: Duration::from_millis(millis), ..CALM })
    }

    #[test]
    fn each_sign_of_stress_has_its_thresholds() {
        assert_eq!(shed(CALM), Shed::Nobody);
        // Dashboards wait for five seconds at most, real-time questions for one.
        assert_eq!(
            [1_249, 1_250, 2_499, 2_500].map(dashboards_wait),
            [Shed::Nobody, Shed::AdHoc, Shed::AdHoc, Shed::Realtime]
        );
        let realtime = |millis| shed(Load { realtime_waits: Duration::from_millis(millis), ..CALM });
        assert_eq!([499, 500, 1_000].map(realtime), [Shed::Nobody, Shed::AdHoc, Shed::AdHoc]);
        let overloads = |overloads| shed(Load { overloads, ..CALM });
        assert_eq!([0, 1, 4, 5].map(overloads), [Shed::Nobody, Shed::AdHoc, Shed::AdHoc, Shed::Realtime]);
        let breaker = |breaker| shed(Load { breaker, ..CALM });
        assert_eq!(BREAKERS.map(breaker), [Shed::Nobody, Shed::AdHoc, Shed::Everybody]);
    }

    /// Every combination of a value on each side of each threshold.
    fn loads() -> Vec<Load> {
        let mut loads = Vec::new();
        for breaker in BREAKERS {
            for dashboards_wait in [0, 1_249, 1_250, 2_499, 2_500, 9_000].map(Duration::from_millis) {
                for realtime_waits in [0, 499, 500, 5_000].map(Duration::from_millis) {
                    for overloads in [0, 1, 4, 5, 500] {
                        loads.push(Load { breaker, dashboards_wait, realtime_waits, overloads });
                    }
                }
            }
        }
        loads
    }

    fn is_no_better(one: &Load, other: &Load) -> bool {
        let rank = |load: &Load| BREAKERS.iter().position(|state| *state == load.breaker);
        rank(one) >= rank(other)
            && one.dashboards_wait >= other.dashboards_wait
            && one.realtime_waits >= other.realtime_waits
            && one.overloads >= other.overloads
    }

    #[test]
    fn more_load_never_admits_more_and_only_an_open_breaker_refuses_dashboards() {
        let loads = loads();
        for one in &loads {
            let is_open = one.breaker == BreakerState::Open;
            assert_eq!(shed(*one).refuses(Class::Dashboard), is_open, "{one:?}");
            for other in loads.iter().filter(|other| is_no_better(one, other)) {
                assert!(shed(*one) >= shed(*other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn who_is_refused_first_stays_refused() {
        for shed in [Shed::Nobody, Shed::AdHoc, Shed::Realtime, Shed::Everybody] {
            // From the last to be refused to the first: once refused, so is all that follows.
            let refused = Class::ALL.map(|class| shed.refuses(class));
            assert!(refused.is_sorted(), "{shed:?}: {refused:?}");
        }
    }
}
