//! Real Kafka on this machine: one broker or several, on loopback, to be used, killed and made to stand still.
//!
//! ```text
//! plan (ports, folders) -> server.properties -> format the new folders -> start -> every broker is in the metadata
//! ```
//!
//! Brokers die with this process, however it ends. Their data stays in the folder that was given.

mod plan;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::process::Signal;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

use crate::daemon::{Daemon, DaemonError, Launch, log_tail};
use crate::ports;
use crate::process::ProcessError;
use plan::BrokerPlan;

const START_WITHIN: Duration = Duration::from_secs(90);
const FORMAT_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// One question for metadata.
const ASK_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Why there are no brokers.
#[derive(Debug, thiserror::Error)]
pub enum BrokersError {
    /// The jars are not where they should be.
    #[error("Kafka is not in {}; `make kafka` or `deploy/tallyhouse/setup.sh --kafka` installs it", .0.display())]
    NotInstalled(PathBuf),
    /// Files or ports.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: io::Error,
    },
    /// Java, or a signal.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// One ended, or was not there in time.
    #[error("{name} {what}; the end of its log:\n{log}")]
    Failed {
        name: String,
        /// What it did or did not.
        what: &'static str,
        /// The last lines it wrote.
        log: String,
    },
    #[error("there is no broker {0}")]
    Unknown(usize),
    /// The task that asks for metadata panicked.
    #[error("asking for metadata panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// Which ports the brokers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Any that are free.
    Free,
    /// This one and those after it; controllers 10,000 higher.
    From(u16),
}

#[derive(Debug)]
pub struct Brokers {
    brokers: Vec<Broker>,
}

#[derive(Debug)]
struct Broker {
    plan: BrokerPlan,
    launch: Launch,
    daemon: Daemon,
}

impl Brokers {
    /// Starts brokers on free ports with their data in `folder`, and waits until all of them answer.
    pub async fn start(count: usize, folder: &Path) -> Result<Self, BrokersError> {
        Self::start_at(count, folder, Ports::Free).await
    }

    /// The same on given ports. A folder that was used before keeps its topics, as long as count and ports are the same.
    pub async fn start_at(count: usize, folder: &Path, ports: Ports) -> Result<Self, BrokersError> {
        let jars = plan::installed_jars();
        if !jars.is_dir() {
            return Err(BrokersError::NotInstalled(jars));
        }
        let plans = plan_all(count, folder, ports).map_err(|source| io("cannot find free ports".to_owned(), source))?;
        prepare(&plans).map_err(|source| io(format!("cannot write to {}", folder.display()), source))?;
        format_new(&plans, &jars, folder).await?;
        let mut brokers = Vec::new();
        for plan in plans {
            let launch = java(&plan, &jars, "kafka.Kafka", vec![plan.properties_path().into()]);
            brokers.push(Broker { daemon: Daemon::start(&launch)?, plan, launch });
        }
        let mut started = Self { brokers };
        started.ready().await?;
        Ok(started)
    }

    /// `host:port` of every broker, with commas between: `KAFKA_BROKERS`.
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(|broker| broker.plan.address()).collect::<Vec<_>>().join(",")
    }

    /// How many there are, running or not.
    pub fn count(&self) -> usize {
        self.brokers.len()
    }

    /// Copies that a topic should have here.
    pub fn replication(&self) -> usize {
        plan::replication(self.brokers.len())
    }

    /// `kill -9` of the broker with this index, from 0.
    pub fn kill(&mut self, index: usize) -> Result<(), BrokersError> {
        self.broker(index)?.daemon.kill();
        Ok(())
    }

    /// Any signal.
    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), BrokersError> {
        Ok(self.broker(index)?.daemon.signal(signal)?)
    }

    /// SIGSTOP.
    pub fn pause(&mut self, index: usize) -> Result<(), BrokersError> {
        Ok(self.broker(index)?.daemon.signal(Signal::STOP)?)
    }

    /// SIGCONT.
    pub fn resume(&mut self, index: usize) -> Result<(), BrokersError> {
        Ok(self.broker(index)?.daemon.signal(Signal::CONT)?)
    }

    /// SIGTERM: it hands its partitions over first. Returns when it has gone.
    pub async fn stop_one(&mut self, index: usize) -> Result<(), BrokersError> {
        self.broker(index)?.daemon.stop(STOP_WITHIN).await?;
        Ok(())
    }

    /// Starts a broker that was killed or stopped, with the same ports and data. Returns as soon as the process exists.
    pub fn start_again(&mut self, index: usize) -> Result<(), BrokersError> {
        let broker = self.broker(index)?;
        broker.daemon.kill();
        broker.daemon = Daemon::start(&broker.launch)?;
        Ok(())
    }

    /// Waits until every broker answers and knows of all the others.
    pub async fn ready(&mut self) -> Result<(), BrokersError> {
        let deadline = Instant::now() + START_WITHIN;
        let count = self.brokers.len();
        for broker in &mut self.brokers {
            while known_brokers(broker.plan.address()).await? < count {
                if broker.daemon.has_ended() {
                    return Err(broker.plan.failed("ended while it was starting"));
                }
                if Instant::now() > deadline {
                    return Err(broker.plan.failed("did not answer in time"));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until a broker ends, which none should.
    pub async fn ended(&mut self) -> BrokersError {
        loop {
            if let Some(broker) = self.brokers.iter_mut().find_map(|b| b.daemon.has_ended().then_some(&b.plan)) {
                return broker.failed("ended");
            }
            sleep(POLL * 4).await;
        }
    }

    /// SIGTERM to all at once, then `kill -9` to those that are still there.
    pub async fn stop(mut self) -> Result<(), BrokersError> {
        for broker in &mut self.brokers {
            broker.daemon.signal(Signal::CONT)?;
            broker.daemon.signal(Signal::TERM)?;
        }
        for broker in &mut self.brokers {
            broker.daemon.stop(STOP_WITHIN).await?;
        }
        Ok(())
    }

    fn broker(&mut self, index: usize) -> Result<&mut Broker, BrokersError> {
        self.brokers.get_mut(index).ok_or(BrokersError::Unknown(index))
    }
}

impl BrokerPlan {
    fn failed(&self, what: &'static str) -> BrokersError {
        BrokersError::Failed { name: format!("broker {}", self.node), what, log: log_tail(&self.log()) }
    }
}

fn plan_all(count: usize, folder: &Path, choice: Ports) -> io::Result<Vec<BrokerPlan>> {
    let free = ports::free(count * 2)?;
    let pairs = free.iter().zip(free.iter().skip(count));
    // Java makes relative paths of its own.
    let folder = std::path::absolute(folder)?;
    let plan = |(index, (&port, &controller_port)): (usize, (&u16, &u16))| {
        let (port, controller_port) = match choice {
            Ports::Free => (port, controller_port),
            Ports::From(first) => (first + index as u16, first + 10_000 + index as u16),
        };
        let node = index + 1;
        BrokerPlan { node, port, controller_port, folder: folder.join(format!("broker-{node}")) }
    };
    Ok(pairs.enumerate().map(plan).collect())
}

fn prepare(plans: &[BrokerPlan]) -> io::Result<()> {
    for plan in plans {
        std::fs::create_dir_all(&plan.folder)?;
        std::fs::write(plan.properties_path(), plan::properties(plan, plans))?;
        std::fs::write(plan.folder.join("log4j2.properties"), plan::LOGGING)?;
    }
    Ok(())
}

/// Formats the folders that were never used, all at the same time, for one cluster: its id is kept beside them.
async fn format_new(plans: &[BrokerPlan], jars: &Path, folder: &Path) -> Result<(), BrokersError> {
    let cluster = cluster_id(folder).map_err(|source| io("cannot keep the cluster's id".to_owned(), source))?;
    let mut formatting = Vec::new();
    for plan in plans.iter().filter(|plan| !plan.data().join("meta.properties").exists()) {
        let arguments: Vec<OsString> =
            vec!["format".into(), "-t".into(), cluster.clone().into(), "-c".into(), plan.properties_path().into()];
        formatting.push((plan, Daemon::start(&java(plan, jars, "kafka.tools.StorageTool", arguments))?));
    }
    let deadline = Instant::now() + FORMAT_WITHIN;
    for (plan, mut daemon) in formatting {
        while !daemon.has_ended() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        if !plan.data().join("meta.properties").exists() {
            return Err(plan.failed("was not formatted"));
        }
    }
    Ok(())
}

/// 22 characters that are the Base64 of 16 bytes: the last carries two bits.
fn cluster_id(folder: &Path) -> io::Result<String> {
    const DIGITS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let path = folder.join("cluster.id");
    match std::fs::read_to_string(&path) {
        Ok(known) => Ok(known),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut rng = rand::rng();
            let mut digit = || DIGITS.get(rng.random_range(0..DIGITS.len())).copied().map_or('A', char::from);
            let id: String = (0..21).map(|_| digit()).chain(['A']).collect();
            std::fs::write(&path, &id)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

fn java(plan: &BrokerPlan, jars: &Path, class: &str, arguments: Vec<OsString>) -> Launch {
    let logging = format!("-Dlog4j2.configurationFile={}", plan.folder.join("log4j2.properties").display());
    let mut all: Vec<OsString> =
        ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(Into::into).into();
    all.extend([logging.into(), "-cp".into(), jars.join("*").into(), class.into()]);
    all.extend(arguments);
    Launch {
        name: format!("broker {}", plan.node),
        program: "java".into(),
        arguments: all,
        env: Vec::new(),
        without: vec!["JAVA_TOOL_OPTIONS"],
        log: plan.log(),
    }
}

/// How many brokers the one at this address knows of; 0 when it does not answer.
async fn known_brokers(address: String) -> Result<usize, JoinError> {
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &address).set("log_level", "0");
        let client: Result<BaseConsumer, _> = config.create();
        let metadata = client.and_then(|client| client.fetch_metadata(None, ASK_WITHIN));
        metadata.map_or(0, |metadata| metadata.brokers().len())
    })
    .await
}

fn io(what: String, source: io::Error) -> BrokersError {
    BrokersError::Io { what, source }
}
