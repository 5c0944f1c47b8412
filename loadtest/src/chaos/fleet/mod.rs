//! All processes of a Tallyhouse at scale, on this machine, each with its own port and data, to be broken one by one.

mod launch;
mod restart;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::plan::{Deployment, Fault, Target};
use crate::brokers::{Brokers, BrokersError};
use crate::clickhouse::{ClickHouseConfig, ClickHouseError};
use crate::credentials;
use crate::daemon::{Daemon, DaemonError, Launch, log_tail};
use crate::ports::free_addresses;
use crate::process::{self, ProcessError};
use crate::system::{Scratch, SystemError};
use tallyhouse_service::http_client::{Endpoint, HttpError};

pub use restart::Restart;

/// The topic of the fleet.
pub const TOPIC: &str = "chaos-events";
/// Its consumer group.
pub const GROUP: &str = "chaos";
const READY_WITHIN: Duration = Duration::from_secs(120);
/// A graceful end of a service drains first.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
/// What `tallyhouse store` says once its tables are there.
const STORE_IS_READY: &str = "the store is ready";

/// Why the fleet does not run.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Brokers(#[from] BrokersError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A folder.
    #[error(transparent)]
    System(#[from] SystemError),
    /// Ports and files.
    #[error("the fleet cannot be prepared: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Something is not ready.
    #[error("{name} was not ready within {READY_WITHIN:?}; the end of its log:\n{log}")]
    NotReady {
        name: String,
        /// The last lines it wrote.
        log: String,
    },
}

#[derive(Debug, Clone)]
pub struct Programs {
    /// `tallyhouse`
    pub tallyhouse: PathBuf,
    /// `ingest`
    pub ingest: PathBuf,
    /// `query-api`
    pub query_api: PathBuf,
}

/// How large a fleet is, and what differs from the defaults.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// None: one process takes events and stores them.
    pub brokers: usize,
    /// How many take events; at least one.
    pub gateways: usize,
    /// With brokers: how many store what gateways take.
    pub consumers: usize,
    /// How many answer questions.
    pub query_apis: usize,
    /// Variables of the ingesters and of the store.
    pub settings: Vec<(String, String)>,
}

impl From<Deployment> for Layout {
    fn from(deployment: Deployment) -> Self {
        match deployment {
            Deployment::Kafka => Self { brokers: 3, consumers: 2, ..Self::default() },
            Deployment::Embedded => Self::default(),
        }
    }
}

/// A running fleet. All of it is killed when the value goes.
#[derive(Debug)]
pub struct Fleet {
    members: BTreeMap<Target, Member>,
    brokers: Option<Brokers>,
    /// The ClickHouse process that stands still.
    paused_clickhouse: Option<i32>,
    clickhouse: ClickHouseConfig,
    peaks: BTreeMap<Target, u64>,
    settings: Vec<(String, String)>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Member {
    launch: Launch,
    daemon: Daemon,
    /// Where it serves, and where it says that it is ready.
    address: String,
    admin: Option<String>,
}

impl Fleet {
    /// Starts everything with empty data and waits until all of it is ready.
    pub async fn start(programs: &Programs, layout: Layout) -> Result<Self, FleetError> {
        let scratch = Scratch::create()?;
        let Layout { brokers, gateways, consumers, query_apis, settings } = layout;
        let (gateways, consumers) = if brokers > 0 { (gateways.max(1), consumers) } else { (1, 0) };
        let addresses = free_addresses(2 + 2 * (gateways + consumers + query_apis))?;
        let mut addresses = addresses.into_iter();
        let mut address = || addresses.next().ok_or_else(|| std::io::Error::other("too few ports"));
        let (http, redis) = (address()?, address()?);
        let clickhouse = ClickHouseConfig {
            url: format!("http://{http}"),
            user: "writer".to_owned(),
            password: credentials::PASSWORD.to_owned(),
        };
        let mut fleet = Self {
            members: BTreeMap::new(),
            brokers: None,
            paused_clickhouse: None,
            clickhouse,
            peaks: BTreeMap::new(),
            settings,
            scratch,
        };
        fleet.add(Target::Redis, fleet.redis(&redis), redis.clone(), None)?;
        credentials::write(&fleet.data_of(Target::Store))?;
        fleet.add(Target::Store, fleet.store(programs, &http), http, None)?;
        if brokers > 0 {
            fleet.brokers = Some(Brokers::start(brokers, fleet.scratch.path()).await?);
        }
        fleet.store_ready().await?;
        let ingesters = (0..gateways).map(Target::Gateway).chain((0..consumers).map(Target::Consumer));
        for target in ingesters.chain((0..query_apis).map(Target::QueryApi)) {
            let (public, admin) = (address()?, address()?);
            let addresses = [public.as_str(), &admin, &redis];
            let launch = match target {
                Target::QueryApi(_) => fleet.query_api(programs, target, addresses),
                _ => fleet.ingest(programs, target, addresses),
            };
            fleet.add(target, launch, public, Some(admin))?;
        }
        fleet.ready().await?;
        Ok(fleet)
    }

    /// Waits until all services say they are ready.
    pub async fn ready(&mut self) -> Result<(), FleetError> {
        self.store_ready().await?;
        if let Some(brokers) = &mut self.brokers {
            brokers.ready().await?;
        }
        let deadline = Instant::now() + READY_WITHIN;
        for member in self.members.values_mut() {
            let Some(admin) = &member.admin else { continue };
            let health = Endpoint::new(&format!("http://{admin}/"), Duration::from_secs(5))?;
            while !health.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success()) {
                if Instant::now() > deadline {
                    return Err(member.not_ready());
                }
                // At its start it may need what another fault has taken away; whoever runs it tries again.
                if member.daemon.has_ended() {
                    member.daemon = Daemon::start(&member.launch)?;
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Until every migration is applied: while one holds inserts back, nothing can be counted.
    async fn store_ready(&mut self) -> Result<(), FleetError> {
        let deadline = Instant::now() + READY_WITHIN;
        let Some(store) = self.members.get_mut(&Target::Store) else { return Ok(()) };
        while !std::fs::read_to_string(&store.launch.log).is_ok_and(|log| log.contains(STORE_IS_READY)) {
            if store.daemon.has_ended() {
                store.daemon = Daemon::start(&store.launch)?;
            }
            if Instant::now() > deadline {
                return Err(store.not_ready());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Breaks something.
    pub fn strike(&mut self, target: Target, fault: Fault) -> Result<(), FleetError> {
        self.look_at_memory();
        let signal = match fault {
            Fault::Kill => Signal::KILL,
            Fault::Pause => Signal::STOP,
            Fault::Restart => Signal::TERM,
        };
        match target {
            Target::ClickHouse => self.signal_clickhouse(signal),
            Target::Broker(index) => {
                let Some(brokers) = &mut self.brokers else { return Ok(()) };
                Ok(brokers.signal(index, signal)?)
            }
            _ => match self.members.get_mut(&target) {
                Some(member) => Ok(member.daemon.signal(signal)?),
                None => Ok(()),
            },
        }
    }

    /// Undoes it.
    pub async fn heal(&mut self, target: Target, fault: Fault) -> Result<(), FleetError> {
        match (target, fault) {
            (Target::ClickHouse, Fault::Pause) => {
                // It may have gone with its supervisor.
                if let Some(pid) = self.paused_clickhouse.take() {
                    drop(process::signal(pid, Signal::CONT));
                }
            }
            // Its supervisor does.
            (Target::ClickHouse, _) => {}
            (Target::Broker(index), Fault::Pause) => self.brokers.iter_mut().try_for_each(|b| b.resume(index))?,
            (Target::Broker(index), Fault::Kill | Fault::Restart) => {
                if let Some(brokers) = &mut self.brokers {
                    brokers.stop_one(index).await?;
                    brokers.start_again(index)?;
                }
            }
            (_, Fault::Pause) => {
                if let Some(member) = self.members.get_mut(&target) {
                    member.daemon.signal(Signal::CONT)?;
                }
            }
            (_, Fault::Kill | Fault::Restart) => {
                if let Some(member) = self.members.get_mut(&target) {
                    member.daemon.stop(DRAIN_WITHIN).await?;
                    member.daemon = Daemon::start(&member.launch)?;
                }
            }
        }
        Ok(())
    }

    /// Notes the highest memory of gateway and consumers. Whoever is gone was noted before.
    pub fn look_at_memory(&mut self) {
        for (&target, member) in &self.members {
            if let Ok(memory) = member.daemon.memory() {
                let peak = self.peaks.entry(target).or_default();
                *peak = (*peak).max(memory.peak);
            }
        }
    }

    /// The highest memory of each process so far, bytes.
    pub fn peaks(&self) -> &BTreeMap<Target, u64> {
        &self.peaks
    }

    pub fn ingest_url(&self) -> String {
        self.address(Target::Gateway(0)).map_or_else(String::new, |address| format!("http://{address}"))
    }

    /// `host:port` where a member serves.
    pub fn address(&self, target: Target) -> Option<&str> {
        self.members.get(&target).map(|member| member.address.as_str())
    }

    /// Where data and logs are.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The store, as the user that writes.
    pub fn clickhouse(&self) -> &ClickHouseConfig {
        &self.clickhouse
    }

    /// `KAFKA_BROKERS`, when there are any.
    pub fn bootstrap(&self) -> Option<String> {
        self.brokers.as_ref().map(Brokers::bootstrap)
    }

    /// Leaves data and logs where they are, and says where.
    pub fn keep(&mut self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }

    fn signal_clickhouse(&mut self, signal: Signal) -> Result<(), FleetError> {
        let Some(store) = self.members.get(&Target::Store) else { return Ok(()) };
        let text = std::fs::read_to_string(self.scratch.path().join("store/clickhouse.pid")).unwrap_or_default();
        let Ok(pid) = text.trim().parse::<i32>() else { return Ok(()) };
        // A pid file may outlive its process, and the number may then be anybody's.
        if process::parent(pid).ok() != store.daemon.pid().ok() {
            return Ok(());
        }
        if signal == Signal::STOP {
            self.paused_clickhouse = Some(pid);
        }
        // It may have gone in between: then there is nothing left to break.
        drop(process::signal(pid, signal));
        Ok(())
    }

    fn add(
        &mut self,
        target: Target,
        launch: Launch,
        address: String,
        admin: Option<String>,
    ) -> Result<(), FleetError> {
        let daemon = Daemon::start(&launch)?;
        self.members.insert(target, Member { launch, daemon, address, admin });
        Ok(())
    }
}

impl Member {
    fn not_ready(&self) -> FleetError {
        FleetError::NotReady { name: self.launch.name.clone(), log: log_tail(&self.launch.log) }
    }
}
