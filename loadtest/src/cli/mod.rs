//! The command line.

mod bench;
mod faults;
mod feed;
mod reading;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use tallyhouse_loadtest::chaos::fleet::Programs;

pub(crate) use bench::{BacklogArgs, BenchArgs, ReductionArgs, TlsArgs, TrickleArgs, WatchedArgs};
pub(crate) use faults::{ChaosArgs, KillsArgs, OutageArgs, RollingArgs, SiegeArgs};
pub(crate) use feed::{ChartArgs, FeedArgs};
pub(crate) use reading::{DegradeArgs, FreshnessArgs, ReadsArgs};

const INGEST_URL: &str = "http://127.0.0.1:8081";
const QUERY_URL: &str = "http://127.0.0.1:8082";

/// Load, proof and measurement of Tallyhouse.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send the flights of New York, 2013, as events, moved in time so that the last one is now.
    Feed(FeedArgs),
    /// Draw flights per month from the query API, with the commands that ask the same.
    Chart(ChartArgs),
    /// Kill the ingester and ClickHouse under load, then compare everything that is stored with what was acknowledged.
    Kills(KillsArgs),
    /// Let ClickHouse stand still under load, then compare.
    Outage(OutageArgs),
    /// Measure throughput, latency, freshness, memory and queries in one run.
    Bench(BenchArgs),
    /// Measure what little traffic costs: single requests at 1 to 100 events/s, and none.
    Trickle(TrickleArgs),
    /// Measure what TLS costs on connections that stay open.
    Tls(TlsArgs),
    /// Measure what traces and the reading of metrics cost ingestion.
    Watched(WatchedArgs),
    /// Make a day of realistic traffic inside ClickHouse, and say how much smaller its rollups are.
    Reduction(ReductionArgs),
    /// Measure how fast dashboards are read over a lot of events.
    Reads(ReadsArgs),
    /// Measure how reading holds up: stampedes, killed instances, without Redis, without ClickHouse, beside analysts.
    Degrade(DegradeArgs),
    /// Ask three instances at random under late events, with Redis healthy and broken in every way, and compare each answer with raw events.
    Freshness(FreshnessArgs),
    /// Measure what durability costs and how a backlog is caught up with, with or without Kafka.
    Backlog(BacklogArgs),
    /// Break a whole fleet with Kafka in every way under load, then compare.
    Chaos(ChaosArgs),
    /// Restart gateways, consumers and query APIs behind nginx, one by one under load, then compare.
    Rolling(RollingArgs),
    /// Attack a system in every way that was tried, one after another beside somebody else's load, then compare.
    Siege(SiegeArgs),
    /// Run Kafka on this machine until ctrl-C.
    Brokers(BrokersArgs),
}

/// Arguments that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("there is no `tallyhouse` beside this program; build it, or say where it is with --tallyhouse")]
    NoBinary,
    #[error("{0} does not exist; say where the program is with --tallyhouse")]
    Missing(String),
}

#[derive(Debug, Args)]
pub(crate) struct BrokersArgs {
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=5))]
    pub(crate) count: u16,
    /// Where their data is kept
    #[arg(long, default_value = "./data/kafka")]
    pub(crate) data: PathBuf,
    /// The port of the first; those of the others follow
    #[arg(long, default_value_t = 9_092, value_parser = clap::value_parser!(u16).range(1_024..=50_000))]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
struct BinaryArg {
    /// The tallyhouse program; the one beside this program when absent
    #[arg(long, value_name = "PATH")]
    tallyhouse: Option<PathBuf>,
}

impl BinaryArg {
    fn path(&self) -> Result<PathBuf, ArgumentError> {
        let path = match &self.tallyhouse {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(|_| ArgumentError::NoBinary)?.with_file_name("tallyhouse"),
        };
        match (path.exists(), &self.tallyhouse) {
            (true, _) => Ok(path),
            (false, Some(path)) => Err(ArgumentError::Missing(path.display().to_string())),
            (false, None) => Err(ArgumentError::NoBinary),
        }
    }
}

fn programs(binary: &BinaryArg, ingest: Option<&PathBuf>) -> Result<Programs, ArgumentError> {
    let tallyhouse = binary.path()?;
    let ingest = beside(&tallyhouse, ingest, "ingest")?;
    // Only what asks needs it; whoever starts it says when it is not there.
    let query_api = tallyhouse.with_file_name("query-api");
    Ok(Programs { tallyhouse, ingest, query_api })
}

/// The program that was named, else the one beside `tallyhouse`.
fn beside(tallyhouse: &Path, named: Option<&PathBuf>, name: &str) -> Result<PathBuf, ArgumentError> {
    let path = named.cloned().unwrap_or_else(|| tallyhouse.with_file_name(name));
    if path.exists() { Ok(path) } else { Err(ArgumentError::Missing(path.display().to_string())) }
}
