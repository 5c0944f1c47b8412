//! Questions at a steady rate, whatever becomes of them: cached ones, and ones that nobody asked before. Each is asked once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::RollingError;
use crate::development::QUERY_KEY;
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

/// Longer than any class lets an answer take.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// Under way at once; when there are more, the rate drops instead of memory growing.
const UNDER_WAY: usize = 256;

/// What became of all questions.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Those with 2xx.
    pub answered: u64,
    /// Others, by what came instead.
    pub failed: BTreeMap<String, u64>,
    pub slowest: Duration,
}

/// Asks until `stop` is true, then waits for what is under way.
pub(super) async fn run(
    url: String,
    per_second: u32,
    mut stop: watch::Receiver<bool>,
) -> Result<Answers, RollingError> {
    let endpoint = Endpoint::new(&format!("{url}/v1/query"), ANSWER_WITHIN)?
        .api_key(QUERY_KEY)?
        .header(hyper::header::CONTENT_TYPE, "application/json")?;
    let (endpoint, mut answers, mut number) = (Arc::new(endpoint), Answers::default(), 0);
    let mut under_way = JoinSet::new();
    let mut tick = interval(Duration::from_secs(1) / per_second.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => answers.note(done?),
            _ = tick.tick(), if under_way.len() < UNDER_WAY => {
                let endpoint = Arc::clone(&endpoint);
                under_way.spawn(async move {
                    let asked = Instant::now();
                    (ask(&endpoint, number).await, asked.elapsed())
                });
                number += 1;
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        answers.note(done?);
    }
    Ok(answers)
}

async fn ask(endpoint: &Endpoint, number: i64) -> Result<Reply, HttpError> {
    match number % 5 {
        0 => endpoint.get("/v1/metrics/events?granularity=minute").await,
        1 => endpoint.get("/v1/metrics/users?granularity=hour&groupBy=country").await,
        2 => endpoint.get("/v1/dashboards/realtime").await,
        3 => {
            let start = Timestamp::now().as_second() - 7_200 - number * 60;
            endpoint.get(&format!("/v1/metrics/events?granularity=minute&startTime={start}000")).await
        }
        _ => {
            let document = r#"{"metrics":["events"],"date_range":"24h","dimensions":["time:hour","event_type"]}"#;
            endpoint.post(Bytes::from_static(document.as_bytes())).await
        }
    }
}

impl Answers {
    fn note(&mut self, (answer, took): (Result<Reply, HttpError>, Duration)) {
        self.slowest = self.slowest.max(took);
        let failure = match answer {
            Ok(reply) if reply.status.is_success() => {
                self.answered += 1;
                return;
            }
            Ok(reply) => format!("{}: {}", reply.status, reply.excerpt()),
            Err(error) => error.to_string(),
        };
        *self.failed.entry(failure).or_default() += 1;
    }
}
