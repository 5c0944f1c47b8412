//! All attacks that were tried on Tallyhouse, one after another, against a running system that serves others meanwhile.
//!
//! ```text
//! start a system -> the bystander's load begins -> calm
//!    for each attack of `attacks::ALL`:
//!       a new window -> attack, within its time limit -> started again if it ended -> until the bystander is served
//! the load ends -> everything acknowledged is there exactly once? -> a table -> exit code
//! ```
//!
//! The bystander is another project from another address: it sends events, asks dashboards and looks at the admin ports at a fixed rate,
//! whatever became of the requests before (`bystander.rs`). Its request counts as served when it is answered with a success within ten
//! seconds. The attacker has keys of a project of its own ([`Attacker`]) and comes from `127.0.0.66`, so that what is limited per address
//! or per project limits the attacker alone.
//!
//! What breaks is reported in the table, and does not end the run: the attacks after it are played, too. Only a system that
//! cannot be started, a load that breaks off, or a store that cannot be looked into ends it.

mod attacks;
mod bystander;
mod report;
mod target;
mod watch;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tallyhouse_service::http_client::{Endpoint, HttpError};
use tokio::time::{Instant, sleep, timeout};

pub use attacks::names;
pub use report::SiegeReport;
pub use target::{Attacker, Scale};

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::ports::free_array;
use crate::process::ProcessError;
use crate::system::{System, SystemError};
use crate::verify;
use attacks::{Attack, Findings, LIMIT};
use bystander::{Bystander, BystanderError};
use report::{Outcome, Row};
use target::Target;
use watch::Watch;

/// The load alone, before the first attack: caches are warm, rates are steady.
const CALM: Duration = Duration::from_secs(2);

/// How long the bystander may take to be served again.
const RECOVER_WITHIN: Duration = Duration::from_secs(60);

const ENGINE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(20);

/// How long what was acknowledged may take to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(90);

/// Files that this process needs at most: every attacker and the load.
const DESCRIPTORS: u64 = 8_192;

/// What is played, and how hard.
#[derive(Debug, Clone)]
pub struct SiegeConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// How long each attack goes on, and with how many.
    pub scale: Scale,
    /// The keys of the attacker.
    pub attacker: Attacker,
    /// Only attacks with one of these in their names; all when empty.
    pub only: Vec<String>,
}

/// Why the siege could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum SiegeError {
    /// The system did not start, stop or start again.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The load broke off.
    #[error(transparent)]
    Bystander(#[from] BystanderError),
    /// The store could not be looked into.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The attacker's own connections.
    #[error("the attacker cannot attack: {0}")]
    Io(#[from] std::io::Error),
    #[error("no attack has one of {0:?} in its name; there are: {1}")]
    NoAttack(Vec<String>, String),
    /// The bystander is not even served without attacks.
    #[error("the bystander was not served within {RECOVER_WITHIN:?} before the first attack; the end of the log:\n{0}")]
    NeverServed(String),
}

/// Plays all attacks on a system of its own; `progress` gets a line per attack.
pub async fn run(config: &SiegeConfig, progress: impl Fn(String)) -> Result<SiegeReport, SiegeError> {
    let attacks = chosen(&config.only)?;
    allow_descriptors();
    let [native] = free_array()?;
    let mut system = System::start_with(&config.binary, &[("CLICKHOUSE_TCP_PORT", &native.to_string())]).await?;
    let bystander = Bystander::start(&system)?;
    if bystander.served_again(Instant::now(), RECOVER_WITHIN).await.is_none() {
        return Err(SiegeError::NeverServed(system.log_tail()));
    }
    sleep(CALM).await;
    let mut rows = Vec::with_capacity(attacks.len());
    for attack in attacks {
        let target = Target::of(&system, config, native)?;
        let row = play(attack, &target, &mut system, &bystander).await?;
        progress(row.verdict());
        rows.push(row);
    }
    let ledger = bystander.finish().await?;
    let clickhouse = ClickHouse::new(&system.clickhouse())?;
    verify::until_complete(&clickhouse, &ledger, STORED_WITHIN).await;
    let mut verification = verify::compare(&clickhouse, &ledger).await?;
    let report = |verification| SiegeReport { rows, verification };
    if !verification.is_exact() {
        verification.keep(system.keep());
        return Ok(report(verification));
    }
    system.stop().await?;
    Ok(report(verification))
}

async fn play(
    attack: &'static Attack,
    target: &Target,
    system: &mut System,
    bystander: &Bystander,
) -> Result<Row, SiegeError> {
    let mut watch = Watch::begin(system);
    let window = bystander.begin_window();
    let findings = tokio::select! {
        findings = timeout(LIMIT, (attack.play)(target)) => match findings {
            Ok(findings) => findings?,
            Err(_) => Findings::broken(format!("not over within {LIMIT:?}")),
        },
        never = watch.look(system) => match never {},
    };
    let ended = Instant::now();
    let ended_with = system.ended();
    if ended_with.is_some() {
        system.start_again().await?;
    }
    // The engine may be on its way up: it is watched until the bystander is served.
    let recovered = tokio::select! {
        recovered = recovered(system, bystander, ended) => recovered,
        never = watch.look(system) => match never {},
    };
    let served = bystander.end_window(window).await;
    Ok(Row { attack, served, seen: watch.seen(), outcome: Outcome { findings, recovered, ended_with } })
}

/// From the end of an attack until the bystander is served and the engine answers.
async fn recovered(system: &System, bystander: &Bystander, ended: Instant) -> Option<Duration> {
    bystander.served_again(ended, RECOVER_WITHIN).await?;
    let engine = Endpoint::new(&system.clickhouse().url, ENGINE_ANSWERS_WITHIN).ok()?;
    while !engine.get("/ping").await.is_ok_and(|reply| reply.status.is_success()) {
        if ended.elapsed() > RECOVER_WITHIN {
            return None;
        }
        sleep(POLL).await;
    }
    Some(ended.elapsed())
}

fn chosen(only: &[String]) -> Result<Vec<&'static Attack>, SiegeError> {
    let is_meant = |attack: &&Attack| only.is_empty() || only.iter().any(|part| attack.name.contains(part.as_str()));
    let chosen: Vec<&Attack> = attacks::ALL.iter().filter(is_meant).collect();
    if chosen.is_empty() { Err(SiegeError::NoAttack(only.to_vec(), names().join(", "))) } else { Ok(chosen) }
}

/// Best effort: a lower limit shows as connections that the attacker cannot open.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).ok();
    }
}
