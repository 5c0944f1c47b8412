//! The benchmark: one run, one report. Measures the ceiling of this machine's ClickHouse, its rate without an ingester, and the
//! throughput, latency, freshness, memory and reads of Tallyhouse.
//!
//! Ratios within one run are comparable on any machine; absolute figures only on the machine named in the report.

pub mod bare;
pub mod bodies;
pub mod direct;
pub mod freshness;
pub mod load;
pub mod machine;
pub mod profile;
pub mod quantiles;
pub mod queries;
pub mod report;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clickhouse::{ClickHouse, ClickHouseConfig, ClickHouseError};
use crate::process::{self, ProcessError};
use crate::system::{System, SystemError};
use tallyhouse_service::http_client::HttpError;

use bodies::Bodies;
use load::{ClosedLoop, OpenLoop, Throughput};
use report::{Latency, Report, Served};

/// What to measure against.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A system of its own, started from this program with empty data.
    Own(PathBuf),
    /// One that runs already. Its data is added to.
    Running {
        ingest: String,
        /// The query API.
        query: String,
        /// Its ClickHouse.
        clickhouse: ClickHouseConfig,
        /// The ingester's process, when it is on this machine: for memory and profile.
        pid: Option<i32>,
    },
}

#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// What is measured.
    pub subject: Subject,
    /// How long each part runs.
    pub each: Duration,
    /// Connections for the highest throughput.
    pub connections: usize,
    /// Whether to record where processor time goes.
    pub profile: bool,
}

/// Connections when Tallyhouse is compared with ClickHouse's own `async_insert`.
const COMPARED_CONNECTIONS: usize = 32;
/// Events in a batch.
const BATCH: usize = 100;
/// Load before the first measurement: connections, caches, the engine's threads.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long merges are waited for between two parts of a run.
const MERGED_WITHIN: Duration = Duration::from_secs(15);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The system did not start or stop.
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// A URL or a key.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// /proc.
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("a worker panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    /// Answers that make a measurement worthless.
    #[error("{0}")]
    Worthless(String),
}

/// Addresses of what is measured.
struct Addresses {
    ingest: String,
    query: String,
    clickhouse: ClickHouseConfig,
    pid: Option<i32>,
}

/// Measures everything; `progress` gets each step.
pub async fn run(config: &BenchConfig, progress: impl Fn(&str)) -> Result<Report, BenchError> {
    match &config.subject {
        Subject::Running { ingest, query, clickhouse, pid } => {
            let addresses =
                Addresses { ingest: ingest.clone(), query: query.clone(), clickhouse: clickhouse.clone(), pid: *pid };
            measure(config, &addresses, progress).await
        }
        Subject::Own(binary) => {
            progress("starting a system of its own");
            let system = System::start(binary).await?;
            let addresses = Addresses {
                ingest: system.ingest_url(),
                query: system.query_url(),
                clickhouse: system.clickhouse(),
                pid: Some(system.pid()?),
            };
            let report = measure(config, &addresses, progress).await?;
            system.stop().await?;
            Ok(report)
        }
    }
}

async fn measure(config: &BenchConfig, at: &Addresses, progress: impl Fn(&str)) -> Result<Report, BenchError> {
    let bodies = Bodies::render(BATCH);
    let closed = |connections, lasts| ClosedLoop { url: at.ingest.clone(), connections, lasts };
    progress("warming up");
    load::stored_loop(&closed(COMPARED_CONNECTIONS, WARM_UP), &bodies).await?;

    progress("throughput through HTTP, batches, as many connections as async_insert will have");
    let compared = load::stored_loop(&closed(COMPARED_CONNECTIONS, config.each), &bodies).await?;
    progress(&format!("  {:.0} events/s", compared.events_per_second));
    until_merged(&at.clickhouse).await?;
    progress("throughput through HTTP, batches, all connections");
    let profiling = profile::start(config.profile, at.pid, config.each);
    let batches = load::stored_loop(&closed(config.connections, config.each), &bodies).await?;
    progress(&format!("  {:.0} events/s", batches.events_per_second));
    let profile = profiling.finish().await;
    until_merged(&at.clickhouse).await?;
    progress("throughput through HTTP, single events");
    let singles = Bodies::render_single();
    let single = load::stored_loop(&closed(config.connections, config.each), &singles).await?;
    progress(&format!("  {:.0} events/s", single.events_per_second));
    until_merged(&at.clickhouse).await?;
    progress("the same into a bare handler");
    let bare = bare::measure(closed(config.connections, config.each), &singles).await?;
    progress(&format!("  {:.0} events/s", bare.events_per_second));

    let half = batches.best(&compared) / 2.0;
    progress("latency and freshness at half of that load");
    let (latency, freshness) = half_load(config, at, &bodies, half).await?;
    progress(&format!("  acknowledged {}", latency.acks));
    progress(&format!("  visible {freshness}"));
    let memory = at.pid.map(process::memory).transpose()?;

    progress("the ceiling: the same rows, prepared, straight into ClickHouse");
    until_merged(&at.clickhouse).await?;
    let ceiling = direct::ceiling(&at.clickhouse, config.each).await?;
    progress(&format!("  {:.0} rows/s", ceiling.rows_per_second));
    until_merged(&at.clickhouse).await?;
    progress("ClickHouse's own async_insert");
    let async_insert = direct::async_insert(&at.clickhouse, COMPARED_CONNECTIONS, BATCH, config.each).await?;
    progress(&format!("  {:.0} rows/s", async_insert.rows_per_second));
    until_merged(&at.clickhouse).await?;
    let async_insert_all = direct::async_insert(&at.clickhouse, config.connections, BATCH, config.each).await?;
    progress(&format!("  {:.0} rows/s over all connections", async_insert_all.rows_per_second));
    until_merged(&at.clickhouse).await?;
    progress("queries");
    let queries = queries::measure(&at.query, config.each).await?;

    Ok(Report {
        machine: machine::describe(),
        ceiling,
        async_insert,
        async_insert_all,
        batches: Served { connections: config.connections, throughput: batches },
        compared: Served { connections: COMPARED_CONNECTIONS, throughput: compared },
        single: Served { connections: config.connections, throughput: single },
        bare: Served { connections: config.connections, throughput: bare },
        latency,
        freshness,
        peak_memory: memory.map(|m| m.peak),
        queries,
        profile,
    })
}

async fn half_load(
    config: &BenchConfig,
    at: &Addresses,
    bodies: &Bodies,
    events_per_second: f64,
) -> Result<(Latency, quantiles::Quantiles), BenchError> {
    let open = OpenLoop {
        url: at.ingest.clone(),
        connections: config.connections,
        requests_per_second: events_per_second / BATCH as f64,
        lasts: config.each,
    };
    let (acks, freshness) =
        tokio::try_join!(load::open_loop(&open, bodies), freshness::measure(&at.ingest, &at.clickhouse, config.each),)?;
    load::until_stored(&at.ingest).await?;
    Ok((Latency { events_per_second, acks }, freshness))
}

/// Waits until no merge runs, so that one part of the run does not pay for the one before. Gives up after a while: the
/// engine may have merges for longer than a benchmark should take.
pub(crate) async fn until_merged(config: &ClickHouseConfig) -> Result<(), BenchError> {
    let clickhouse = ClickHouse::new(config)?;
    let deadline = Instant::now() + MERGED_WITHIN;
    while Instant::now() < deadline && clickhouse.number("SELECT count() FROM system.merges").await.unwrap_or(0) > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

impl Throughput {
    fn best(&self, other: &Self) -> f64 {
        self.events_per_second.max(other.events_per_second)
    }
}
