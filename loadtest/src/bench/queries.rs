//! Measures reads: the same query again and again (cached), and queries that were never asked before (uncached).

use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Instant;

use super::BenchError;
use super::quantiles::{Latencies, Quantiles};
use crate::development::QUERY_KEY;
use tallyhouse_service::http_client::{Endpoint, escape};

/// Readers at a time.
const READERS: usize = 2;

/// Latencies of reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Queries {
    /// Answered from the cache.
    pub cached: Quantiles,
    /// Answered by ClickHouse.
    pub uncached: Quantiles,
}

/// Measures both over `GET /v1/metrics/…`; which one an answer was is what its `X-Cache` says, not what was intended.
pub async fn measure(url: &str, lasts: Duration) -> Result<Queries, BenchError> {
    let now = Timestamp::now();
    let same = path(now, 0);
    let cached = read(url, lasts, |_| same.clone()).await?;
    let uncached = read(url, lasts, |index| path(now, index + 1)).await?;
    enough("cached", &cached.hits, &cached.misses)?;
    enough("uncached", &uncached.misses, &uncached.hits)?;
    Ok(Queries { cached: cached.hits.quantiles(), uncached: uncached.misses.quantiles() })
}

struct Reads {
    hits: Latencies,
    misses: Latencies,
}

async fn read(url: &str, lasts: Duration, path: impl Fn(usize) -> String) -> Result<Reads, BenchError> {
    let until = Instant::now() + lasts;
    let reader = async |number: usize| {
        let endpoint = Endpoint::new(url, Duration::from_secs(30))?.api_key(QUERY_KEY)?;
        let mut reads = Reads { hits: Latencies::new(), misses: Latencies::new() };
        let mut asked = number;
        while Instant::now() < until {
            let path = path(asked);
            asked += READERS;
            let sent = Instant::now();
            let reply = endpoint.get(&path).await?;
            if !reply.status.is_success() {
                return Err(BenchError::Worthless(format!("{path} answered {}: {}", reply.status, reply.excerpt())));
            }
            match reply.headers.get("x-cache").and_then(|value| value.to_str().ok()) {
                Some("HIT" | "STALE") => reads.hits.add(sent.elapsed()),
                _ => reads.misses.add(sent.elapsed()),
            }
        }
        Ok(reads)
    };
    let parts = try_join_all((0..READERS).map(reader)).await?;
    let mut total = Reads { hits: Latencies::new(), misses: Latencies::new() };
    for part in &parts {
        total.hits.merge(&part.hits);
        total.misses.merge(&part.misses);
    }
    Ok(total)
}

/// Seven days by hour and country; every `index` is another question, because its range begins and ends at other hours.
fn path(now: Timestamp, index: usize) -> String {
    let hours = |hours: i64| SignedDuration::from_hours(hours);
    let end = now.saturating_sub(hours(index as i64 / 400)).unwrap_or(now);
    let start = end.saturating_sub(hours(7 * 24 + index as i64 % 400)).unwrap_or(end);
    let (start, end) = (escape(&start.to_string()), escape(&end.to_string()));
    format!("/v1/metrics/events?startTime={start}&endTime={end}&granularity=hour&groupBy=device")
}

fn enough(what: &str, intended: &Latencies, others: &Latencies) -> Result<(), BenchError> {
    let (intended, others) = (intended.quantiles().count, others.quantiles().count);
    if others * 10 > intended {
        return Err(BenchError::Worthless(format!("{others} answers were not {what}, against {intended} that were")));
    }
    Ok(())
}
