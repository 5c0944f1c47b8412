//! Measures what being watched costs ingestion: two systems that take the same load in turn. One is left alone; the other sends its traces (1 % of what
//! goes well) to a collector here, and its metrics are read every five seconds, three times as often as Prometheus is set to.
//!
//! Metrics are counted in both: that cannot be switched off. The client and the collector are on the same cores, so what is measured is more than a
//! server pays.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tallyhouse_service::http_client::Endpoint;
use tokio::time::sleep;

use crate::bench::bodies::Bodies;
use crate::bench::load::{ClosedLoop, closed_loop, stored_loop, until_stored};
use crate::bench::machine::{self, Machine};
use crate::bench::{BenchError, until_merged};
use crate::collector::Collector;
use crate::system::System;

/// Events of a body.
const BATCH: usize = 100;

const CONNECTIONS: usize = 32;

/// After the start: ClickHouse comes to rest.
const REST: Duration = Duration::from_secs(3);

const SCRAPED_EVERY: Duration = Duration::from_secs(5);

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The share of the throughput that being watched may cost.
const MOST: f64 = 0.03;

#[derive(Debug, Clone)]
pub struct WatchedConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// How long either system is loaded in a round, with batches and with single events.
    pub each: Duration,
    pub rounds: usize,
}

/// Events per second in each round.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pair {
    pub alone: Vec<f64>,
    pub watched: Vec<f64>,
}

impl Pair {
    /// What being watched leaves, in the middle round.
    pub fn ratio(&self) -> f64 {
        middle(self.alone.iter().zip(&self.watched).map(|(alone, watched)| watched / alone).collect())
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
    /// Batches of 100, until they are stored.
    pub batches: Pair,
    /// One event a request, until it is acknowledged.
    pub singles: Pair,
    /// Spans that the collector has, and that were dropped.
    pub spans: usize,
    pub dropped: u64,
}

impl Report {
    /// Whether it costs no more than it may.
    pub fn holds(&self) -> bool {
        self.batches.ratio() >= 1.0 - MOST && self.spans > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{} connections\n", self.machine, self.connections)?;
        writeln!(f, "{:>18} {:>12} {:>12} {:>8}", "events/s", "alone", "watched", "ratio")?;
        for (what, pair) in [("batches of 100", &self.batches), ("single events", &self.singles)] {
            let [alone, watched] = [&pair.alone, &pair.watched].map(|all| middle(all.clone()));
            writeln!(f, "{what:>18} {alone:>12.0} {watched:>12.0} {:>8.3}", pair.ratio())?;
        }
        writeln!(
            f,
            "\nspans: {} recorded, {} dropped; batches may lose {:.0} %",
            self.spans,
            self.dropped,
            100.0 * MOST
        )
    }
}

/// Measures; `progress` gets each step.
pub async fn run(config: &WatchedConfig, progress: impl Fn(&str)) -> Result<Report, BenchError> {
    progress("starting two systems of its own");
    let collector = Collector::start().await.map_err(|error| BenchError::Worthless(error.to_string()))?;
    let alone = System::start(&config.binary).await?;
    let watched = System::start_with(&config.binary, &[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())]).await?;
    let scraping = tokio::spawn(scrape([watched.ingest_admin_url(), watched.query_admin_url()]));
    sleep(REST).await;
    let (mut batches, mut singles) = (Pair::default(), Pair::default());
    let (many, one) = (Bodies::render(BATCH), Bodies::render_single());
    for round in 1..=config.rounds {
        progress(&format!("round {round} of {}", config.rounds));
        // Whoever comes first meets a machine that was at rest: in turn.
        let order = if round % 2 == 1 { [false, true] } else { [true, false] };
        for is_watched in order {
            let system = if is_watched { &watched } else { &alone };
            let at = ClosedLoop { url: system.ingest_url(), connections: CONNECTIONS, lasts: config.each };
            let of_batches = stored_loop(&at, &many).await?.events_per_second;
            until_merged(&system.clickhouse()).await?;
            let of_singles = closed_loop(&at, &one).await?.events_per_second;
            until_stored(&at.url).await?;
            until_merged(&system.clickhouse()).await?;
            let sides = [(&mut batches, of_batches), (&mut singles, of_singles)];
            for (pair, rate) in sides {
                if is_watched { &mut pair.watched } else { &mut pair.alone }.push(rate);
            }
        }
    }
    scraping.abort();
    let dropped = dropped(&watched.ingest_admin_url()).await?;
    alone.stop().await?;
    watched.stop().await?;
    let spans = collector.spans().len();
    Ok(Report { machine: machine::describe(), connections: CONNECTIONS, batches, singles, spans, dropped })
}

/// Reads metrics as Prometheus does.
async fn scrape(ports: [String; 2]) {
    let ports = ports.map(|url| Endpoint::new(&url, ANSWER_WITHIN));
    loop {
        for port in ports.iter().flatten() {
            drop(port.get("/metrics").await);
        }
        sleep(SCRAPED_EVERY).await;
    }
}

async fn dropped(admin: &str) -> Result<u64, BenchError> {
    let reply = Endpoint::new(admin, ANSWER_WITHIN)?.get("/metrics").await?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let series = text.lines().filter(|line| line.starts_with("tallyhouse_trace_spans_dropped_total{"));
    Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_middle_round() {
        let pair = Pair { alone: vec![100.0, 200.0, 100.0], watched: vec![99.0, 150.0, 98.0] };
        assert!((pair.ratio() - 0.98).abs() < 1e-9, "{}", pair.ratio());
    }
}
