//! The queries: uncached dashboards, and heavy ones.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::connection::Question;
use crate::reads::panels::{self, WEEK};
use tallyhouse_service::http_client::escape;

/// Questions of one run, none of them asked twice.
pub(super) struct Questions {
    now: Timestamp,
    next: AtomicU64,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { now: Timestamp::now(), next: AtomicU64::new(0) }
    }

    /// A panel of a dashboard of seven days by hour; all eight of a dashboard come by turns.
    pub(super) fn panel(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut panels = panels::fresh(WEEK, self.now, number);
        panels.swap_remove(number as usize % panels.len())
    }

    /// What a crowd asks for: one statement in ClickHouse answers it, having no filter whose values may have overflowed. There
    /// are ten.
    pub(super) fn hot_panel(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let event_type = EVENT_TYPES.iter().cycle().nth(number % EVENT_TYPES.len()).copied().unwrap_or_default();
        let start = self.now.saturating_sub(SignedDuration::from_hours(24 * WEEK.days)).unwrap_or(self.now);
        let start = escape(&start.to_string());
        format!("/v1/metrics/events?eventType={event_type}&startTime={start}&granularity={}", WEEK.granularity)
    }

    /// The panels of one dashboard as people ask for them.
    pub(super) fn dashboard(&self) -> Vec<String> {
        panels::series(WEEK, self.now)
    }

    /// An analyst's statement over all events, with a name to find it by.
    pub(super) fn sql(&self) -> (Question, String) {
        let mark = self.mark();
        // Hashing the same again and again, so that it takes seconds however few events there are.
        let sql = format!(
            "SELECT uniqExact(user_hash), sum(arraySum(i -> sipHash64(event_id, i) % 7, range(40))) AS {mark} FROM events"
        );
        (Question::Post { path: "/v1/sql", body: body(&json!({ "sql": sql })) }, mark)
    }

    /// A funnel over all events: raw ones are read.
    pub(super) fn funnel(&self) -> (Question, String) {
        let mark = self.mark();
        let step = |event_type: &str| json!({ "event_type": event_type });
        let steps = ["view", "search", "purchase", &mark].map(step);
        let document = json!({"kind": "funnel", "date_range": "91d", "window": "7d", "order": "ordered", "breakdown": "country", "steps": steps});
        (Question::Post { path: "/v1/query", body: body(&document) }, mark)
    }

    fn mark(&self) -> String {
        format!("mark_{}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Of the events that are made.
const EVENT_TYPES: [&str; 10] =
    ["view", "click", "search", "purchase", "login", "logout", "share", "play", "pause", "error"];

fn body(value: &serde_json::Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_twice() {
        let questions = Questions::new();
        let asked: std::collections::BTreeSet<String> =
            (0..50).flat_map(|_| [questions.panel(), questions.sql().1, questions.funnel().1]).collect();
        assert_eq!(asked.len(), 150);
        let hot: std::collections::BTreeSet<String> = (0..10).map(|_| questions.hot_panel()).collect();
        assert_eq!(hot.len(), 10);
    }
}
