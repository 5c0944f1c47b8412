//! Admission to ClickHouse: who may run a query, who waits, and who has to retry later.
//!
//! ```text
//! AdmissionRequest -> breaker open? -> stressed? -> a slot of its class (fair queue) -> stressed by now? -> QueryPermit
//!                      |                |             |
//!                      Unavailable      Overloaded    Overloaded: the queue is full, or the wait too long
//!                                                     TenantBusy: the project's share of the queue is full
//! ```
//!
//! Each class has its own slots, so an ad hoc query never holds one that a dashboard needs; within a class, no project holds every slot
//! (`slots.rs`), and the one that holds fewest is served next (`queue.rs`). A request brings its deadline: it waits for at most half of
//! what is left of it, and its query is given the rest.
//!
//! The breaker opens for failures that are ClickHouse's: a question that is too slow or too big counts as far as others are so too
//! (`blame.rs`). When its pause is over, the next dashboard or the next look of the health page closes it ([`Admission::probe`]).
//! Under stress classes are refused in order (`shed.rs`); ClickHouse's own settings keep running queries from slowing dashboards
//! (`class.rs`). No query is sent without a [`QueryPermit`]; dropping the future, or the permit, gives everything back.

mod blame;
mod class;
mod permit;
mod queue;
mod send_permits;
mod shed;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::breaker::{Breaker, BreakerRules, BreakerState, Verdict};
use tallyhouse_service::metrics::pools::Pools;
use tokio::time::Instant;

pub use class::{AdmissionRequest, Class, Limits, MAX_RESULT_ROWS, Policy};
pub use permit::{Call, QueryPermit};
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

/// A query of which less is left is not sent: it would only be stopped.
const LEAST_LEFT: Duration = Duration::from_millis(10);

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
    /// Nothing is left of the request's time.
    OutOfTime {
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
    stream: ClassSlots,
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
            stream: slots(Class::Stream),
            ad_hoc: slots(Class::AdHoc),
            signals: Arc::new(Signals::new(Breaker::new(BREAKER).told("clickhouse"), metrics.clone())),
            policy,
            metrics,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A permit to ask, at once or after a wait. Dropping the future gives up the wait.
    pub async fn admit(&self, ask: &AdmissionRequest) -> Result<QueryPermit, NotAdmitted> {
        let (class, shared) = (ask.class, &*self.shared);
        let (began, limits) = (Instant::now(), shared.policy.of(class));
        let deadline = ask.deadline.map_or(began + limits.deadline, |asked| asked.min(began + limits.deadline));
        let left = deadline.saturating_duration_since(began);
        if left < LEAST_LEFT {
            return Err(self.out_of_time(class));
        }
        self.shed(class)?;
        let waiting = shared.metrics.waiting(class.label());
        let entered = self.slots(class).enter(&ask.project, limits.longest_wait().min(left / 2)).await;
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
        Ok(QueryPermit::new(ask, deadline, slot, shared.signals.call(pass)))
    }

    /// Shows the slots of each class.
    pub fn show(&self, pools: &Pools) {
        let show = |pool, slots: &ClassSlots| {
            let slots = slots.clone();
            pools.watch(pool, move || slots.status());
        };
        show("clickhouse_realtime", &self.shared.realtime);
        show("clickhouse_dashboard", &self.shared.dashboard);
        show("clickhouse_stream", &self.shared.stream);
        show("clickhouse_ad_hoc", &self.shared.ad_hoc);
    }

    /// The right to settle a half-open breaker by a look at ClickHouse; `None` where there is nothing to settle. Else ad hoc would be
    /// refused after an outage until somebody asked for a dashboard.
    pub fn probe(&self) -> Option<Call> {
        self.shared.signals.probe()
    }

    /// Whether ClickHouse was there when somebody looked.
    pub fn pinged(&self, probe: Option<Call>, is_there: bool) {
        self.shared.signals.pinged(is_there);
        if let Some(mut probe) = probe {
            probe.finish(if is_there { Verdict::Succeeded } else { Verdict::Failed });
        }
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
            Class::Stream => &self.shared.stream,
            Class::AdHoc => &self.shared.ad_hoc,
        }
    }

    fn overloaded(&self, class: Class, reason: AdmissionRefusal, after: Duration) -> NotAdmitted {
        self.shared.metrics.refused(class.label(), reason);
        NotAdmitted::Overloaded { retry_after_s: retry_after(after) }
    }

    fn out_of_time(&self, class: Class) -> NotAdmitted {
        self.shared.metrics.refused(class.label(), AdmissionRefusal::OutOfTime);
        NotAdmitted::OutOfTime { retry_after_s: retry_after(self.slots(class).pressure().drains_in) }
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
    use super::*;
    use tallyhouse_service::metrics::Registry;

    fn admission() -> Admission {
        Admission::new(Policy::for_total(8), Metrics::register(&Registry::new()).unwrap())
    }

    fn ask(class: Class) -> AdmissionRequest {
        of("p", class)
    }

    fn of(project: &str, class: Class) -> AdmissionRequest {
        AdmissionRequest { class, project: project.to_owned(), deadline: None }
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

    #[tokio::test(start_paused = true)]
    async fn a_request_brings_its_deadline_through_the_wait_and_into_the_query() {
        let admission = admission();
        let held = admission.admit(&ask(Class::AdHoc)).await.unwrap();
        let until = |seconds| AdmissionRequest {
            deadline: Some(Instant::now() + Duration::from_secs(seconds)),
            ..ask(Class::AdHoc)
        };
        let (late, began) = (until(4), Instant::now());
        let refused = admission.admit(&late).await.unwrap_err();
        assert_eq!((refused, began.elapsed()), (COME_BACK, Duration::from_secs(2)), "half of what was left");
        drop(held);
        let admitted = admission.admit(&late).await.unwrap();
        assert_eq!(admitted.remaining(), Duration::from_secs(2), "not a whole deadline anew");
        tokio::time::advance(Duration::from_secs(2)).await;
        let out = admission.admit(&late).await.unwrap_err();
        assert!(matches!(out, NotAdmitted::OutOfTime { .. }), "{out:?}");
        drop(admitted);
        let own = admission.admit(&until(3_600)).await.unwrap();
        assert_eq!(own.remaining(), Duration::from_secs(30), "never more than its class has");
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_a_look_at_clickhouse_lets_ad_hoc_in_again() {
        let admission = admission();
        for _ in 0..10 {
            admission.admit(&ask(Class::Dashboard)).await.unwrap().finish(Verdict::Failed);
        }
        assert!(admission.probe().is_none(), "it is left alone");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(admission.admit(&ask(Class::AdHoc)).await.unwrap_err(), COME_BACK);
        admission.pinged(admission.probe(), false);
        assert_eq!(admission.breaker(), BreakerState::Open, "it is still away");
        tokio::time::advance(Duration::from_secs(30)).await;
        let probe = admission.probe();
        assert!(admission.probe().is_none(), "one at a time");
        admission.pinged(probe, true);
        assert_eq!(admission.breaker(), BreakerState::Closed);
        assert!(admission.admit(&ask(Class::AdHoc)).await.is_ok());
        assert!(admission.probe().is_none(), "nothing to settle");
    }

    #[tokio::test(start_paused = true)]
    async fn one_project_s_slow_questions_do_not_open_the_breaker_for_all() {
        let admission = admission();
        let slow = async |project: &str| {
            admission.admit(&of(project, Class::Dashboard)).await.unwrap().came_to_no_end();
        };
        for _ in 0..40 {
            slow("greedy").await;
            admission.admit(&of("modest", Class::Dashboard)).await.unwrap().finish(Verdict::Succeeded);
        }
        assert_eq!(admission.breaker(), BreakerState::Closed);
        for project in ["a", "b", "c", "d", "e"].iter().cycle().take(60) {
            if admission.breaker() == BreakerState::Closed {
                slow(project).await;
            }
        }
        assert_eq!(admission.breaker(), BreakerState::Open, "those of all are ClickHouse's fault");
    }

    #[tokio::test(start_paused = true)]
    async fn while_clickhouse_does_not_answer_pings_one_project_is_enough() {
        let admission = admission();
        admission.pinged(None, false);
        for _ in 0..10 {
            admission.admit(&ask(Class::Dashboard)).await.unwrap().came_to_no_end();
        }
        assert_eq!(admission.breaker(), BreakerState::Open);
    }

    #[test]
    fn coming_back_is_in_whole_seconds_within_a_minute() {
        assert_eq!([0, 1, 1_001, 90_000].map(|millis| retry_after(Duration::from_millis(millis))), [1, 1, 2, 60]);
    }
}
