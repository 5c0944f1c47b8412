//! An open loop of questions: each is asked when it is due, whether or not earlier ones were answered, and its latency counts
//! from then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::DegradeError;
use crate::bench::quantiles::{Latencies, Quantiles};
use tallyhouse_service::http_client::{HttpError, Reply};

/// How fast, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) per_second: u32,
    pub(super) lasts: Duration,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of what was answered with 2xx.
    latencies: Latencies,
    ends: BTreeMap<String, u64>,
}

/// The same, summed up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answered {
    /// Of what was answered with 2xx, from the instant at which it was due.
    pub latency: Quantiles,
    /// How many ended how: `200 MISS`, `503`, `no answer`.
    pub ends: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, took: Duration, answer: &Result<Reply, HttpError>) {
        let end = match answer {
            Ok(reply) => {
                if reply.status.is_success() {
                    self.latencies.add(took);
                }
                let cache = reply.headers.get("x-cache").and_then(|value| value.to_str().ok()).unwrap_or_default();
                format!("{} {cache}", reply.status.as_u16()).trim_end().to_owned()
            }
            Err(_) => "no answer".to_owned(),
        };
        *self.ends.entry(end).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
    }

    pub(super) fn answered(self) -> Answered {
        Answered { latency: self.latencies.quantiles(), ends: self.ends }
    }
}

impl Answered {
    /// How many ended so.
    pub fn count(&self, end: &str) -> u64 {
        self.ends.get(end).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.ends.values().sum()
    }

    /// How many ended how, for people.
    pub fn ends(&self) -> String {
        self.ends.iter().map(|(end, count)| format!("{count} x {end}")).collect::<Vec<_>>().join(", ")
    }
}

/// Asks at this pace; `ask` is given the number of the question.
pub(super) async fn run<F>(pace: Pace, ask: impl Fn(u64) -> F) -> Result<Tally, DegradeError>
where
    F: Future<Output = Result<Reply, HttpError>> + Send + 'static,
{
    let gap = Duration::from_secs(1) / pace.per_second.max(1);
    let count = (pace.lasts.as_secs_f64() / gap.as_secs_f64()) as u64;
    let (start, mut asked) = (Instant::now(), JoinSet::new());
    for number in 0..count {
        let due = start + gap.mul_f64(number as f64);
        sleep_until(due).await;
        let answer = ask(number);
        asked.spawn(async move {
            let answer = answer.await;
            (due.elapsed(), answer)
        });
    }
    let mut tally = Tally::default();
    while let Some(answered) = asked.join_next().await {
        let (took, answer) = answered.map_err(|error| DegradeError::Worthless(error.to_string()))?;
        tally.add(took, &answer);
    }
    Ok(tally)
}

/// Gives each question its turn on one of two things.
pub(super) fn either<T>(both: &[Arc<T>; 2], number: u64) -> Arc<T> {
    let [one, other] = both;
    Arc::clone(if number.is_multiple_of(2) { one } else { other })
}
