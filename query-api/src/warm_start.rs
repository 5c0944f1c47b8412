//! Writes down which questions are hot, and asks them again at the start, so that readers do not find an empty cache: after a failover into
//! another region, which has the tables and not the Redis of the first, or after the loss of Redis.
//!
//! ```text
//! start -> ready -> hottest of each project, from ClickHouse -> asked, two at a time, at most for a minute -> memory and Redis
//! every 5 s: hot now, and not written in the last hour -> ClickHouse, at most once a minute
//! ```
//!
//! What Redis still has costs no more than a look. Only questions of dashboards are kept: those of raw events are slow, and their filters may name
//! people. It is no matter for anybody who waits: without ClickHouse, or without a user that may write, nothing of it happens.
//!
//! Failure cases: a question of a newer version, of a project that is gone or of a metric that changed is passed over; ClickHouse that does not
//! answer ends the warming, and writing is tried again a minute later.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use tallyhouse_control::Control;
use tallyhouse_control::hot_questions::{self, HotQuestion};
use tallyhouse_service::health::Health;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::asked::Asked;
use crate::authorize::Scope;
use crate::serve::{App, Asking, Question, serve};
use crate::telemetry::Refresh;

const WARM_WITHIN: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two inserts of one process.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// After so long a question that is still hot is written again.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);
/// Questions of one project that are written.
const PER_PROJECT: usize = 32;

/// Keeps hot questions, and asks them.
pub struct WarmStart {
    pub app: Arc<App>,
    pub control: Control,
    pub health: Health,
}

impl WarmStart {
    /// Until `stopped`.
    pub async fn keep(self, stopped: CancellationToken) {
        let keeping = async {
            self.warm().await;
            self.write_what_is_hot().await;
        };
        stopped.run_until_cancelled(keeping).await.unwrap_or(());
    }

    async fn warm(&self) {
        let Some(store) = self.control.store() else { return };
        while !self.health.is_ready() {
            sleep(READY_POLL).await;
        }
        let hottest = match hot_questions::hottest(store).await {
            Ok(hottest) => hottest,
            Err(error) => return tracing::info!(%error, "no hot questions are asked at this start"),
        };
        let (began, snapshot) = (Instant::now(), self.control.snapshot());
        let there = hottest.into_iter().filter(|hot| snapshot.has_project(&hot.project));
        let queue = Mutex::new(there.collect::<VecDeque<_>>());
        let (asked, answered) = (AtomicU32::new(0), AtomicU32::new(0));
        let worker = || async {
            while let Some(hot) = next(&queue) {
                asked.fetch_add(1, Ordering::Relaxed);
                answered.fetch_add(u32::from(self.ask(hot).await), Ordering::Relaxed);
            }
        };
        // Two: ClickHouse is for those who wait.
        let is_over = Box::pin(timeout(WARM_WITHIN, async { tokio::join!(worker(), worker()) })).await.is_err();
        let (asked, answered) = (asked.into_inner(), answered.into_inner());
        if asked > 0 {
            tracing::info!(asked, answered, is_over, took_ms = began.elapsed().as_millis(), "hot questions were asked");
        }
    }

    async fn ask(&self, HotQuestion { project, question, .. }: HotQuestion) -> bool {
        let Some(asked) = Asked::read(&question) else { return false };
        let (question, raw) = Question::again(&asked);
        let headers = HeaderMap::new();
        let asking = Asking { scope: Scope::of_nobody(&project), headers: &headers, raw, came: Instant::now() };
        let is_answered = serve(&self.app, question, asking).await.is_ok();
        self.app.answers.metrics.cache.refreshed(Refresh::Start, is_answered);
        is_answered
    }

    /// Never ends.
    async fn write_what_is_hot(&self) {
        let Some(store) = self.control.store().filter(|store| store.can_write()) else { return };
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut written, mut tried): (HashMap<HotQuestion, Instant>, Option<Instant>) = (HashMap::new(), None);
        loop {
            look.tick().await;
            if tried.is_some_and(|tried| tried.elapsed() < WRITE_EVERY) {
                continue;
            }
            written.retain(|_, at| at.elapsed() < AGAIN_AFTER);
            let mut due = due(self.app.answers.hot_keys.questions((self.app.clock)()), &written);
            if due.is_empty() {
                continue;
            }
            tried = Some(Instant::now());
            // A failure is in the log; those are hot the next time too.
            if hot_questions::write(store, &due).await.is_ok() {
                due.iter_mut().for_each(|hot| hot.hits = 0);
                written.extend(due.into_iter().map(|hot| (hot, Instant::now())));
            }
        }
    }
}

fn next(queue: &Mutex<VecDeque<HotQuestion>>) -> Option<HotQuestion> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// What is to be written: the hottest of each project that were not written lately.
fn due(hot: Vec<HotQuestion>, written: &HashMap<HotQuestion, Instant>) -> Vec<HotQuestion> {
    let mut of_project: HashMap<String, usize> = HashMap::new();
    let is_of_the_hottest = |hot: &HotQuestion| {
        let count = of_project.entry(hot.project.clone()).or_default();
        *count += 1;
        *count <= PER_PROJECT
    };
    let is_new = |hot: &HotQuestion| !written.contains_key(&HotQuestion { hits: 0, ..hot.clone() });
    hot.into_iter().filter(is_of_the_hottest).filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot(project: &str, number: usize) -> HotQuestion {
        HotQuestion { project: project.to_owned(), question: number.to_string(), hits: number as u32 + 4 }
    }

    #[test]
    fn the_hottest_of_each_project_are_written_and_not_again_at_once() {
        let asked: Vec<HotQuestion> =
            (0..2 * PER_PROJECT).flat_map(|number| [hot("loud", number), hot("quiet", number)]).take(70).collect();
        let first = due(asked.clone(), &HashMap::new());
        assert_eq!(first.iter().filter(|hot| hot.project == "loud").count(), PER_PROJECT);
        assert_eq!(first.iter().filter(|hot| hot.project == "quiet").count(), PER_PROJECT);
        let written =
            first.into_iter().map(|hot| (HotQuestion { hits: 0, ..hot }, Instant::now())).collect::<HashMap<_, _>>();
        assert_eq!(due(asked.into_iter().map(|hot| HotQuestion { hits: 99, ..hot }).collect(), &written), []);
    }
}
