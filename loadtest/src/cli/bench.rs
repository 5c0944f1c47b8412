//! Measuring the write path.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tallyhouse_loadtest::backlog::BacklogConfig;
use tallyhouse_loadtest::bench::{BenchConfig, Subject};
use tallyhouse_loadtest::chaos::fleet::Layout;
use tallyhouse_loadtest::clickhouse::ClickHouseConfig;
use tallyhouse_loadtest::reduction::ReductionConfig;
use tallyhouse_loadtest::tls::TlsConfig;
use tallyhouse_loadtest::trickle::TrickleConfig;
use tallyhouse_loadtest::watched::WatchedConfig;

use super::{ArgumentError, BinaryArg, QUERY_URL, programs};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How long each part runs; there are about eight
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    /// Connections for the highest throughput
    #[arg(long, default_value_t = 640)]
    connections: usize,
    /// Record where processor time goes (needs `perf`)
    #[arg(long)]
    profile: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure a system that runs already: its ingest API
    #[arg(long)]
    url: Option<String>,
    /// Its query API
    #[arg(long, default_value = QUERY_URL)]
    query_url: String,
    /// Its ClickHouse
    #[arg(long, default_value = "http://127.0.0.1:8123")]
    clickhouse_url: String,
    /// The user there; it must be allowed to read all projects and to insert into `events_in`
    #[arg(long, default_value = "writer")]
    clickhouse_user: String,
    /// Its password: that of the writer in `credentials` below the data folder
    #[arg(long, default_value = "")]
    clickhouse_password: String,
    /// The process of its ingester
    #[arg(long)]
    pid: Option<i32>,
}

impl BenchArgs {
    pub(crate) fn config(&self) -> Result<BenchConfig, ArgumentError> {
        let subject = match &self.url {
            None => Subject::Own(self.binary.path()?),
            Some(url) => Subject::Running {
                ingest: url.clone(),
                query: self.query_url.clone(),
                clickhouse: ClickHouseConfig {
                    url: self.clickhouse_url.clone(),
                    user: self.clickhouse_user.clone(),
                    password: self.clickhouse_password.clone(),
                },
                pid: self.pid,
            },
        };
        let each = Duration::from_secs(self.seconds);
        Ok(BenchConfig { subject, each, connections: self.connections, profile: self.profile })
    }
}

#[derive(Debug, Args)]
pub(crate) struct TrickleArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How long each of four rates is kept, twice, and how long nothing is sent
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// How long 2,000 events/s are sent beside two dashboards of eight panels every five seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=600))]
    steady: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl TrickleArgs {
    pub(crate) fn config(&self) -> Result<TrickleConfig, ArgumentError> {
        Ok(TrickleConfig {
            binary: self.binary.path()?,
            each: Duration::from_secs(self.seconds),
            steady: Duration::from_secs(self.steady),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How long reads and events are sent to either system in a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Rounds, of which the middle one counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=50))]
    rounds: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl TlsArgs {
    pub(crate) fn config(&self) -> Result<TlsConfig, ArgumentError> {
        Ok(TlsConfig {
            binary: self.binary.path()?,
            each: Duration::from_secs(self.seconds),
            rounds: usize::try_from(self.rounds).unwrap_or(1),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct WatchedArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How long either system takes batches, and then single events, in a round
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Rounds, of which the middle one counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=50))]
    rounds: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl WatchedArgs {
    pub(crate) fn config(&self) -> Result<WatchedConfig, ArgumentError> {
        Ok(WatchedConfig {
            binary: self.binary.path()?,
            each: Duration::from_secs(self.seconds),
            rounds: usize::try_from(self.rounds).unwrap_or(1),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReductionArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// Hours of traffic
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=168))]
    hours: u64,
    /// Events per second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    rate: u64,
}

impl ReductionArgs {
    pub(crate) fn config(&self) -> Result<ReductionConfig, ArgumentError> {
        Ok(ReductionConfig { binary: self.binary.path()?, hours: self.hours, rate: self.rate })
    }
}

#[derive(Debug, Args)]
pub(crate) struct BacklogArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// The ingest program; the one beside tallyhouse when absent
    #[arg(long, value_name = "PATH")]
    ingest: Option<PathBuf>,
    /// Kafka brokers; 0: without Kafka
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=3))]
    brokers: u16,
    /// Consumers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4))]
    consumers: u16,
    /// How long the parts before the outage go on
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Events per second of the steady load
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=200_000))]
    rate: u32,
    /// Seconds that ClickHouse is away under it
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=1_800))]
    away: u64,
    /// A variable of all programs, NAME=VALUE; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl BacklogArgs {
    pub(crate) fn config(&self) -> Result<BacklogConfig, ArgumentError> {
        Ok(BacklogConfig {
            programs: programs(&self.binary, self.ingest.as_ref())?,
            layout: Layout {
                brokers: self.brokers.into(),
                consumers: self.consumers.into(),
                settings: self.settings.clone(),
                ..Layout::default()
            },
            each: Duration::from_secs(self.seconds),
            connections: self.connections,
            rate: self.rate.into(),
            away: Duration::from_secs(self.away),
        })
    }
}
