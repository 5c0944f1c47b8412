//! Everything is broken in turn, under load, at moments that follow from a seed; then everything that is stored is compared
//! with what was acknowledged.
//!
//! ```text
//! fleet up -> load -> faults by plan -> all heal -> all delivered -> nothing left to consume -> compare
//! ```
//!
//! The fleet is used again for every run; what is compared is everything that all runs sent, so that a late duplicate of
//! an earlier run is seen too. What a fault hits still depends on the machine; what is struck and when does not.

pub mod fleet;
pub mod lag;
pub mod load;
pub mod plan;
pub mod report;

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::client::ClientConfig;
use crate::ledger::Ledger;
use crate::poison::Refusal;
use crate::verify;
use crate::writers::WritersError;

use fleet::{Fleet, FleetError, GROUP, Programs, TOPIC};
use lag::Silence;
use load::LoadConfig;
pub use plan::Deployment;
use plan::Strike;
pub use report::{ChaosReport, Run};

/// Everything must be consumed so long after the last fault.
const COMPLETE_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct ChaosConfig {
    pub programs: Programs,
    /// How events come into the store.
    pub deployment: Deployment,
    /// How long faults go on in a run.
    pub lasts: Duration,
    /// Seed of the first run; each further run has the next.
    pub seed: u64,
    pub runs: u32,
    pub rate: u32,
    /// One in so many events is poison: a view throws at it.
    pub poison: Option<NonZeroU64>,
}

/// Why it could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The load broke off.
    #[error(transparent)]
    Load(#[from] WritersError),
    /// The store could not be looked into.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error("the load panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// Plays all runs on a fleet of its own, until one shows a difference; `progress` gets a line per run.
pub async fn run(config: &ChaosConfig, progress: impl Fn(String)) -> Result<ChaosReport, ChaosError> {
    let mut fleet = Fleet::start(&config.programs, config.deployment.into()).await?;
    if config.poison.is_some() {
        Refusal::View.install(&ClickHouse::new(fleet.clickhouse())?).await?;
    }
    progress("chaos: the fleet is ready".to_owned());
    let mut report = ChaosReport::default();
    let mut ledger = Ledger::default();
    for index in 0..config.runs {
        let seed = config.seed.wrapping_add(index.into());
        let strikes = plan::plan(seed, config.lasts, config.deployment);
        let played = play(config, &mut fleet, &Session { seed, index, strikes }, ledger).await;
        let (run, known) = match played {
            Ok(played) => played,
            Err(error) => {
                progress(format!(
                    "chaos: seed {seed} could not be played to its end; logs are kept in {}",
                    fleet.keep().display()
                ));
                return Err(error);
            }
        };
        ledger = known;
        progress(run.to_string());
        let is_exact = run.is_exact();
        report.runs.push(run);
        if !is_exact {
            break;
        }
    }
    fleet.look_at_memory();
    report.peaks = fleet.peaks().clone();
    Ok(report)
}

struct Session {
    seed: u64,
    index: u32,
    strikes: Vec<Strike>,
}

async fn play(
    config: &ChaosConfig,
    fleet: &mut Fleet,
    session: &Session,
    known: Ledger,
) -> Result<(Run, Ledger), ChaosError> {
    let (stop, stopped) = watch::channel(false);
    let client = ClientConfig {
        answer_within: Duration::from_secs(15),
        give_up_after: COMPLETE_WITHIN,
        ..ClientConfig::development(fleet.ingest_url())
    };
    let load = LoadConfig { client, rate: config.rate, run: session.index + 1, poison: config.poison };
    let sending = tokio::spawn(async move { load::run(&load, stopped).await });
    let (watching, watched) = watch::channel(true);
    let silence = tokio::spawn(look(fleet.bootstrap(), watched));

    strike_all(config, fleet, &session.strikes).await?;
    let healed = Instant::now();
    fleet.ready().await?;
    stop.send_replace(true);
    let sent = sending.await??;
    let delivered_after = healed.elapsed();
    let acknowledged = sent.ledger.ids().len();
    let ledger = known.plus(sent.ledger);
    watching.send_replace(false);
    let silence = silence.await?;
    let clickhouse = ClickHouse::new(fleet.clickhouse())?;
    verify::until_complete(&clickhouse, &ledger, COMPLETE_WITHIN).await;
    let mut verification = verify::compare(&clickhouse, &ledger).await?;
    let is_consumed = fleet.bootstrap().is_none() || silence.is_drained();
    let stuck = silence.behind();
    if !verification.is_exact() || !is_consumed {
        verification.keep(fleet.keep());
    }
    let run = Run {
        seed: session.seed,
        strikes: session.strikes.clone(),
        acknowledged,
        repeated: sent.repeated,
        handed_back: sent.handed_back,
        unanswered: sent.unanswered,
        withheld: sent.withheld,
        longest_gap: sent.longest_gap,
        delivered_after,
        complete_after: healed.elapsed(),
        silences: silence.longest().clone(),
        stuck,
        is_consumed,
        verification,
    };
    Ok((run, ledger))
}

/// Strikes and heals at their times, one thing after the other: when one takes long, the next is late, never left out.
async fn strike_all(config: &ChaosConfig, fleet: &mut Fleet, strikes: &[Strike]) -> Result<(), ChaosError> {
    let started = Instant::now();
    let mut steps: Vec<(Duration, bool, &Strike)> =
        strikes.iter().flat_map(|strike| [(strike.at, true, strike), (strike.until, false, strike)]).collect();
    steps.sort_by_key(|(at, ..)| *at);
    for (at, is_strike, Strike { target, fault, .. }) in steps {
        sleep_until(started + at).await;
        if is_strike { fleet.strike(*target, *fault)? } else { fleet.heal(*target, *fault).await? }
    }
    sleep_until(started + config.lasts).await;
    Ok(())
}

/// Looks at the positions until it is told to stop, and then until nothing is left or the time is up.
async fn look(bootstrap: Option<String>, mut watched: watch::Receiver<bool>) -> Silence {
    let mut silence = Silence::default();
    let Some(bootstrap) = bootstrap else { return silence };
    let mut deadline = None;
    loop {
        // Begun after all was delivered, so that the end of the log is the end of all that was sent.
        let is_over = !*watched.borrow_and_update();
        if let Some(positions) = lag::positions(&bootstrap, TOPIC, GROUP).await {
            silence.note(positions, Instant::now());
            if is_over && silence.is_drained() {
                return silence;
            }
        }
        if is_over && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + COMPLETE_WITHIN) {
            return silence;
        }
        sleep(LOOK_EVERY).await;
    }
}
