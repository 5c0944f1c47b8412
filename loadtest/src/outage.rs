//! ClickHouse stands still under load. Events go on being acknowledged, from the disk; nothing may be called durable that is
//! not, memory must stay flat, and when ClickHouse is back everything must be stored by itself.
//!
//! The hard version ends the outage by killing everything: what was acknowledged while ClickHouse stood still is then only
//! where the ingester put it, and must be found there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::client::{Answer, Client, ClientConfig, Outgoing};
use crate::kills::{RECOVER_WITHIN, flows, load_on};
use crate::process::{self, ProcessError};
use crate::system::{System, SystemError};
use crate::verify::{self, Verification};
use crate::writers::{Writers, WritersConfig, WritersError};
use tallyhouse_service::http_client::{HttpError, Reply};

const PROBE_TYPE: &str = "outage_probe";
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// How an outage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// ClickHouse goes on where it stood.
    Resume,
    /// Everything is killed while ClickHouse still stands, then started again.
    Crash,
}

#[derive(Debug, Clone)]
pub struct OutageConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// How long ClickHouse stands still.
    pub lasts: Duration,
    /// How that ends.
    pub ending: Ending,
    /// Makes the load.
    pub seed: u64,
}

/// Why the scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum OutageError {
    /// The system did not start or stop.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The load broke off.
    #[error(transparent)]
    Writers(#[from] WritersError),
    /// The store could not be looked into.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// A signal or a look into /proc.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The URL or the key.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Nothing was acknowledged, before or after.
    #[error("nothing was acknowledged within {RECOVER_WITHIN:?} {when} the outage; the end of the log:\n{log}")]
    NoFlow {
        /// `before` or `after`.
        when: &'static str,
        /// The last lines of the log.
        log: String,
    },
    #[error("a probe panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// What single requests without retries were told during the outage.
#[derive(Debug, Default)]
pub struct Probes {
    /// Taken: they must be stored in the end.
    pub taken: BTreeSet<String>,
    /// 503 or 429 with `Retry-After`.
    pub handed_back: usize,
    /// 503 or 429 without it.
    pub without_retry_after: usize,
    /// Any other status.
    pub other: Vec<StatusCode>,
    /// No answer: too late, or killed.
    pub unanswered: usize,
}

impl Probes {
    fn note(&mut self, id: String, reply: Result<Reply, HttpError>) {
        match reply {
            Err(_) => self.unanswered += 1,
            Ok(reply) => match reply.status {
                StatusCode::OK | StatusCode::ACCEPTED if is_taken(&reply) => drop(self.taken.insert(id)),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if reply.retry_after().is_some() => {
                    self.handed_back += 1
                }
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => self.without_retry_after += 1,
                status => self.other.push(status),
            },
        }
    }
}

fn is_taken(reply: &Reply) -> bool {
    serde_json::from_slice::<Answer>(&reply.body).is_ok_and(|answer| answer.accepted == 1)
}

/// What came of it.
#[derive(Debug)]
pub struct OutageReport {
    /// What probes were told.
    pub probes: Probes,
    /// Probes that were taken and are not stored.
    pub lost_probes: usize,
    /// The ingester's memory when the outage began, bytes.
    pub memory_before: u64,
    /// Its highest during the outage, bytes.
    pub memory_peak: u64,
    /// From the end of the outage to the first acknowledgement.
    pub recovered_after: Duration,
    pub verification: Verification,
}

impl fmt::Display for OutageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probes { taken, handed_back, without_retry_after, other, unanswered } = &self.probes;
        write!(
            f,
            "probes: {} taken ({} lost), {handed_back} handed back, {without_retry_after} without Retry-After, {} other, {unanswered} unanswered; \
             memory {} MiB before, {} MiB at most; acknowledged again after {:.1?}; {}",
            taken.len(),
            self.lost_probes,
            other.len(),
            self.memory_before >> 20,
            self.memory_peak >> 20,
            self.recovered_after,
            self.verification,
        )
    }
}

/// Plays the scenario on a system of its own.
pub async fn run(config: &OutageConfig) -> Result<OutageReport, OutageError> {
    let mut system = System::start(&config.binary).await?;
    let load = WritersConfig { workers: 32, batch: 500, ..load_on(&system, config.seed) };
    let mut writers = Writers::start(&load)?;
    let mut acknowledged = writers.acknowledged();
    if !flows(&mut acknowledged, &load).await {
        writers.failure().map_or(Ok(()), Err)?;
        return Err(OutageError::NoFlow { when: "before", log: system.log_tail() });
    }

    let memory_before = process::memory(system.pid()?)?.resident;
    let stopped =
        system.clickhouse_pid().ok_or_else(|| OutageError::NoFlow { when: "before", log: system.log_tail() })?;
    process::signal(stopped, Signal::STOP)?;
    let watched = watch(&system, config).await;
    match config.ending {
        Ending::Resume => process::signal(stopped, Signal::CONT)?,
        Ending::Crash => system.crash_and_restart().await?,
    }
    let (probing, memory_peak) = watched?;
    let ended = Instant::now();
    if !flows(&mut acknowledged, &load).await {
        writers.failure().map_or(Ok(()), Err)?;
        return Err(OutageError::NoFlow { when: "after", log: system.log_tail() });
    }
    let recovered_after = ended.elapsed();

    let probes = probing.finish().await?;
    let ledger = writers.finish().await?;
    let clickhouse = ClickHouse::new(&system.clickhouse())?;
    verify::until_complete(&clickhouse, &ledger, RECOVER_WITHIN).await;
    let mut verification = verify::compare(&clickhouse, &ledger).await?;
    let stored = verify::stored_ids(&clickhouse, &format!("'{PROBE_TYPE}'")).await?;
    let lost_probes = probes.taken.iter().filter(|id| stored.get(*id) != Some(&1)).count();
    if !verification.is_exact() {
        verification.keep(system.keep());
    }
    system.stop().await?;
    Ok(OutageReport { probes, lost_probes, memory_before, memory_peak, recovered_after, verification })
}

/// Sends probes and watches memory for as long as the outage lasts. Probes that still wait at its end go on waiting.
async fn watch(system: &System, config: &OutageConfig) -> Result<(Probing, u64), OutageError> {
    let mut probing = Probing::new(system, config.seed)?;
    let pid = system.pid()?;
    let mut peak = 0;
    let mut tick = interval(PROBE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let until = Instant::now() + config.lasts;
    while Instant::now() < until {
        tick.tick().await;
        peak = peak.max(process::memory(pid)?.resident);
        probing.send_one();
    }
    Ok((probing, peak))
}

/// Probes under way: never more than one per tick of the outage.
struct Probing {
    client: Arc<Client>,
    tasks: JoinSet<(String, Result<Reply, HttpError>)>,
    sent: u32,
    seed: u64,
}

impl Probing {
    fn new(system: &System, seed: u64) -> Result<Self, OutageError> {
        let client = Client::new(&ClientConfig::development(system.ingest_url()))?;
        Ok(Self { client: Arc::new(client), tasks: JoinSet::new(), sent: 0, seed })
    }

    fn send_one(&mut self) {
        self.sent += 1;
        let id = format!("probe-{}-{}", self.seed, self.sent);
        let json = format!(r#"{{"eventId":"{id}","eventType":"{PROBE_TYPE}"}}"#);
        let client = Arc::clone(&self.client);
        self.tasks.spawn(async move {
            let reply = client.attempt(&[Outgoing { id: id.clone(), json }]).await;
            (id, reply)
        });
    }

    async fn finish(mut self) -> Result<Probes, OutageError> {
        let mut probes = Probes::default();
        while let Some(done) = self.tasks.join_next().await {
            let (id, reply) = done?;
            probes.note(id, reply);
        }
        Ok(probes)
    }
}
