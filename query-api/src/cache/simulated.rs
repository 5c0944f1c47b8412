//! Panels that a simulated clock refreshes: what they find in the cache, and when their answers expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use tallyhouse_service::metrics::Registry;
use tokio::sync::Semaphore;

use super::answers::Layers;
use super::cache_request::{CacheRequest, FallbackKeys};
use super::ttl::Policy;
use super::warm::AT_ONCE;
use super::{Answers, CacheStatus, Memory, Rendered, StaleReason, Versions};
use crate::authorize::Scope;
use crate::plan::{Plan, RealtimePlan};
use crate::store::ReadError;
use crate::telemetry::Metrics;

const HOUR_MS: i64 = 3_600_000;

struct Panels {
    answers: Answers,
    now_ms: Arc<AtomicI64>,
    computed: Arc<AtomicU64>,
    fails: Arc<AtomicU64>,
}

impl Panels {
    fn new() -> Self {
        let (now_ms, metrics) =
            (Arc::new(AtomicI64::new(1_000 * HOUR_MS)), Metrics::register(&Registry::new()).unwrap());
        let (clock, random) = (Arc::clone(&now_ms), std::sync::Mutex::new(rand::rngs::StdRng::seed_from_u64(3)));
        let clock: crate::clock::Clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let answers = Answers::new(Layers {
            memory: Memory::new(64 << 20),
            shared: None,
            versions: Versions::new(None, None, Arc::clone(&clock), metrics.clone()),
            policy: Policy { open: Duration::from_secs(60) },
            metrics,
            clock,
            random: Arc::new(move || random.lock().unwrap().random::<f64>()),
        });
        Self { answers, now_ms, computed: Arc::default(), fails: Arc::default() }
    }

    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    /// A day until now, as a panel asks for it.
    fn request(&self, panel: u64) -> CacheRequest {
        request(panel, self.now_ms(), Arc::clone(&self.computed), Arc::clone(&self.fails))
    }

    async fn ask(&self, panel: u64) -> CacheStatus {
        let (_, status) = self.answers.get(&self.request(panel)).await.unwrap();
        self.settled().await;
        status
    }

    /// A second passes, as an instance lives it.
    async fn second(&self, permits: &Arc<Semaphore>) {
        self.now_ms.fetch_add(1_000, Ordering::SeqCst);
        self.answers.warm_once(permits).await;
        self.settled().await;
    }

    async fn settled(&self) {
        while self.answers.single_flight.count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Hits in a hundred of `panels` that are refreshed at once, so often, over half an hour.
    async fn hits(&self, panels: u64, every_s: i64) -> u64 {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let (mut hits, mut asked) = (0, 0);
        for second in 0..1_800 {
            for panel in (0..panels).filter(|_| second % every_s == 0) {
                let status = self.ask(panel).await;
                asked += 1;
                hits += u64::from(status == CacheStatus::Hit);
            }
            self.second(&permits).await;
        }
        hits * 100 / asked
    }
}

fn request(panel: u64, now_ms: i64, computed: Arc<AtomicU64>, fails: Arc<AtomicU64>) -> CacheRequest {
    let minute = now_ms / 60_000 * 60;
    let plan = Arc::new(Plan::Realtime(RealtimePlan { short_from: 0, long_from: minute - 86_400, to: minute + 60 }));
    // Not the dashboard of the last minutes, which has a time of its own.
    let plan = Arc::new(match &*plan {
        Plan::Realtime(RealtimePlan { long_from, to, .. }) => day(*long_from, *to),
        other => other.clone(),
    });
    let (counts, broken) = (Arc::clone(&computed), Arc::clone(&fails));
    let compute = move |_, _| {
        let (counts, broken) = (Arc::clone(&counts), Arc::clone(&broken));
        let computing = async move {
            if broken.load(Ordering::SeqCst) > 0 {
                return Err(ReadError::Unavailable);
            }
            counts.fetch_add(1, Ordering::SeqCst);
            Ok(Rendered {
                head: Bytes::from_static(b"{"),
                etag: String::new(),
                oldest_ms: None,
                seen_ms: None,
                is_partial: false,
            })
        };
        Box::pin(computing) as _
    };
    let digest = |place: u8| {
        let mut digest = [place; 32];
        digest[..8].copy_from_slice(&panel.to_le_bytes());
        digest
    };
    CacheRequest {
        scope: Scope::for_test("p"),
        plan,
        name: format!("panel {panel}, the last day").into(),
        fallback: FallbackKeys { span: digest(0), shorter: digest(1), start: digest(2) },
        within: Duration::from_secs(10),
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
        compute: Arc::new(compute),
        renew: Arc::new(move |now_ms| Some(request(panel, now_ms, Arc::clone(&computed), Arc::clone(&fails)))),
        asked: None,
    }
}

fn day(from: i64, to: i64) -> Plan {
    Plan::Daily(crate::plan::DailyPlan {
        date: String::new(),
        zone: crate::time::Zone::utc(),
        rollup: tallyhouse_schema::Rollup::Minute,
        previous_from: from,
        previous_to: from,
        previous_rollup: tallyhouse_schema::Rollup::Minute,
        from,
        to,
        complete: false,
    })
}

/// A question whose computation takes so long, and that many times it was begun.
fn slow(takes: Duration, begun: &Arc<AtomicU64>) -> CacheRequest {
    let begun = Arc::clone(begun);
    let compute = move |_, deadline| {
        begun.fetch_add(1, Ordering::SeqCst);
        let computing = async move {
            tokio::time::timeout_at(deadline, tokio::time::sleep(takes)).await.map_err(|_| ReadError::TimedOut)?;
            Ok(Rendered {
                head: Bytes::from_static(b"{"),
                etag: String::new(),
                oldest_ms: None,
                seen_ms: None,
                is_partial: false,
            })
        };
        Box::pin(computing) as _
    };
    let asked = request(0, 1_000 * HOUR_MS, Arc::default(), Arc::default());
    CacheRequest { compute: Arc::new(compute), ..asked }
}

/// The same, by somebody who has so much time left.
fn with_left(request: &CacheRequest, left: Duration) -> CacheRequest {
    CacheRequest { deadline: tokio::time::Instant::now() + left, ..request.clone() }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_request_has_time() {
    const SECOND: Duration = Duration::from_secs(1);
    let (all, begun) = (Panels::new(), Arc::default());
    let asked = slow(20 * SECOND, &begun);
    let began = tokio::time::Instant::now();
    let late = with_left(&asked, 3 * SECOND);
    let joined = async {
        tokio::time::sleep(SECOND).await;
        let outcome = all.answers.get(&with_left(&asked, SECOND)).await.map(drop);
        (outcome, began.elapsed())
    };
    let (first, (second, second_took)) = tokio::join!(all.answers.get(&late), joined);
    assert_eq!((first.map(drop), began.elapsed()), (Err(ReadError::TimedOut), 3 * SECOND));
    // The computation would have gone on for another second.
    assert!(matches!(second, Err(ReadError::OutOfTime { .. })), "{second:?}");
    assert_eq!((second_took, begun.load(Ordering::SeqCst)), (2 * SECOND + Duration::from_millis(500), 1));
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_the_request_that_it_joined_tries_once_more() {
    const SECOND: Duration = Duration::from_secs(1);
    let (all, begun) = (Panels::new(), Arc::default());
    let asked = slow(4 * SECOND, &begun);
    let hurried = with_left(&asked, 2 * SECOND);
    let joined = async {
        tokio::time::sleep(SECOND).await;
        all.answers.get(&with_left(&asked, 10 * SECOND)).await.map(|(_, status)| status)
    };
    let (first, second) = tokio::join!(all.answers.get(&hurried), joined);
    assert_eq!(first.map(drop), Err(ReadError::TimedOut));
    assert_eq!((second, begun.load(Ordering::SeqCst)), (Ok(CacheStatus::Miss), 2));
}

#[tokio::test(start_paused = true)]
async fn a_herd_that_asks_for_a_fresh_answer_costs_one_computation() {
    let (all, begun) = (Panels::new(), Arc::default());
    let asked = with_left(&slow(Duration::from_secs(1), &begun), Duration::from_secs(10));
    assert_eq!(all.answers.get(&asked).await.unwrap().1, CacheStatus::Miss);
    let herd = futures_util::future::join_all((0..100).map(|_| all.answers.fresh(&asked))).await;
    let statuses: Vec<_> = herd.into_iter().map(|answer| answer.unwrap().1).collect();
    let computed = statuses.iter().filter(|status| **status == CacheStatus::Miss).count();
    let joined = statuses.iter().filter(|status| **status == CacheStatus::Coalesced).count();
    assert_eq!((computed, joined, begun.load(Ordering::SeqCst)), (1, 99, 2));
}

#[tokio::test]
async fn a_panel_that_is_refreshed_once_or_twice_a_minute_hits() {
    for (panels, every_s, least) in [(1, 60, 90), (1, 30, 95), (100, 60, 85), (100, 30, 90)] {
        let all = Panels::new();
        let hits = all.hits(panels, every_s).await;
        let asked = panels * 1_800 / every_s as u64;
        let computed = all.computed.load(Ordering::SeqCst);
        eprintln!("{panels} panels, each {every_s} s: {hits} of 100 answers hit, {computed} computed for {asked}");
        assert!(hits >= least, "{panels} panels, each {every_s} s: {hits} %");
        // The shortest time is five sixths of the panel's.
        assert!(computed <= asked * 6 / 5, "{computed} computed for {asked}");
    }
}

#[tokio::test]
async fn answers_of_a_hundred_panels_that_were_loaded_together_end_apart() {
    let all = Panels::new();
    for panel in 0..100 {
        assert_eq!(all.ask(panel).await, CacheStatus::Miss);
    }
    let loaded_ms = all.now_ms();
    let mut ended: Vec<i64> = Vec::new();
    for panel in 0..100 {
        let request = all.request(panel);
        let (cached, _) = all.answers.get(&request).await.unwrap();
        ended.push(cached.ends.end_ms - loaded_ms);
    }
    ended.sort_unstable();
    let (first, last) = (ended[0], ended[99]);
    assert!(first >= 50_000 && last <= 70_000 && last - first >= 18_000, "{first} {last}");
    let busiest = (50..=70).map(|second| ended.iter().filter(|end| **end / 1_000 == second).count()).max().unwrap();
    eprintln!("100 panels end over {} s, at most {busiest} within one", (last - first) / 1_000);
    assert!(busiest <= 15, "{busiest} within a second");
    // At the turn of the minute they are the same questions.
    all.now_ms.fetch_add(45_000, Ordering::SeqCst);
    assert_eq!(all.ask(7).await, CacheStatus::Hit);
}

#[tokio::test]
async fn beyond_its_time_an_answer_is_given_only_while_there_is_no_other_and_says_why_as_long_as_that_lasts() {
    let all = Panels::new();
    assert_eq!(all.ask(1).await, CacheStatus::Miss);
    all.now_ms.fetch_add(71_000, Ordering::SeqCst);
    assert_eq!(all.ask(1).await, CacheStatus::Miss, "nobody looked for it, nobody is given it");
    all.fails.store(1, Ordering::SeqCst);
    for _ in 0..30 {
        all.now_ms.fetch_add(71_000, Ordering::SeqCst);
        assert_eq!(all.ask(1).await, CacheStatus::Stale(StaleReason::Unavailable));
    }
    all.fails.store(0, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    while all.ask(1).await != CacheStatus::Hit {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is computed again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
