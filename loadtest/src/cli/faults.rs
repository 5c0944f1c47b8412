//! Faults under load, after which everything stored is compared.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tallyhouse_loadtest::chaos::{self, ChaosConfig, Deployment};
use tallyhouse_loadtest::development::{ATTACKER_INGEST_KEY, ATTACKER_QUERY_KEY};
use tallyhouse_loadtest::kills::KillsConfig;
use tallyhouse_loadtest::outage::{Ending, OutageConfig};
use tallyhouse_loadtest::rolling::{Order, RollingConfig};
use tallyhouse_loadtest::siege::{Attacker, Scale, SiegeConfig};

use super::{ArgumentError, BinaryArg, programs};

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
        let (deployment, lasts) = (self.deployment(), Duration::from_secs(self.seconds));
        Ok(ChaosConfig {
            programs,
            deployment,
            lasts,
            seed: self.seed,
            runs: self.runs,
            rate: self.rate,
            poison: self.poison,
        })
    }

    /// The plans of all runs, for people.
    pub(crate) fn plans(&self) -> String {
        let lasts = Duration::from_secs(self.seconds);
        let mut text = String::new();
        for seed in (self.seed..).take(self.runs as usize) {
            text.push_str(&format!("seed {seed}\n"));
            let strikes = chaos::plan::plan(seed, lasts, self.deployment());
            strikes.iter().for_each(|strike| text.push_str(&format!("{strike}\n")));
        }
        text
    }

    fn deployment(&self) -> Deployment {
        if self.embedded { Deployment::Embedded } else { Deployment::Kafka }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RollingArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// The ingest program; the one beside tallyhouse when absent
    #[arg(long, value_name = "PATH")]
    ingest: Option<PathBuf>,
    /// How often all are restarted
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The first gateway, consumer and query API at once, then the second of each
    #[arg(long)]
    together: bool,
    /// Load between two restarts
    #[arg(long, default_value_t = 3)]
    calm_seconds: u64,
    /// `TALLYHOUSE_SHUTDOWN_DELAY_MS`; longer than nginx keeps an idle connection, a second
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1_100..=20_000))]
    delay_ms: u64,
    /// Events per second
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    events: u32,
    /// Questions per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    questions: u32,
}

impl RollingArgs {
    pub(crate) fn config(&self) -> Result<RollingConfig, ArgumentError> {
        Ok(RollingConfig {
            programs: programs(&self.binary, self.ingest.as_ref())?,
            order: if self.together { Order::OneOfEach } else { Order::OneByOne },
            rounds: self.rounds,
            calm: Duration::from_secs(self.calm_seconds),
            delay: Duration::from_millis(self.delay_ms),
            events: self.events,
            questions: self.questions,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct SiegeArgs {
    #[command(flatten)]
    binary: BinaryArg,
    /// A tenth of everything, for seconds
    #[arg(long)]
    short: bool,
    /// Only attacks with this in their names; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The key that the attacker sends events with
    #[arg(long, default_value = ATTACKER_INGEST_KEY)]
    attacker_ingest_key: String,
    /// The key that it asks with
    #[arg(long, default_value = ATTACKER_QUERY_KEY)]
    attacker_query_key: String,
}

impl SiegeArgs {
    pub(crate) fn config(&self) -> Result<SiegeConfig, ArgumentError> {
        Ok(SiegeConfig {
            binary: self.binary.path()?,
            scale: if self.short { Scale::Short } else { Scale::Full },
            attacker: Attacker {
                ingest_key: self.attacker_ingest_key.clone(),
                query_key: self.attacker_query_key.clone(),
            },
            only: self.only.clone(),
        })
    }
}
