//! A real ClickHouse as a child process.
//!
//! ```text
//! Engine::start -> program, data, ports free? -> write settings -> supervisor thread -> `tallyhouse engine` -> ClickHouse
//! ```
//!
//! The child is this program again (`tallyhouse engine`, see [`child`]): it ends when its parent ends, and becomes
//! ClickHouse, either by loading it as a library or by executing `clickhouse server`. The supervisor restarts it, with
//! growing pauses, whenever it ends unasked.

pub mod cage;
pub mod child;
mod dedup_log;
mod error;
mod hang;
mod job;
mod library;
mod output;
mod pinned;
mod preflight;
mod probe;
mod program;
mod pty;
mod settings;
mod supervisor;
mod verify;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tallyhouse_service::health::Status;
use tallyhouse_sql::Connection;
use tokio::task::JoinHandle;

use crate::credentials::Credentials;
use crate::telemetry::Metrics;
pub use cage::{Cage, Strength};
pub use error::EngineError;
use job::Job;
pub use library::LibraryError;
pub use preflight::data_in_use;
pub use program::{Choice, PINNED_VERSION, Program, ProgramError};
pub use settings::ProjectName;
use supervisor::{Phase, Supervisor};

/// What an engine needs to know.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// `TALLYHOUSE_DATA`. The tables are in `clickhouse/` below it, old raw events in `clickhouse-cold/`, written settings
    /// in `engine/`, and the process id in `clickhouse.pid`.
    pub data: PathBuf,
    /// Port of HTTP on 127.0.0.1.
    pub http_port: u16,
    /// Port of ClickHouse's own protocol on 127.0.0.1; `None`: it is not spoken. The product itself uses HTTP.
    pub tcp_port: Option<u16>,
    pub program: Program,
    /// What the kernel lets it do.
    pub cage: Cage,
    /// Passwords of its users.
    pub credentials: Credentials,
    /// Projects that the user `grafana` sees.
    pub grafana_projects: Vec<ProjectName>,
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

/// A running ClickHouse. It is killed when the value goes; [`Engine::stop`] is the friendly way.
#[derive(Debug)]
pub struct Engine {
    http_url: String,
    credentials: Credentials,
    supervisor: Supervisor,
    start_within: Duration,
    strength: Strength,
    /// Looks whether it hangs, from when it was ready.
    watch: OnceLock<JoinHandle<()>>,
    hung_after: Duration,
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
        let files = settings::Files::below(&options.data)?;
        options.program.verify(&options.data).await?;
        preflight::wait_for_data(&files).await?;
        preflight::wait_for_port("CLICKHOUSE_HTTP_PORT", options.http_port).await?;
        if let Some(port) = options.tcp_port {
            preflight::wait_for_port("CLICKHOUSE_TCP_PORT", port).await?;
        }
        settings::write(&files, &options)?;
        let strength = Strength::of(options.cage, matches!(options.program, Program::Library(_)));
        if strength.status() != Status::Up {
            tracing::warn!("{strength}");
        }
        let http_url = format!("http://127.0.0.1:{}", options.http_port);
        let job = Job {
            executable: options.executable,
            program: options.program,
            files,
            http_port: options.http_port,
            tcp_port: options.tcp_port,
            cage: options.cage,
            metrics: options.metrics,
        };
        Ok(Self {
            strength,
            watch: OnceLock::new(),
            hung_after: options.hung_after,
            start_within: options.start_within,
            http_url,
            supervisor: Supervisor::start(job)?,
            credentials: options.credentials,
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

    /// How often it was started again after it had ended unasked.
    pub fn restarts(&self) -> u64 {
        self.supervisor.restarts()
    }

    /// Asks it to end, and kills it when `budget` runs out.
    pub async fn stop(mut self, budget: Duration) {
        self.unwatch();
        self.supervisor.stop(budget).await;
    }

    /// From now on silence is meant.
    fn unwatch(&self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }

    fn connection(&self, user: &str, password: &str) -> Connection {
        Connection { url: self.http_url.clone(), user: user.to_owned(), password: password.to_owned() }
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
