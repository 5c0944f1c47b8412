//! Hot keys: which answers were requested most in the last minutes, in a bounded sketch.
//!
//! The counts are estimates. When the sketch is full, a new key replaces the coldest and inherits its count, so that a key that is
//! requested often gets in, and one that was requested once does not keep it out for long. A hit while the sketch is locked is not counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tallyhouse_control::hot_questions::HotQuestion;

use super::Key;
use super::cache_request::CacheRequest;
use crate::admission::Class;

/// Answers that are watched.
const WATCHED: usize = 256;

/// The hottest, which are worth refreshing beforehand. After a restart those of each project count, however hot those of others are.
const HOTTEST: usize = 128;

/// Hits in about the last two minutes from which an answer is hot.
const HOT: u32 = 4;

/// One that was asked for twice within this time is looked at regularly, and hot too: panels are commonly refreshed once a minute.
const REGULAR_MS: i64 = 150_000;

/// Counts are halved so often: older hits fade.
const HALVED_EVERY_MS: i64 = 60_000;

/// What nobody has asked for since is no longer watched.
const FORGOTTEN_AFTER_MS: i64 = 300_000;

/// Watches what is asked for.
#[derive(Default)]
pub struct HotKeys {
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    answers: HashMap<Key, HotEntry>,
    halved_ms: i64,
}

/// An answer that is asked for often.
pub struct HotKey {
    pub key: Key,
    pub request: CacheRequest,
    /// When somebody last asked, in milliseconds since 1970.
    pub last_ms: i64,
}

struct HotEntry {
    request: CacheRequest,
    hits: u32,
    last_ms: i64,
    /// The time before, at least a few seconds earlier: who reloads a page at once does not look regularly.
    before_ms: Option<i64>,
}

/// Between two looks at an answer that are told apart.
const APART_MS: i64 = 5_000;

impl HotEntry {
    fn is_hot(&self) -> bool {
        self.hits >= HOT || self.before_ms.is_some_and(|before| self.last_ms - before < REGULAR_MS)
    }
}

impl HotKeys {
    pub fn touch(&self, key: &Key, request: &CacheRequest, now_ms: i64) {
        let Ok(mut watched) = self.watched.try_lock() else { return };
        let answers = &mut watched.answers;
        if let Some(hot) = answers.get_mut(key) {
            hot.hits = hot.hits.saturating_add(1);
            if now_ms - hot.last_ms >= APART_MS {
                hot.before_ms = Some(hot.last_ms);
            }
            hot.last_ms = now_ms;
            // It is refreshed as it was asked last.
            hot.request = request.clone();
            return;
        }
        let mut hits = 1;
        if answers.len() >= WATCHED
            && let Some((coldest, count)) =
                answers.iter().min_by_key(|(_, hot)| hot.hits).map(|(k, h)| (k.clone(), h.hits))
        {
            answers.remove(&coldest);
            hits = count.saturating_add(1);
        }
        answers.insert(key.clone(), HotEntry { request: request.clone(), hits, last_ms: now_ms, before_ms: None });
    }

    /// The hottest, hottest first.
    pub fn hottest(&self, now_ms: i64) -> Vec<HotKey> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.fade(now_ms);
        let asked = |(key, hot): (&Key, &HotEntry)| HotKey {
            key: key.clone(),
            request: hot.request.clone(),
            last_ms: hot.last_ms,
        };
        watched.hottest().take(HOTTEST).map(asked).collect()
    }

    /// The questions of dashboards among them, hottest first: what is worth asking after a restart.
    pub fn questions(&self, now_ms: i64) -> Vec<HotQuestion> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.fade(now_ms);
        let question = |(key, hot): (&Key, &HotEntry)| {
            let asked = hot.request.asked.as_ref().filter(|_| hot.request.plan.class() == Class::Dashboard)?;
            Some(HotQuestion { project: key.project().to_owned(), question: asked.text()?, hits: hot.hits })
        };
        watched.hottest().filter_map(question).collect()
    }
}

impl Watched {
    fn hottest(&self) -> impl Iterator<Item = (&Key, &HotEntry)> {
        let mut hot: Vec<_> = self.answers.iter().filter(|(_, hot)| hot.is_hot()).collect();
        hot.sort_by_key(|(_, hot)| std::cmp::Reverse(hot.hits));
        hot.into_iter()
    }

    fn fade(&mut self, now_ms: i64) {
        self.answers.retain(|_, hot| now_ms - hot.last_ms < FORGOTTEN_AFTER_MS);
        if now_ms - self.halved_ms >= HALVED_EVERY_MS {
            self.halved_ms = now_ms;
            self.answers.values_mut().for_each(|hot| hot.hits /= 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::asked::Asked;
    use crate::authorize::Scope;
    use crate::cache::cache_request::FallbackKeys;
    use crate::cache::stamp::Generation;
    use crate::plan::{Plan, RealtimePlan};
    use crate::store::ReadError;

    fn request(number: i64) -> (Key, CacheRequest) {
        let plan = Arc::new(Plan::Realtime(RealtimePlan { short_from: number, long_from: 0, to: 0 }));
        let (scope, name) = (Scope::for_test("p"), Arc::from(number.to_string()));
        let key = Key::of(&scope, &name, Generation::Process { all: 0, project: 0 }).unwrap();
        let compute = Arc::new(|_, _| Box::pin(async { Err(ReadError::Failed) }) as _);
        let (fallback, renew) = (FallbackKeys { span: [0; 32], shorter: [1; 32], start: [2; 32] }, Arc::new(|_| None));
        (
            key,
            CacheRequest {
                scope,
                plan,
                name,
                fallback,
                within: Duration::ZERO,
                deadline: tokio::time::Instant::now(),
                compute,
                renew,
                asked: Some(Arc::new(Asked::Daily { params: number.to_string() })),
            },
        )
    }

    /// One of a dashboard.
    fn dashboard(number: i64) -> (Key, CacheRequest) {
        let daily = crate::plan::DailyPlan {
            date: String::new(),
            zone: crate::time::Zone::utc(),
            rollup: tallyhouse_schema::Rollup::Minute,
            previous_from: 0,
            previous_to: 60,
            previous_rollup: tallyhouse_schema::Rollup::Minute,
            from: 60,
            to: 120,
            complete: false,
        };
        let (key, realtime) = request(number);
        (key, CacheRequest { plan: Arc::new(Plan::Daily(daily)), ..realtime })
    }

    fn touch(hot_keys: &HotKeys, number: i64, times: usize) {
        let (key, request) = request(number);
        (0..times).for_each(|_| hot_keys.touch(&key, &request, 60_000));
    }

    #[test]
    fn the_hottest_are_found_among_many_and_first() {
        let hot_keys = HotKeys::default();
        hot_keys.hottest(60_000);
        (0..10).for_each(|number| touch(&hot_keys, number, 100 - number as usize));
        (100..2_000).for_each(|number| touch(&hot_keys, number, 1));
        let found: Vec<_> = hot_keys.hottest(60_000).into_iter().map(|asked| asked.key).collect();
        assert!(found.len() <= HOTTEST);
        assert_eq!(found[..10], (0..10).map(|number| request(number).0).collect::<Vec<_>>());
        assert_eq!(hot_keys.watched.lock().unwrap().answers.len(), WATCHED);
    }

    #[test]
    fn questions_of_dashboards_are_kept_with_their_project() {
        let hot_keys = HotKeys::default();
        let (key, realtime) = request(1);
        (0..9).for_each(|_| hot_keys.touch(&key, &realtime, 60_000));
        assert_eq!(hot_keys.questions(60_000), [], "it is asked for all the time");
        let (_, dashboard) = dashboard(1);
        hot_keys.touch(&key, &dashboard, 60_000);
        let [kept] = &hot_keys.questions(60_000)[..] else { panic!("one question") };
        assert_eq!((&*kept.project, Asked::read(&kept.question).as_ref()), ("p", dashboard.asked.as_deref()));
    }

    #[test]
    fn questions_of_a_quiet_project_are_kept_beside_those_of_a_loud_one() {
        let hot_keys = HotKeys::default();
        hot_keys.hottest(60_000);
        (0..HOTTEST as i64 + 10).for_each(|number| touch(&hot_keys, number, 100));
        let (_, dashboard) = dashboard(1_000);
        let scope = Scope::for_test("quiet");
        let key = Key::of(&scope, &dashboard.name, Generation::Process { all: 0, project: 0 }).unwrap();
        let quiet = CacheRequest { scope, ..dashboard };
        (0..4).for_each(|_| hot_keys.touch(&key, &quiet, 60_000));
        let questions = hot_keys.questions(60_000);
        assert_eq!(questions.iter().map(|kept| &*kept.project).collect::<Vec<_>>(), ["quiet"]);
        assert_eq!(hot_keys.hottest(60_000).len(), HOTTEST);
    }

    #[test]
    fn what_is_looked_at_once_a_minute_is_hot_from_the_second_time_on() {
        let hot_keys = HotKeys::default();
        let (key, request) = request(1);
        let hot = |now_ms| hot_keys.hottest(now_ms).len();
        hot_keys.touch(&key, &request, 0);
        hot_keys.touch(&key, &request, 1_000);
        assert_eq!(hot(1_000), 0, "a page that was loaded again");
        hot_keys.touch(&key, &request, 60_000);
        assert_eq!(hot(100_000), 1);
        hot_keys.touch(&key, &request, 60_000 + REGULAR_MS);
        assert_eq!(hot(60_000 + REGULAR_MS), 0);
    }

    #[test]
    fn heat_fades_and_is_forgotten() {
        let hot_keys = HotKeys::default();
        hot_keys.hottest(60_000);
        touch(&hot_keys, 1, 8);
        assert_eq!([60_000, 120_000, 180_000].map(|now| hot_keys.hottest(now).len()), [1, 1, 0]);
        touch(&hot_keys, 2, 1_000);
        assert_eq!(hot_keys.hottest(60_000 + FORGOTTEN_AFTER_MS).len(), 0);
    }
}
