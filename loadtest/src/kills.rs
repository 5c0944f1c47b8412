//! `kill -9` of the ingester and of ClickHouse, again and again at random moments under load, and then: does everything agree?

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::client::ClientConfig;
use crate::poison::Refusal;
use crate::process;
use crate::system::{System, SystemError};
use crate::verify::{self, Verification};
use crate::writers::{Writers, WritersConfig, WritersError};

pub(crate) const RECOVER_WITHIN: Duration = Duration::from_secs(90);
/// Load runs undisturbed for a random time up to this between recovery and the next kill, so that kills hit every phase.
const LONGEST_CALM: Duration = Duration::from_millis(1_500);

/// What to kill and how often.
#[derive(Debug, Clone)]
pub struct KillsConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// Kills of each of the two.
    pub times: u32,
    /// Same seed, same order and same pauses; where a kill hits still depends on the machine.
    pub seed: u64,
    /// One in so many events is poison: a rollup has a constraint against it.
    pub poison: Option<NonZeroU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The process that serves; its ClickHouse dies with it.
    Tallyhouse,
    /// ClickHouse alone; the supervisor starts it again.
    ClickHouse,
}

/// Why the scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum KillsError {
    /// The system did not start, stop or recover.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The load broke off.
    #[error(transparent)]
    Writers(#[from] WritersError),
    /// The store could not be looked into.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// No event was acknowledged for too long after a kill.
    #[error("nothing was acknowledged within {within:?} after kill {kill} ({victim:?}); the end of the log:\n{log}")]
    NoRecovery {
        kill: usize,
        victim: Victim,
        /// How long it had.
        within: Duration,
        /// The last lines of the log.
        log: String,
    },
    /// A signal could not be sent.
    #[error(transparent)]
    Process(#[from] process::ProcessError),
}

/// What came of it.
#[derive(Debug)]
pub struct KillsReport {
    /// How many kills there were.
    pub kills: usize,
    /// The longest time between a kill and the next acknowledgement.
    pub slowest_recovery: Duration,
    pub verification: Verification,
}

impl fmt::Display for KillsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, slowest recovery {:.1} s; {}",
            self.kills,
            self.slowest_recovery.as_secs_f64(),
            self.verification
        )
    }
}

/// Plays the scenario on a system of its own; `progress` gets a line per kill.
pub async fn run(config: &KillsConfig, progress: impl Fn(String)) -> Result<KillsReport, KillsError> {
    let mut rng = StdRng::seed_from_u64(config.seed);
    let mut victims: Vec<Victim> = (0..config.times).flat_map(|_| [Victim::Tallyhouse, Victim::ClickHouse]).collect();
    victims.shuffle(&mut rng);

    let mut system = System::start(&config.binary).await?;
    if config.poison.is_some() {
        Refusal::Constraint.install(&ClickHouse::new(&system.clickhouse())?).await?;
    }
    let load = WritersConfig { poison: config.poison, ..load_on(&system, config.seed) };
    let mut writers = Writers::start(&load)?;
    let mut acknowledged = writers.acknowledged();
    let mut slowest_recovery = Duration::ZERO;
    for (index, &victim) in victims.iter().enumerate() {
        sleep(LONGEST_CALM.mul_f64(rng.random())).await;
        kill(&mut system, victim).await?;
        let killed = Instant::now();
        if !flows(&mut acknowledged, &load).await {
            writers.failure().map_or(Ok(()), Err)?;
            return Err(KillsError::NoRecovery {
                kill: index + 1,
                victim,
                within: RECOVER_WITHIN,
                log: system.log_tail(),
            });
        }
        slowest_recovery = slowest_recovery.max(killed.elapsed());
        progress(format!(
            "kill {}/{} ({victim:?}): events are acknowledged again after {:.1?}",
            index + 1,
            victims.len(),
            killed.elapsed()
        ));
    }
    let ledger = writers.finish().await?;
    let clickhouse = ClickHouse::new(&system.clickhouse())?;
    verify::until_complete(&clickhouse, &ledger, RECOVER_WITHIN).await;
    let mut verification = verify::compare(&clickhouse, &ledger).await?;
    if !verification.is_exact() {
        verification.keep(system.keep());
    }
    system.stop().await?;
    Ok(KillsReport { kills: victims.len(), slowest_recovery, verification })
}

/// Moderate load that outlives every recovery.
pub(crate) fn load_on(system: &System, seed: u64) -> WritersConfig {
    let client = ClientConfig {
        answer_within: Duration::from_secs(15),
        give_up_after: RECOVER_WITHIN * 2,
        ..ClientConfig::development(system.ingest_url())
    };
    WritersConfig { client, workers: 8, batch: 50, run: (seed & 0xffff_ffff) as u32, poison: None }
}

async fn kill(system: &mut System, victim: Victim) -> Result<(), KillsError> {
    match victim {
        Victim::Tallyhouse => system.crash_and_restart().await?,
        Victim::ClickHouse => process::signal(running_clickhouse(system).await?, Signal::KILL)?,
    }
    Ok(())
}

/// The pid of ClickHouse, waiting for it to be started after an earlier kill.
async fn running_clickhouse(system: &mut System) -> Result<i32, SystemError> {
    loop {
        if let Some(pid) = system.clickhouse_pid() {
            return Ok(pid);
        }
        system.ready().await?;
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the load flows: until so many events are acknowledged that at least one batch was sent after this call
/// (every worker may have had one under way). `false` when that takes too long.
pub(crate) async fn flows(acknowledged: &mut watch::Receiver<u64>, load: &WritersConfig) -> bool {
    let under_way = u64::from(load.workers) * load.batch as u64;
    let enough = *acknowledged.borrow_and_update() + under_way;
    timeout(RECOVER_WITHIN, acknowledged.wait_for(|now| *now > enough)).await.is_ok_and(|seen| seen.is_ok())
}
