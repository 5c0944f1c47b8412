//! Load on `POST /v1/events`: a closed loop for throughput, an open loop for latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::BenchError;
use super::bodies::Bodies;
use super::quantiles::{Latencies, Quantiles};
use crate::development::INGEST_KEY;
use tallyhouse_service::http_client::{Endpoint, HttpError};

/// Every connection sends its next body when the last was answered.
#[derive(Debug, Clone)]
pub struct ClosedLoop {
    pub url: String,
    pub connections: usize,
    /// For how long.
    pub lasts: Duration,
}

/// How long what a log has at the end of a closed loop may take to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(300);

/// Bodies are sent at fixed instants, whether or not earlier ones were answered.
#[derive(Debug, Clone)]
pub struct OpenLoop {
    pub url: String,
    /// Connections: the most requests under way. A request that finds none free is late, and its latency says so.
    pub connections: usize,
    /// The rate.
    pub requests_per_second: f64,
    /// For how long.
    pub lasts: Duration,
}

/// Events that were acknowledged in a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// Events per second: acknowledged ones, or stored ones with [`stored_loop`].
    pub events_per_second: f64,
    /// Acknowledged requests.
    pub requests: u64,
    /// Requests that were handed back with 429 or 503, not counted above.
    pub handed_back: u64,
    /// Time to acknowledge under this load.
    pub acks: Quantiles,
}

#[derive(Default)]
struct Tally {
    acks: Latencies,
    requests: u64,
    handed_back: u64,
}

/// Runs a closed loop.
pub async fn closed_loop(config: &ClosedLoop, bodies: &Bodies) -> Result<Throughput, BenchError> {
    let started = Instant::now();
    let until = started + config.lasts;
    let worker = async || {
        let endpoint = endpoint(&config.url)?;
        let mut tally = Tally::default();
        while Instant::now() < until {
            let sent = Instant::now();
            if acknowledged(&endpoint, bodies, &mut tally).await? {
                tally.acks.add(sent.elapsed());
            }
        }
        Ok::<_, BenchError>(tally)
    };
    let tallies = try_join_all((0..config.connections).map(|_| worker())).await?;
    Ok(throughput(&tallies, bodies.events(), started.elapsed()))
}

/// Runs a closed loop, until all that was acknowledged is stored: an acknowledgement alone says what the log takes.
pub async fn stored_loop(config: &ClosedLoop, bodies: &Bodies) -> Result<Throughput, BenchError> {
    let started = Instant::now();
    let taken = closed_loop(config, bodies).await?;
    until_stored(&config.url).await?;
    let events = taken.requests * bodies.events() as u64;
    Ok(Throughput { events_per_second: events as f64 / started.elapsed().as_secs_f64(), ..taken })
}

/// Waits until one more event is stored, and so all that was sent before to the log of the same process.
pub async fn until_stored(url: &str) -> Result<(), BenchError> {
    let endpoint = endpoint(url)?;
    let event = format!(r#"{{"eventId":"last-{}","eventType":"bench_last"}}"#, Timestamp::now().as_nanosecond());
    let deadline = Instant::now() + STORED_WITHIN;
    while Instant::now() < deadline {
        // Answered when it is stored, or handed back when that takes too long.
        if endpoint.post_with("wait=stored", event.clone().into()).await?.status == StatusCode::OK {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(BenchError::Worthless(format!("what was acknowledged was not stored within {STORED_WITHIN:?}")))
}

/// Runs an open loop. Latency counts from the instant at which a request was due, so that a stall is felt by every
/// request that fell due in it, not only by the one that was under way.
pub async fn open_loop(config: &OpenLoop, bodies: &Bodies) -> Result<Quantiles, BenchError> {
    let schedule = Arc::new(Schedule::new(config));
    let worker = async || {
        let endpoint = endpoint(&config.url)?;
        let mut tally = Tally::default();
        while let Some(due) = schedule.next() {
            sleep_until(due).await;
            if acknowledged(&endpoint, bodies, &mut tally).await? {
                tally.acks.add(due.elapsed());
            }
        }
        Ok::<_, BenchError>(tally)
    };
    let tallies = try_join_all((0..config.connections).map(|_| worker())).await?;
    let total = throughput(&tallies, bodies.events(), config.lasts);
    if total.handed_back * 100 > total.requests {
        return Err(BenchError::Worthless(format!(
            "{} of {} requests were handed back at half load",
            total.handed_back, total.requests
        )));
    }
    Ok(total.acks)
}

/// The instants at which requests are due; each is given out once.
struct Schedule {
    start: Instant,
    gap: Duration,
    count: u64,
    given: AtomicU64,
}

impl Schedule {
    fn new(config: &OpenLoop) -> Self {
        let gap = Duration::from_secs_f64(1.0 / config.requests_per_second.max(0.1));
        let count = (config.lasts.as_secs_f64() / gap.as_secs_f64()) as u64;
        Self { start: Instant::now(), gap, count, given: AtomicU64::new(0) }
    }

    fn next(&self) -> Option<Instant> {
        let index = self.given.fetch_add(1, Ordering::Relaxed);
        (index < self.count).then(|| self.start + self.gap.mul_f64(index as f64))
    }
}

fn endpoint(url: &str) -> Result<Endpoint, HttpError> {
    Endpoint::new(&format!("{url}/v1/events"), Duration::from_secs(30))?
        .api_key(INGEST_KEY)?
        .header(CONTENT_TYPE, "application/json")
}

async fn acknowledged(endpoint: &Endpoint, bodies: &Bodies, tally: &mut Tally) -> Result<bool, BenchError> {
    let reply = endpoint.post(bodies.next()).await?;
    match reply.status {
        StatusCode::OK | StatusCode::ACCEPTED => {
            tally.requests += 1;
            Ok(true)
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            tally.handed_back += 1;
            // A client that came back at once would only measure refusals.
            tokio::time::sleep(reply.retry_after().unwrap_or(Duration::from_millis(100)).min(Duration::from_secs(1)))
                .await;
            Ok(false)
        }
        status => Err(BenchError::Worthless(format!("POST /v1/events answered {status}: {}", reply.excerpt()))),
    }
}

fn throughput(tallies: &[Tally], events: usize, took: Duration) -> Throughput {
    let mut acks = Latencies::new();
    tallies.iter().for_each(|tally| acks.merge(&tally.acks));
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    Throughput {
        events_per_second: (requests * events as u64) as f64 / took.as_secs_f64(),
        requests,
        handed_back: tallies.iter().map(|tally| tally.handed_back).sum(),
        acks: acks.quantiles(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_even_and_ends() {
        let config =
            OpenLoop { url: String::new(), connections: 1, requests_per_second: 200.0, lasts: Duration::from_secs(1) };
        let schedule = Schedule::new(&config);
        let due: Vec<Instant> = std::iter::from_fn(|| schedule.next()).collect();
        assert_eq!(due.len(), 200);
        assert_eq!(due[100] - due[0], Duration::from_millis(500));
    }
}
