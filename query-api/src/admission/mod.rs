//! Admission to ClickHouse: who may run a query, who waits, and who has to retry later.
//!
//! ```text
//! AdmissionRequest -> breaker open? -> stressed? -> a slot of its class (fair queue) -> stressed by now? -> QueryPermit
//!                      |                |             |
//!                      Unavailable      Overloaded    Overloaded: the queue is full, or the wait too long
//!                                                     TenantBusy: the project's share of the queue is full
//! ```
//!
//! Each class has its own slots, so an ad hoc query never holds one that a dashboard needs; within a class, projects are served round robin.
//! Under stress classes are refused in order (`shed.rs`); ClickHouse's own settings keep running queries from slowing dashboards
//! (`class.rs`). No query is sent without a [`QueryPermit`]; dropping the future, or the permit, gives everything back.

mod class;
mod permit;
mod queue;
mod send_permits;
mod shed;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::breaker::{Breaker, BreakerRules, BreakerState};
use tokio::time::Instant;

pub use class::{AdmissionRequest, Class, Limits, MAX_RESULT_ROWS, Policy};
pub use permit::QueryPermit;
pub use send_permits::{SendPermit, SendPermits};

use crate::telemetry::{AdmissionRefusal, Metrics};
use permit::Signals;
use shed::{Load, Shed};
use slots::{ClassSlots, Reason};

/// The breaker to ClickHouse: 30 % of a minute's calls, then left alone for 30 s. A few failures in a row are what
/// a restart of two seconds looks like, so they alone do not open it.
const BREAKER: BreakerRules = BreakerRules { ratio: 0.3, least: 10, in_a_row: None, pause_ms: 30_000 };

/// Bounds of `Retry-After`. A minute's queue may well be gone in a second.
const RETRY_AFTER: (u64, u64) = (1, 60);

/// How long to come back after while somebody else's question is tried: it ends sooner or later, on no clock.
const PROBED: Duration = Duration::from_secs(2);

/// Why a query is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// ClickHouse is being left alone.
    Unavailable {
        /// When a question may be let through again, in seconds.
        retry_after_s: u32,
    },
    /// Everybody's questions together are too many.
    Overloaded {
        /// When to retry, in seconds.
        retry_after_s: u32,
    },
    /// The project's own questions are too many.
    TenantBusy {
        /// When to retry, in seconds.
        retry_after_s: u32,
    },
}

/// Admission to ClickHouse. Clones share everything.
#[derive(Debug, Clone)]
pub struct Admission {
    shared: Arc<AdmissionShared>,
}

#[derive(Debug)]
struct AdmissionShared {
    policy: Policy,
    realtime: ClassSlots,
    dashboard: ClassSlots,
    ad_hoc: ClassSlots,
    signals: Arc<Signals>,
    metrics: Metrics,
}

impl Admission {
    /// Admission by a policy; the breaker is closed.
    pub fn new(policy: Policy, metrics: Metrics) -> Self {
        let slots = |class| ClassSlots::new(policy.of(class));
        let shared = AdmissionShared {
            realtime: slots(Class::Realtime),
            dashboard: slots(Class::Dashboard),
            ad_hoc: slots(Class::AdHoc),
            signals: Arc::new(Signals::new(Breaker::new(BREAKER), metrics.clone())),
            policy,
            metrics,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A permit to ask, at once or after a wait. Dropping the future gives up the wait.
    pub async fn admit(&self, ask: &AdmissionRequest) -> Result<QueryPermit, NotAdmitted> {
        let (class, shared) = (ask.class, &*self.shared);
        let began = Instant::now();
        self.shed(class)?;
        let waiting = shared.metrics.waiting(class.label());
        let entered = self.slots(class).enter(&ask.project).await;
        drop(waiting);
        let slot = entered.map_err(|refused| match refused.reason {
            Reason::Share => {
                shared.metrics.refused(class.label(), AdmissionRefusal::TenantShare);
                NotAdmitted::TenantBusy { retry_after_s: retry_after(refused.after) }
            }
            Reason::Queue => self.overloaded(class, AdmissionRefusal::QueueFull, refused.after),
            Reason::TimedOut => self.overloaded(class, AdmissionRefusal::WaitedTooLong, refused.after),
        })?;
        // What was calm when it came may be stressed now.
        self.shed(class)?;
        let Some(pass) = shared.signals.pass() else { return Err(self.unavailable(class)) };
        shared.metrics.waited(class.label(), began.elapsed());
        let deadline = began + shared.policy.of(class).deadline;
        Ok(QueryPermit::new(class, deadline, slot, shared.signals.call(pass)))
    }

    /// The longest that an answer for the class may take.
    pub fn deadline(&self, class: Class) -> Duration {
        self.shared.policy.of(class).deadline
    }

    /// How the way to ClickHouse is.
    pub fn breaker(&self) -> BreakerState {
        self.shared.signals.breaker()
    }

    fn shed(&self, class: Class) -> Result<(), NotAdmitted> {
        let shed = Shed::under(&self.load(), &self.shared.policy);
        match (shed, shed.refuses(class)) {
            (_, false) => Ok(()),
            (Shed::Everybody, true) => Err(self.unavailable(class)),
            (Shed::Nobody | Shed::AdHoc | Shed::Realtime, true) => {
                Err(self.overloaded(class, AdmissionRefusal::Shed, self.slots(class).pressure().drains_in))
            }
        }
    }

    fn load(&self) -> Load {
        Load {
            breaker: self.shared.signals.breaker(),
            dashboards_wait: self.shared.dashboard.pressure().oldest,
            realtime_waits: self.shared.realtime.pressure().oldest,
            overloads: self.shared.signals.overloads(),
        }
    }

    fn slots(&self, class: Class) -> &ClassSlots {
        match class {
            Class::Realtime => &self.shared.realtime,
            Class::Dashboard => &self.shared.dashboard,
            Class::AdHoc => &self.shared.ad_hoc,
        }
    }

    fn overloaded(&self, class: Class, reason: AdmissionRefusal, after: Duration) -> NotAdmitted {
        self.shared.metrics.refused(class.label(), reason);
        NotAdmitted::Overloaded { retry_after_s: retry_after(after) }
    }

    fn unavailable(&self, class: Class) -> NotAdmitted {
        self.shared.metrics.refused(class.label(), AdmissionRefusal::Breaker);
        NotAdmitted::Unavailable { retry_after_s: retry_after(self.shared.signals.left_alone().unwrap_or(PROBED)) }
    }
}

/// Whole seconds, rounded up.
fn retry_after(after: Duration) -> u32 {
    let (least, most) = RETRY_AFTER;
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    u32::try_from(seconds.clamp(least, most)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tallyhouse_service::breaker::Verdict;

    use super::*;

    fn admission() -> Admission {
        Admission::new(Policy::for_total(8), Metrics::register(&Registry::new()).unwrap())
    }

    fn ask(class: Class) -> AdmissionRequest {
        AdmissionRequest { class, project: "p".to_owned() }
    }

    const COME_BACK: NotAdmitted = NotAdmitted::Overloaded { retry_after_s: 1 };

    #[tokio::test(start_paused = true)]
    async fn the_time_waited_is_taken_from_the_time_to_run() {
        let admission = admission();
        let held = admission.admit(&ask(Class::AdHoc)).await.unwrap();
        assert_eq!(held.remaining(), Duration::from_secs(30));
        let wait = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(held);
        };
        let ask = ask(Class::AdHoc);
        let (next, ()) = tokio::join!(admission.admit(&ask), wait);
        assert_eq!(next.unwrap().remaining(), Duration::from_secs(26));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_class_does_not_hold_up_another() {
        let admission = admission();
        let _held = admission.admit(&ask(Class::AdHoc)).await.unwrap();
        let queued: Vec<_> = (0..100)
            .map(|_| {
                let admission = admission.clone();
                tokio::spawn(async move { admission.admit(&ask(Class::AdHoc)).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        for class in [Class::Dashboard, Class::Realtime] {
            assert!(admission.admit(&ask(class)).await.is_ok());
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for waiting in queued {
            let refused = waiting.await.unwrap().unwrap_err();
            assert!(matches!(refused, NotAdmitted::Overloaded { .. }), "{refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_clickhouse_cannot_take_is_refused_from_the_least_important() {
        let admission = admission();
        let overload = async |times: usize| {
            for _ in 0..times {
                admission.admit(&ask(Class::Dashboard)).await.unwrap().overloaded();
            }
        };
        overload(1).await;
        assert_eq!(admission.admit(&ask(Class::AdHoc)).await.unwrap_err(), COME_BACK);
        assert!(admission.admit(&ask(Class::Realtime)).await.is_ok());
        overload(4).await;
        assert_eq!(admission.admit(&ask(Class::Realtime)).await.unwrap_err(), COME_BACK);
        assert!(admission.admit(&ask(Class::Dashboard)).await.is_ok());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(admission.admit(&ask(Class::AdHoc)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_into_stress_is_refused_when_the_turn_comes() {
        let admission = admission();
        let held = admission.admit(&ask(Class::AdHoc)).await.unwrap();
        let stress = async {
            admission.admit(&ask(Class::Dashboard)).await.unwrap().overloaded();
            drop(held);
        };
        let (ask, began) = (ask(Class::AdHoc), Instant::now());
        let (waited, ()) = tokio::join!(admission.admit(&ask), stress);
        assert_eq!((waited.unwrap_err(), began.elapsed()), (COME_BACK, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_refuses_at_once_and_one_probe_at_a_time_closes_it() {
        let admission = admission();
        for _ in 0..10 {
            admission.admit(&ask(Class::Dashboard)).await.unwrap().finish(Verdict::Failed);
        }
        let refused = async || admission.admit(&ask(Class::Dashboard)).await.unwrap_err();
        assert_eq!(refused().await, NotAdmitted::Unavailable { retry_after_s: 30 });
        tokio::time::advance(Duration::from_millis(12_500)).await;
        assert_eq!(refused().await, NotAdmitted::Unavailable { retry_after_s: 18 });
        tokio::time::advance(Duration::from_millis(17_500)).await;
        assert_eq!(admission.admit(&ask(Class::AdHoc)).await.unwrap_err(), COME_BACK, "too big to probe with");
        let given_up = admission.admit(&ask(Class::Dashboard)).await.unwrap();
        assert_eq!(refused().await, NotAdmitted::Unavailable { retry_after_s: 2 });
        drop(given_up);
        admission.admit(&ask(Class::Realtime)).await.unwrap().finish(Verdict::Succeeded);
        assert_eq!(admission.breaker(), BreakerState::Closed);
        assert!(admission.admit(&ask(Class::AdHoc)).await.is_ok());
    }

    #[test]
    fn coming_back_is_in_whole_seconds_within_a_minute() {
        assert_eq!([0, 1, 1_001, 90_000].map(|millis| retry_after(Duration::from_millis(millis))), [1, 1, 2, 60]);
    }
}
