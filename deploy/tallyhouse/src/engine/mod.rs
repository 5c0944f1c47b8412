//! A real ClickHouse as a child process.
//!
//! ```text
//! Engine::start -> program, data, ports free? -> write settings -> supervisor thread -> `tallyhouse engine` -> ClickHouse
//! ```
//!
//! The child is this program again (`tallyhouse engine`, see [`child`]): it ends when its parent ends, and becomes
//! ClickHouse, either by loading it as a library or by executing `clickhouse server`. The supervisor restarts it, with
//! growing pauses, whenever it ends unasked.

pub mod accounts;
pub mod cage;
pub mod child;
mod dedup_log;
mod error;
mod hang;
mod job;
mod library;
mod network;
mod output;
mod pinned;
mod preflight;
mod probe;
mod program;
mod pty;
mod settings;
mod supervisor;
mod verify;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::health::Status;
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::Connection;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::credentials::Credentials;
use crate::telemetry::Metrics;
pub use accounts::Account;
pub use cage::{Cage, Strength};
pub use error::EngineError;
use job::Job;
pub use library::LibraryError;
pub use network::Network;
pub use preflight::data_in_use;
pub use program::{Choice, PINNED_VERSION, Program, ProgramError};
pub use settings::last_http_port;
use supervisor::{Phase, Supervisor};

/// How long a process may take to end that is replaced by one with other accounts.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What an engine needs to know.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// `TALLYHOUSE_DATA`. The tables are in `clickhouse/` below it, old raw events in `clickhouse-cold/`, written settings
    /// in `engine/`, and the process id in `clickhouse.pid`.
    pub data: PathBuf,
    /// `BACKUP_DIR`. It writes copies of its tables to `clickhouse/` below it.
    pub backups: PathBuf,
    /// Where it listens beside loopback.
    pub listen: IpAddr,
    /// From where people's tools may come, beside loopback; the product's own users come from loopback only.
    pub client_networks: Vec<Network>,
    /// Port of HTTP.
    pub http_port: u16,
    /// Port of ClickHouse's own protocol; `None`: it is not spoken. The product itself uses HTTP.
    pub tcp_port: Option<u16>,
    /// The cluster that it is a shard of; none outside tests, which need one without other machines.
    pub cluster: Option<EngineCluster>,
    pub program: Program,
    /// What the kernel lets it do.
    pub cage: Cage,
    /// Passwords of its users.
    pub credentials: Credentials,
    /// Projects that the user `grafana` sees.
    pub grafana_projects: Vec<ProjectName>,
    /// Of people's tools; [`Engine::set_accounts`] changes them.
    pub accounts: Vec<Account>,
    /// Statements of analysts at once: those that run, and those whose answers are being read.
    pub analyst_statements: usize,
    /// The `tallyhouse` program, which the child starts as.
    pub executable: PathBuf,
    /// How long a start may take, loading tables included.
    pub start_within: Duration,
    /// How long a running one may answer nobody before it is killed and started again.
    pub hung_after: Duration,
    /// Where it is counted how often it had to be started again.
    pub metrics: Metrics,
}

/// Engines of one machine as shards of a cluster.
#[derive(Debug, Clone)]
pub struct EngineCluster {
    /// Its name in `remote_servers`.
    pub name: String,
    /// What shards know one another by.
    pub secret: Secret,
    /// The `tcp_port` of each, in order.
    pub ports: Vec<u16>,
    /// Profiles beside its own, as XML; a library has no CREATE SETTINGS PROFILE.
    pub profiles: String,
    /// Users beside its own, as XML.
    pub users: String,
}

impl EngineOptions {
    /// The user that writes, as it will be.
    pub fn writer(&self) -> Connection {
        let url = format!("http://127.0.0.1:{}", self.http_port);
        Connection { url, user: "writer".to_owned(), password: self.credentials.writer.expose().to_owned(), tls: None }
    }
}

/// A running ClickHouse. It is killed when the value goes; [`Engine::stop`] is the friendly way.
#[derive(Debug)]
pub struct Engine {
    http_url: String,
    credentials: Credentials,
    supervisor: Supervisor,
    files: settings::Files,
    /// As it was started, but for the accounts.
    options: EngineOptions,
    accounts: Mutex<Given>,
    start_within: Duration,
    strength: Strength,
    /// Looks whether it hangs, from when it was ready.
    watch: OnceLock<JoinHandle<()>>,
    hung_after: Duration,
}

/// The accounts that the process was given.
#[derive(Debug, Default)]
struct Given {
    /// `None`: it is not known which, a change broke off.
    accounts: Option<Vec<Account>>,
    /// It has answered since.
    is_in_force: bool,
}

impl Engine {
    /// Starts it and waits until it is [`Engine::ready`].
    pub async fn start(options: EngineOptions) -> Result<Self, EngineError> {
        let engine = Self::spawn(options).await?;
        engine.ready().await?;
        Ok(engine)
    }

    pub async fn spawn(options: EngineOptions) -> Result<Self, EngineError> {
        options.program.check()?;
        let files = settings::Files::below(&options.data, &options.backups)?;
        options.program.verify(&options.data).await?;
        preflight::wait_for_data(&files).await?;
        for address in network::listened(options.listen) {
            preflight::wait_for_port("CLICKHOUSE_HTTP_PORT", (address, options.http_port).into()).await?;
            if let Some(port) = options.tcp_port {
                preflight::wait_for_port("CLICKHOUSE_TCP_PORT", (address, port).into()).await?;
            }
        }
        settings::write(&files, &options)?;
        let strength = Strength::of(options.cage, matches!(options.program, Program::Library(_)));
        if strength.status() != Status::Up {
            tracing::warn!("{strength}");
        }
        let http_url = format!("http://127.0.0.1:{}", options.http_port);
        let job = Job {
            executable: options.executable.clone(),
            program: options.program.clone(),
            files: files.clone(),
            http_port: options.http_port,
            tcp_port: options.tcp_port,
            peers: options.cluster.iter().flat_map(|cluster| cluster.ports.clone()).collect(),
            cage: options.cage,
            metrics: options.metrics.clone(),
        };
        Ok(Self {
            strength,
            watch: OnceLock::new(),
            hung_after: options.hung_after,
            start_within: options.start_within,
            http_url,
            supervisor: Supervisor::start(job)?,
            credentials: options.credentials.clone(),
            files,
            accounts: Mutex::new(Given { accounts: Some(options.accounts.clone()), is_in_force: true }),
            options,
        })
    }

    /// Waits until it answers a real user.
    ///
    /// From then on it is started again by itself when it ends; [`Engine::restarts`] tells how often.
    pub async fn ready(&self) -> Result<(), EngineError> {
        let version = self.answers_within(self.start_within).await?;
        self.supervisor.mark_ready();
        let limits = hang::Limits { start_within: self.start_within, hung_after: self.hung_after };
        let endpoint = hang::endpoint(&self.http_url)?;
        self.watch.get_or_init(|| self.supervisor.watch(endpoint, limits));
        tracing::info!(version, url = self.http_url, pid = self.pid(), "ClickHouse is up");
        Ok(())
    }

    /// Its HTTP port as a URL, `http://127.0.0.1:8123`.
    pub fn http_url(&self) -> &str {
        &self.http_url
    }

    /// The user that writes, and migrates.
    pub fn writer(&self) -> Connection {
        self.connection("writer", self.credentials.writer.expose())
    }

    /// The user that only reads.
    pub fn reader(&self) -> Connection {
        self.connection("reader", self.credentials.reader.expose())
    }

    /// The user for dashboards, restricted to some projects.
    pub fn grafana(&self) -> Connection {
        self.connection("grafana", self.credentials.grafana.expose())
    }

    /// The user for analysts' SQL, bound to a project by a header of each request.
    pub fn analyst(&self) -> Connection {
        self.connection("analyst", self.credentials.analyst.expose())
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// What the kernel lets it do.
    pub fn cage(&self) -> Strength {
        self.strength
    }

    /// Lets these accounts in, and no others, and returns when that is in force.
    ///
    /// A library reads its users only when it starts, so it is started again: what runs is cut off, and inserts are repeated under their
    /// tokens. A server reads them anew.
    pub async fn set_accounts(&self, accounts: Vec<Account>) -> Result<(), EngineError> {
        let mut given = self.accounts.lock().await;
        // One that still loads its tables is waited for: started again, it would begin anew.
        if given.accounts.as_ref() != Some(&accounts) {
            *given = Given::default();
            self.give(&accounts).await?;
            given.accounts = Some(accounts);
        }
        if !given.is_in_force {
            self.answers_within(self.start_within).await?;
            given.is_in_force = true;
        }
        Ok(())
    }

    async fn give(&self, accounts: &[Account]) -> Result<(), EngineError> {
        settings::write_users(&self.files, &EngineOptions { accounts: accounts.to_vec(), ..self.options.clone() })?;
        match self.options.program {
            Program::Library(_) => self.supervisor.replace(STOP_WITHIN).await,
            Program::Server(_) => {
                let reloaded = self.writer().client().query("SYSTEM RELOAD USERS").execute().await;
                reloaded.map_err(|error| EngineError::Accounts(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// How often it was started again after it had ended unasked.
    pub fn restarts(&self) -> u64 {
        self.supervisor.restarts()
    }

    /// Asks it to end, and kills it when `budget` runs out.
    pub async fn stop(mut self, budget: Duration) {
        self.unwatch();
        self.supervisor.stop(budget).await;
    }

    /// Lets it go on when somebody froze it. A process that runs notices nothing.
    pub fn thaw(&self) {
        self.supervisor.thaw();
    }

    /// From now on silence is meant.
    fn unwatch(&self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }

    fn connection(&self, user: &str, password: &str) -> Connection {
        Connection { url: self.http_url.clone(), user: user.to_owned(), password: password.to_owned(), tls: None }
    }

    /// Waits until it answers as `writer`, or is known not to come up.
    async fn answers_within(&self, budget: Duration) -> Result<String, EngineError> {
        let mut phase = self.supervisor.phase();
        tokio::select! {
            version = probe::version(self.writer()) => probe::require_supported(version),
            failed = phase.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Stopped)) => {
                match failed.as_deref() {
                    Ok(Phase::Failed(failure)) => Err(EngineError::from(failure.clone())),
                    _ => Err(EngineError::Stopped),
                }
            }
            () = tokio::time::sleep(budget) => {
                Err(EngineError::Silent { within: budget, log: self.supervisor.last_words() })
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.unwatch();
    }
}
