//! Looks at what the write path depends on and at what becomes of its events, for `/health`: also while no event comes, and
//! when something hangs instead of failing.
//!
//! ```text
//! every 5 s: ClickHouse answers?        -> `clickhouse`
//!            new dead letters?          -> `dead_letters`, until a minute was without
//! ```
//!
//! None of them makes a process unready: events wait in the log, or in Kafka. Kafka is asked by [`crate::kafka`], Redis is told about
//! where changed days are sent.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::health::{Health, Status};
use tallyhouse_sql::clickhouse::Client;
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::Metrics;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whoever does not answer by then hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long dead letters are told after the last one.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// Asks ClickHouse. Never ends.
pub(crate) async fn watch_clickhouse(client: Client, health: Health, shard: u32) {
    let component = if shard == 1 { "clickhouse".to_owned() } else { format!("clickhouse_shard_{shard}") };
    loop {
        // Read to its end: a connection that is dropped before is an error in ClickHouse's log, with a trace.
        let answer = client.query("SELECT 1").fetch_all::<u8>();
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(_)) => health.set(&component, Status::Up, ""),
            Ok(Err(error)) => health.set(&component, Status::Degraded, format!("does not answer: {error}")),
            Err(_) => health.set(&component, Status::Degraded, hangs()),
        }
        sleep(LOOK_EVERY).await;
    }
}

fn hangs() -> String {
    format!("did not answer within {} s", ANSWER_WITHIN.as_secs())
}

/// Counts dead letters. Never ends.
pub(crate) async fn watch_dead_letters(metrics: Arc<Metrics>, health: Health) {
    let mut recent = Recent::new(Totals::of(&metrics));
    loop {
        sleep(LOOK_EVERY).await;
        match recent.look(Totals::of(&metrics), Instant::now()) {
            Some(told) => health.set("dead_letters", Status::Degraded, told),
            None => health.set("dead_letters", Status::Up, ""),
        }
    }
}

/// What was counted since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Totals {
    /// Refused to their senders.
    rejected: u64,
    /// Refused by ClickHouse, or not decodable.
    dead_lettered: u64,
    /// Dead letters that could not be kept.
    dropped: u64,
}

impl Totals {
    fn of(metrics: &Metrics) -> Self {
        Self {
            rejected: metrics.events_rejected(),
            dead_lettered: metrics.events_dead_lettered(),
            dropped: metrics.dead_letters_dropped.get(),
        }
    }
}

/// Dead letters since the last quiet minute.
struct Recent {
    before: Totals,
    latest: Totals,
    changed: Option<Instant>,
}

impl Recent {
    fn new(totals: Totals) -> Self {
        Self { before: totals, latest: totals, changed: None }
    }

    /// What to tell, while there is something.
    fn look(&mut self, totals: Totals, now: Instant) -> Option<String> {
        if totals != self.latest {
            (self.latest, self.changed) = (totals, Some(now));
        } else if self.changed.is_none_or(|changed| now.duration_since(changed) >= TOLD_FOR) {
            (self.before, self.changed) = (totals, None);
        }
        self.changed?;
        let (rejected, dead_lettered, dropped) = (
            totals.rejected - self.before.rejected,
            totals.dead_lettered - self.before.dead_lettered,
            totals.dropped - self.before.dropped,
        );
        Some(format!(
            "{rejected} events were refused to their senders, {dead_lettered} were taken and cannot be stored, \
             {dropped} dead letters could not be kept; see `tallyhouse dlq list`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_told_until_a_minute_was_without() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let rejected = |rejected| Totals { rejected, ..Totals::default() };
        let mut recent = Recent::new(rejected(7));
        assert_eq!(recent.look(rejected(7), at(5)), None);
        assert!(recent.look(rejected(9), at(10)).unwrap().starts_with("2 events"));
        assert!(recent.look(rejected(10), at(40)).unwrap().starts_with("3 events"));
        assert!(recent.look(rejected(10), at(95)).is_some());
        assert_eq!(recent.look(rejected(10), at(100)), None);
        assert!(recent.look(rejected(11), at(300)).unwrap().starts_with("1 events"));
    }
}
