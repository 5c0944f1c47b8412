//! Measures what TLS costs on connections that stay open: two systems, one plain and one over TLS, that are asked in turn by the same client.
//!
//! The client has its half of the work on the same cores, so what is measured is more than a server pays.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::bench::BenchError;
use crate::bench::machine::{self, Machine};
use crate::certificates::Authority;
use crate::development::{INGEST_KEY, QUERY_KEY};
use crate::system::{Scratch, System};
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

/// Each has one request at a time.
const CONNECTIONS: usize = 8;

/// After the start: ClickHouse comes to rest.
const REST: Duration = Duration::from_secs(5);

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// How long each of the four is loaded in a round.
    pub each: Duration,
    pub rounds: usize,
}

/// Requests per second in each round.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pair {
    pub plain: Vec<f64>,
    pub tls: Vec<f64>,
}

impl Pair {
    /// What TLS takes away, in the middle round.
    fn cost(&self) -> f64 {
        let ratios = self.plain.iter().zip(&self.tls).map(|(plain, tls)| 1.0 - tls / plain);
        middle(ratios.collect())
    }
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub connections: usize,
    /// The same question, answered from the cache.
    pub reads: Pair,
    /// One event a request, acknowledged when it is synced.
    pub events: Pair,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{} connections that stay open\n", self.machine, self.connections)?;
        writeln!(f, "{:>14} {:>14} {:>14} {:>10}", "requests/s", "plain", "TLS 1.3", "TLS costs")?;
        for (what, pair) in [("cached reads", &self.reads), ("single events", &self.events)] {
            let [plain, tls] = [&pair.plain, &pair.tls].map(|all| middle(all.clone()));
            writeln!(f, "{what:>14} {plain:>14.0} {tls:>14.0} {:>8.1} %", 100.0 * pair.cost())?;
        }
        Ok(())
    }
}

/// Measures; `progress` gets each step.
pub async fn run(config: &TlsConfig, progress: impl Fn(&str)) -> Result<Report, BenchError> {
    let scratch = Scratch::create()?;
    let worthless = |error: &dyn fmt::Display| BenchError::Worthless(error.to_string());
    let issued = Authority::new().and_then(|authority| authority.issue(scratch.path(), "server"));
    let issued = issued.map_err(|error| worthless(&error))?;
    let [certificate, key] = [&issued.certificate, &issued.key].map(|path| path.display().to_string());
    progress("starting two systems of its own");
    let plain = System::start(&config.binary).await?;
    let tls = System::start_with(&config.binary, &[("TLS_CERT", &certificate), ("TLS_KEY", &key)]).await?;
    sleep(REST).await;
    let (mut reads, mut events) = (Pair::default(), Pair::default());
    for round in 1..=config.rounds {
        progress(&format!("round {round} of {}", config.rounds));
        reads.plain.push(read(&plain, config.each).await?);
        reads.tls.push(read(&tls, config.each).await?);
        events.plain.push(send(&plain, config.each).await?);
        events.tls.push(send(&tls, config.each).await?);
    }
    plain.stop().await?;
    tls.stop().await?;
    Ok(Report { machine: machine::describe(), connections: CONNECTIONS, reads, events })
}

async fn read(system: &System, lasts: Duration) -> Result<f64, BenchError> {
    let path = "/v1/metrics/events?granularity=hour&groupBy=device";
    let endpoint = || system.endpoint(&system.query_url(), ANSWER_WITHIN)?.api_key(QUERY_KEY);
    load(endpoint, async |endpoint| endpoint.get(path).await, lasts).await
}

async fn send(system: &System, lasts: Duration) -> Result<f64, BenchError> {
    let event = Bytes::from_static(br#"{"eventType":"tls_cost","properties":{"device":"phone","value":1.25}}"#);
    let endpoint =
        || system.endpoint(&format!("{}/v1/events", system.ingest_url()), ANSWER_WITHIN)?.api_key(INGEST_KEY);
    load(endpoint, async |endpoint| endpoint.post(event.clone()).await, lasts).await
}

/// Requests per second, over connections that are there before the time begins.
async fn load(
    endpoint: impl Fn() -> Result<Endpoint, HttpError>,
    ask: impl AsyncFn(&Endpoint) -> Result<Reply, HttpError>,
    lasts: Duration,
) -> Result<f64, BenchError> {
    let endpoints = (0..CONNECTIONS).map(|_| endpoint()).collect::<Result<Vec<_>, _>>()?;
    let answered = async |endpoint: &Endpoint| {
        let reply = ask(endpoint).await?;
        match reply.status.is_success() {
            true => Ok(()),
            false => Err(BenchError::Worthless(format!("answered {}: {}", reply.status, reply.excerpt()))),
        }
    };
    try_join_all(endpoints.iter().map(&answered)).await?;
    let (began, until) = (Instant::now(), Instant::now() + lasts);
    let client = async |endpoint: &Endpoint| {
        let mut count = 0_u32;
        while Instant::now() < until {
            answered(endpoint).await?;
            count += 1;
        }
        Ok::<_, BenchError>(count)
    };
    let counts = try_join_all(endpoints.iter().map(&client)).await?;
    Ok(f64::from(counts.iter().sum::<u32>()) / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_that_of_the_middle_round() {
        let pair = Pair { plain: vec![100.0, 200.0, 100.0], tls: vec![90.0, 100.0, 95.0] };
        assert!((pair.cost() - 0.1).abs() < 1e-9, "{}", pair.cost());
    }
}
