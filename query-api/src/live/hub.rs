//! The hub: one ticker per question, for as long as it has listeners.
//!
//! A ticker runs in a task of its own. The last listener that leaves cancels it, under the lock, so that nobody joins in between.
//! A ticker that dies removes its question, so that the next listener starts another.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::query::StreamKey;
use super::update::Update;
use crate::telemetry::{Metrics, Running};

/// How many at most, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Listeners, of all projects.
    pub listeners: usize,
    /// Listeners of one project.
    pub listeners_per_project: usize,
    /// Different questions, of all projects: each asks ClickHouse once per interval.
    pub questions: usize,
    /// Different questions of one project.
    pub questions_per_project: usize,
}

/// Why somebody cannot listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The project has too many listeners.
    #[error("this project has {limit} streams open, the most for one project: close one, or come back later")]
    ProjectListeners { limit: usize },
    /// The project listens to too many different questions.
    #[error(
        "this project streams {limit} different questions, the most for one project: listen to one of them, or come back later"
    )]
    ProjectQuestions { limit: usize },
    /// Too many listeners, of all projects.
    #[error("this instance has as many streams open as it can; come back later")]
    Listeners,
    /// Too many questions, of all projects.
    #[error("this instance streams as many different questions as it can; come back later")]
    Questions,
}

impl Full {
    /// As in metrics.
    const fn label(self) -> &'static str {
        match self {
            Self::ProjectListeners { .. } => "project_listeners",
            Self::ProjectQuestions { .. } => "project_questions",
            Self::Listeners => "listeners",
            Self::Questions => "questions",
        }
    }
}

/// What is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    listeners: usize,
    listeners_of_project: usize,
    questions: usize,
    questions_of_project: usize,
}

impl Limits {
    /// Whether one more may listen; to a question that is streamed already, or to a new one.
    fn admit(&self, usage: Usage, question: Question) -> Result<(), Full> {
        if usage.listeners_of_project >= self.listeners_per_project {
            return Err(Full::ProjectListeners { limit: self.listeners_per_project });
        }
        if usage.listeners >= self.listeners {
            return Err(Full::Listeners);
        }
        if question == Question::Known {
            return Ok(());
        }
        if usage.questions_of_project >= self.questions_per_project {
            return Err(Full::ProjectQuestions { limit: self.questions_per_project });
        }
        if usage.questions >= self.questions { Err(Full::Questions) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Known,
    New,
}

/// Tickers by question; clones share them.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    topics: Mutex<HashMap<StreamKey, Topic>>,
    limits: Limits,
    metrics: Metrics,
}

struct Topic {
    /// Never read from, so whoever gets a clone sees the current update as new.
    updates: watch::Receiver<Update>,
    ticker: CancellationToken,
    listeners: usize,
}

/// One who listens, until dropped.
pub struct Listener {
    /// What the ticker knows, newest only.
    pub updates: watch::Receiver<Update>,
    _slot: ListenerSlot,
    _counted: Running,
}

impl Hub {
    /// Nobody listens.
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        Self { inner: Arc::new(Inner { topics: Mutex::default(), limits, metrics }) }
    }

    /// Listens to `key`; the first one starts `tick`.
    pub fn listen<F>(&self, key: StreamKey, tick: impl FnOnce(watch::Sender<Update>) -> F) -> Result<Listener, Full>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut topics = self.lock();
        let question = if topics.contains_key(&key) { Question::Known } else { Question::New };
        if let Err(full) = self.inner.limits.admit(usage(&topics, &key), question) {
            self.inner.metrics.stream_refused(full.label());
            return Err(full);
        }
        let topic = topics.entry(key.clone()).or_insert_with(|| self.start(key.clone(), tick));
        topic.listeners += 1;
        let slot = ListenerSlot { hub: self.clone(), key, ticker: topic.ticker.clone() };
        Ok(Listener { updates: topic.updates.clone(), _slot: slot, _counted: self.inner.metrics.stream_listener() })
    }

    fn start<F>(&self, key: StreamKey, tick: impl FnOnce(watch::Sender<Update>) -> F) -> Topic
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (publish, updates) = watch::channel(Update::default());
        let ticker = CancellationToken::new();
        let on_end = RemoveOnDrop { hub: self.clone(), key, ticker: ticker.clone() };
        let (running, ended, ticking) = (self.inner.metrics.stream_question(), ticker.clone(), tick(publish));
        tokio::spawn(async move {
            let _on_any_end = (on_end, running);
            tokio::select! {
                () = ticking => {}
                () = ended.cancelled() => {}
            }
        });
        Topic { updates, ticker, listeners: 0 }
    }

    /// A poisoned lock guards a map that is whole between any two lines above.
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Topic>> {
        self.inner.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usage(topics: &HashMap<StreamKey, Topic>, key: &StreamKey) -> Usage {
    let mut usage = Usage { questions: topics.len(), ..Usage::default() };
    for (other, topic) in topics {
        usage.listeners += topic.listeners;
        if other.project == key.project {
            usage.listeners_of_project += topic.listeners;
            usage.questions_of_project += 1;
        }
    }
    usage
}

/// A listener's slot. Tickers are told apart by their tokens: a question may have been started anew meanwhile.
struct ListenerSlot {
    hub: Hub,
    key: StreamKey,
    ticker: CancellationToken,
}

impl Drop for ListenerSlot {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        let Some(topic) = topics.get_mut(&self.key).filter(|topic| topic.ticker == self.ticker) else {
            return;
        };
        topic.listeners -= 1;
        if topic.listeners == 0 {
            topics.remove(&self.key);
            self.ticker.cancel();
        }
    }
}

/// Takes the question off the list however its ticker ends.
struct RemoveOnDrop {
    hub: Hub,
    key: StreamKey,
    ticker: CancellationToken,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        if topics.get(&self.key).is_some_and(|topic| topic.ticker == self.ticker) {
            topics.remove(&self.key);
        }
        self.ticker.cancel();
    }
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;
    use tallyhouse_service::metrics::Registry;

    use super::*;
    use crate::authorize::Scope;
    use crate::live::query::STREAM_PARAMS;
    use crate::live::{StreamQuery, update::Failure};
    use crate::plan::{Plan, one_series};
    use crate::request::{MetricQuery, Params, SeriesQuery};

    const LIMITS: Limits = Limits { listeners: 4, listeners_per_project: 3, questions: 3, questions_per_project: 2 };

    fn hub(limits: Limits) -> Hub {
        Hub::new(limits, Metrics::register(&Registry::new()).unwrap())
    }

    fn key(project: &str, interval: u32) -> StreamKey {
        let raw = format!("interval={interval}");
        let params = Params::parse(Some(&raw), STREAM_PARAMS).unwrap();
        let series = SeriesQuery::BuiltIn(MetricQuery::parse("events", &params, &Vec::new, 0).unwrap());
        let query = StreamQuery::of(series, &params).unwrap();
        let plan = one_series(&query.series, &Catalogue::built_in().unwrap(), 0).unwrap();
        query.key(&Scope::for_test(project), &Plan::from(plan)).unwrap()
    }

    fn failed(code: &'static str) -> Update {
        Update::default().after(Err(Failure { code, message: String::new() }))
    }

    /// Publishes once and never ends.
    async fn idle(publish: watch::Sender<Update>) {
        publish.send_replace(failed("first"));
        std::future::pending().await
    }

    fn questions(hub: &Hub) -> usize {
        hub.lock().len()
    }

    #[tokio::test]
    async fn all_listeners_share_one_ticker_and_late_ones_see_its_state_at_once() {
        let hub = hub(LIMITS);
        let mut first = hub.listen(key("p", 1), idle).unwrap_or_else(|full| panic!("{full}"));
        first.updates.changed().await.unwrap();
        let none = |_| -> std::future::Ready<()> { panic!("a second ticker") };
        let mut late = hub.listen(key("p", 1), none).unwrap_or_else(|full| panic!("{full}"));
        late.updates.changed().await.unwrap();
        assert!(matches!(&*late.updates.borrow(), Update::Failed { .. }));
        assert_eq!(questions(&hub), 1);
    }

    #[tokio::test]
    async fn the_ticker_ends_with_its_last_listener_and_not_before() {
        let hub = hub(LIMITS);
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let tick = |publish: watch::Sender<Update>| async move {
            let _alive = alive;
            idle(publish).await;
        };
        let first = hub.listen(key("p", 1), tick).unwrap_or_else(|full| panic!("{full}"));
        let second = hub.listen(key("p", 1), idle).unwrap_or_else(|full| panic!("{full}"));
        drop(first);
        assert_eq!(questions(&hub), 1);
        drop(second);
        assert_eq!(questions(&hub), 0);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("the ticker ends");
        assert!(ended.is_err(), "it was dropped");
    }

    #[tokio::test]
    async fn a_ticker_that_dies_is_replaced_and_its_listeners_do_not_disturb_the_new_one() {
        let hub = hub(LIMITS);
        let dying = |publish: watch::Sender<Update>| async move { drop(publish) };
        let mut old = hub.listen(key("p", 1), dying).unwrap_or_else(|full| panic!("{full}"));
        assert!(old.updates.changed().await.is_err());
        while questions(&hub) > 0 {
            tokio::task::yield_now().await;
        }
        let mut new = hub.listen(key("p", 1), idle).unwrap_or_else(|full| panic!("{full}"));
        drop(old);
        assert_eq!(questions(&hub), 1);
        new.updates.changed().await.unwrap();
    }

    #[tokio::test]
    async fn every_limit_is_kept_and_given_back() {
        let hub = hub(LIMITS);
        let listen = |project: &str, interval| hub.listen(key(project, interval), idle);
        let mut open = vec![listen("p", 1), listen("p", 2)];
        assert_eq!(listen("p", 3).err(), Some(Full::ProjectQuestions { limit: 2 }));
        open.push(listen("p", 1));
        assert_eq!(listen("p", 1).err(), Some(Full::ProjectListeners { limit: 3 }));
        open.push(listen("q", 1));
        assert_eq!(listen("q", 1).err(), Some(Full::Listeners));
        assert!(open.iter().all(Result::is_ok));
        open.clear();
        assert!(listen("p", 3).is_ok());
    }

    #[test]
    fn questions_are_limited_over_all_projects() {
        let usage = Usage { questions: 3, ..Usage::default() };
        assert_eq!(LIMITS.admit(usage, Question::New), Err(Full::Questions));
        assert_eq!(LIMITS.admit(usage, Question::Known), Ok(()));
    }
}
