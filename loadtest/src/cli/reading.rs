//! Measuring and checking the read path.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tallyhouse_loadtest::degrade::freshness::FreshnessConfig;
use tallyhouse_loadtest::degrade::{self, DegradeConfig};
use tallyhouse_loadtest::reads::ReadsConfig;

use super::{ArgumentError, BinaryArg, beside};

#[derive(Debug, Args)]
pub(crate) struct ReadsArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// Events, made inside ClickHouse; a tenth of them is measured first
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1_000_000..=1_000_000_000))]
    events: u64,
    /// Inserts that the events of the last day come in
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    of_last_day: u64,
    /// Dashboards asked for, per range
    #[arg(long, default_value_t = 100)]
    dashboards: u64,
    /// Connections that ask for cached answers
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How long they do
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ReadsArgs {
    pub(crate) fn config(&self) -> Result<ReadsConfig, ArgumentError> {
        Ok(ReadsConfig {
            binary: self.binary.path()?,
            events: self.events,
            of_last_day: self.of_last_day,
            dashboards: self.dashboards,
            connections: self.connections,
            lasts: Duration::from_secs(self.seconds),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct DegradeArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// The query-api program; the one beside tallyhouse when absent
    #[arg(long, value_name = "PATH")]
    query_api: Option<PathBuf>,
    /// Events, made inside ClickHouse
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(100_000..=20_000_000))]
    events: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl DegradeArgs {
    pub(crate) fn config(&self) -> Result<DegradeConfig, ArgumentError> {
        let tallyhouse = self.binary.path()?;
        let query_api = beside(&tallyhouse, self.query_api.as_ref(), "query-api")?;
        Ok(DegradeConfig { programs: degrade::Programs { tallyhouse, query_api }, events: self.events })
    }
}

#[derive(Debug, Args)]
pub(crate) struct FreshnessArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// The query-api program; the one beside tallyhouse when absent
    #[arg(long, value_name = "PATH")]
    query_api: Option<PathBuf>,
    /// How long events come and questions are asked
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    seconds: u64,
    /// How long one state of Redis lasts, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    phase: u64,
    /// How long an answer that reaches until now lives, in milliseconds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=600_000))]
    ttl: u64,
    /// What the machine adds to every bound, in milliseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    slack: u64,
    /// Decides what is asked and sent
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl FreshnessArgs {
    pub(crate) fn config(&self) -> Result<FreshnessConfig, ArgumentError> {
        let tallyhouse = self.binary.path()?;
        let query_api = beside(&tallyhouse, self.query_api.as_ref(), "query-api")?;
        Ok(FreshnessConfig {
            programs: degrade::Programs { tallyhouse, query_api },
            lasts: Duration::from_secs(self.seconds),
            phase: Duration::from_secs(self.phase),
            ttl: Duration::from_millis(self.ttl),
            slack: Duration::from_millis(self.slack),
            seed: self.seed,
        })
    }
}
