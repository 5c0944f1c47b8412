//! Measures dashboards over many events: uncached, also over ten times the data, and cached under load.
//!
//! ```text
//! start -> a tenth of the events -> uncached dashboards -> stop
//! start -> all of the events     -> uncached dashboards -> the same ones, cached -> stop
//! ```
//!
//! A system for each: events come in the order of their time, as they do, so that an hour lies in as many parts as it would.

pub mod generate;
pub mod panels;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::Method;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::bench::machine::{self, Machine};
use crate::bench::quantiles::{Latencies, Quantiles};
use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::development::{PROJECT, QUERY_KEY};
use crate::system::{System, SystemError};
use generate::Arrivals;
use panels::{Panel, QUARTER, Range, WEEK};
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

/// How long merges may take after the last event.
const MERGED_WITHIN: Duration = Duration::from_secs(180);

/// How long there are none once they are over: ClickHouse looks for others every few seconds.
const QUIET_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct ReadsConfig {
    /// `tallyhouse`.
    pub binary: PathBuf,
    /// Events; a tenth of them is measured first.
    pub events: u64,
    /// Inserts that those of the last day come in.
    pub of_last_day: u64,
    /// Dashboards that are asked for, per range.
    pub dashboards: u64,
    /// Connections that ask for cached answers.
    pub connections: usize,
    /// How long they do.
    pub lasts: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadsError {
    /// The system did not start or stop.
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// A URL or a key.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Answers that make a measurement worthless.
    #[error("{0}")]
    Worthless(String),
}

/// Uncached dashboards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Uncached {
    /// Each panel by itself.
    pub panel: Quantiles,
    /// All eight asked for at once, until the last one is there.
    pub dashboard: Quantiles,
    /// The dearest panel, which is none of the eight.
    pub dearest: Quantiles,
}

/// Both ranges over so many events.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Size {
    /// Raw events.
    pub events: u64,
    /// Parts of the hourly rollup that hold some of the last week: each is a piece of work for every question about it.
    pub parts: u64,
    /// Seven days by hour.
    pub week: Uncached,
    /// Ninety days by day.
    pub quarter: Uncached,
}

/// Cached answers under load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cached {
    pub connections: usize,
    /// Answers a second.
    pub per_second: f64,
    /// Of these not from the cache.
    pub misses: u64,
    /// Latency.
    pub latency: Quantiles,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Inserts of the last day's events.
    pub of_last_day: u64,
    /// The tenth, and all.
    pub sizes: [Size; 2],
    /// Cached.
    pub cached: Cached,
}

/// Measures everything; `progress` gets each step.
pub async fn run(config: &ReadsConfig, progress: impl Fn(&str)) -> Result<Report, ReadsError> {
    let (few, system) = sized(config, config.events / 10, &progress).await?;
    system.stop().await?;
    let (many, system) = sized(config, config.events, &progress).await?;
    progress("cached dashboards");
    let cached = cached(config, &system.query_url()).await?;
    system.stop().await?;
    Ok(Report { machine: machine::describe(), of_last_day: config.of_last_day, sizes: [few, many], cached })
}

/// A system with so many events, which is left running.
async fn sized(config: &ReadsConfig, events: u64, progress: &impl Fn(&str)) -> Result<(Size, System), ReadsError> {
    progress("starting a system of its own");
    // Nothing is to be read but what is asked for.
    let system = System::start_with(&config.binary, &[("QUERY_CACHE_WARM", "off")]).await?;
    let clickhouse = ClickHouse::with_timeout(&system.clickhouse(), generate::TIMEOUT)?;
    let (arrivals, step) = (Arrivals { events, of_last_day: config.of_last_day }, (events / 10).max(1));
    let mut next = step;
    generate::events(&clickhouse, PROJECT, arrivals, |done| {
        if done >= next {
            progress(&format!("{done} events"));
            next = done + step;
        }
    })
    .await?;
    until_merged(&clickhouse).await?;
    progress(&format!("uncached dashboards over {events} events"));
    let asked = Asked::of(&system)?;
    let week = asked.uncached(WEEK, config.dashboards).await?;
    let quarter = asked.uncached(QUARTER, config.dashboards).await?;
    Ok((Size { events, parts: parts(&clickhouse).await?, week, quarter }, system))
}

/// Parts of the hourly rollup that hold some of the last week.
async fn parts(clickhouse: &ClickHouse) -> Result<u64, ReadsError> {
    let counted: Vec<(u64,)> = clickhouse
        .rows(
            "SELECT count() FROM system.parts WHERE active AND database = 'tallyhouse' AND table = 'rollup_1h' \
             AND name IN (SELECT DISTINCT _part FROM tallyhouse.rollup_1h WHERE bucket > now() - INTERVAL 7 DAY)",
        )
        .await?;
    Ok(counted.first().map_or(0, |(count,)| *count))
}

/// Waits until no merges are under way, which would be measured with the queries; after a while it goes on all the same.
pub(crate) async fn until_merged(clickhouse: &ClickHouse) -> Result<(), ReadsError> {
    let until = Instant::now() + MERGED_WITHIN;
    let mut seen = Instant::now();
    while Instant::now() < until && seen.elapsed() < QUIET_FOR {
        let merges: Vec<(u64,)> = clickhouse.rows("SELECT count() FROM system.merges").await?;
        if merges.first().is_none_or(|(count,)| *count > 0) {
            seen = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Where dashboards are asked for.
struct Asked {
    query: Endpoint,
    admin: Endpoint,
}

impl Asked {
    fn of(system: &System) -> Result<Self, ReadsError> {
        let within = Duration::from_secs(30);
        let query = Endpoint::new(&system.query_url(), within)?.api_key(QUERY_KEY)?;
        Ok(Self { query, admin: Endpoint::new(&system.query_admin_url(), within)? })
    }

    /// Dashboards of which nothing is remembered, neither answers nor parts of them.
    async fn uncached(&self, range: Range, dashboards: u64) -> Result<Uncached, ReadsError> {
        let (panels, dear) = (panels::dashboard(range, Timestamp::now()), panels::dearest(range, Timestamp::now()));
        let (mut panel, mut whole, mut dearest) = (Latencies::new(), Latencies::new(), Latencies::new());
        let is_miss = |cache: &str| cache == "MISS";
        for _ in 0..dashboards {
            // Panels share what they read: by itself is a panel with nothing of any other.
            for one in &panels {
                self.forget().await?;
                panel.add(ask(&self.query, one, is_miss).await?);
            }
            self.forget().await?;
            dearest.add(ask(&self.query, &dear, is_miss).await?);
            self.forget().await?;
            let began = Instant::now();
            try_join_all(panels.iter().map(|one| ask(&self.query, one, is_miss))).await?;
            whole.add(began.elapsed());
        }
        Ok(Uncached { panel: panel.quantiles(), dashboard: whole.quantiles(), dearest: dearest.quantiles() })
    }

    async fn forget(&self) -> Result<(), ReadsError> {
        let reply = self.admin.send(Method::DELETE, "/v1/cache", Bytes::new()).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        Err(ReadsError::Worthless(format!("the cache was not cleared: {} {}", reply.status, reply.excerpt())))
    }
}

/// Asks once; an answer from elsewhere than intended is no measurement.
async fn ask(endpoint: &Endpoint, panel: &Panel, is_intended: impl Fn(&str) -> bool) -> Result<Duration, ReadsError> {
    let sent = Instant::now();
    let reply = put(endpoint, panel).await?;
    let took = sent.elapsed();
    let cache = reply.headers.get("x-cache").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if reply.status.is_success() && is_intended(cache) {
        return Ok(took);
    }
    Err(ReadsError::Worthless(format!("{panel:?} answered {} ({cache}): {}", reply.status, reply.excerpt())))
}

async fn put(endpoint: &Endpoint, Panel { path, body }: &Panel) -> Result<Reply, HttpError> {
    match body {
        Some(body) => endpoint.send(Method::POST, path, body.clone()).await,
        None => endpoint.get(path).await,
    }
}

async fn cached(config: &ReadsConfig, query: &str) -> Result<Cached, ReadsError> {
    let panels = panels::dashboard(WEEK, Timestamp::now());
    let warm = Endpoint::new(query, Duration::from_secs(30))?.api_key(QUERY_KEY)?;
    for panel in &panels {
        ask(&warm, panel, |_| true).await?;
    }
    let until = Instant::now() + config.lasts;
    let reader = async |number: usize| {
        let endpoint = Endpoint::new(query, Duration::from_secs(30))?.api_key(QUERY_KEY)?;
        let (mut latencies, mut misses) = (Latencies::new(), 0);
        for panel in panels.iter().cycle().skip(number % panels.len().max(1)) {
            if Instant::now() >= until {
                break;
            }
            let sent = Instant::now();
            let reply = put(&endpoint, panel).await?;
            latencies.add(sent.elapsed());
            let cache = reply.headers.get("x-cache").and_then(|value| value.to_str().ok());
            misses += u64::from(!matches!(cache, Some("HIT" | "STALE")));
            if !reply.status.is_success() {
                return Err(ReadsError::Worthless(format!("{panel:?} answered {}", reply.status)));
            }
        }
        Ok((latencies, misses))
    };
    let began = Instant::now();
    let readers = try_join_all((0..config.connections).map(reader)).await?;
    let took = began.elapsed().as_secs_f64();
    let mut all = Latencies::new();
    readers.iter().for_each(|(latencies, _)| all.merge(latencies));
    let latency = all.quantiles();
    let misses = readers.iter().map(|(_, misses)| misses).sum();
    Ok(Cached { connections: config.connections, per_second: latency.count as f64 / took, misses, latency })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "events of 90 days, those of the last day in {} inserts", self.of_last_day)?;
        for Size { events, parts, week, quarter } in &self.sizes {
            writeln!(f, "{events} events, uncached; the week's hours lie in {parts} parts")?;
            for (name, Uncached { panel, dashboard, dearest }) in
                [("7 days by hour", week), ("90 days by day", quarter)]
            {
                writeln!(f, "  {name}: a panel      {panel}")?;
                writeln!(f, "  {name}: eight at once {dashboard}")?;
                writeln!(f, "  {name}: the dearest  {dearest}")?;
            }
        }
        let [few, many] = &self.sizes;
        let ratio = |of: fn(&Size) -> f64| of(many) / of(few);
        writeln!(
            f,
            "ten times the events (p50): a panel of a week costs {:.2} times as much, one of a quarter {:.2}; eight at once {:.2} and {:.2}",
            ratio(|size| size.week.panel.p50_ms),
            ratio(|size| size.quarter.panel.p50_ms),
            ratio(|size| size.week.dashboard.p50_ms),
            ratio(|size| size.quarter.dashboard.p50_ms)
        )?;
        let Cached { connections, per_second, misses, latency } = self.cached;
        write!(
            f,
            "cached, {connections} connections: {per_second:.0} answers/s, {misses} not from the cache, {latency}"
        )
    }
}
