//! A whole Tallyhouse of one's own: `tallyhouse up` with its own ports and data, to be measured or killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::clickhouse::ClickHouseConfig;
use crate::credentials;
use crate::ports::free_array;
use crate::process::{self, ProcessError};
use tallyhouse_service::http_client::{Endpoint, HttpError};
use tallyhouse_service::tls::ClientTls;

const START_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Why a system does not run.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// Files, ports or the program itself.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("tallyhouse ended while it was starting; the end of its log:\n{log}")]
    Ended {
        /// The last lines it wrote.
        log: String,
    },
    /// It did not become ready, or not end, in time.
    #[error("tallyhouse did not {what} within {within:?}; the end of its log:\n{log}")]
    Late {
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        within: Duration,
        /// The last lines it wrote.
        log: String,
    },
    /// A signal or a look into /proc.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The URL of its health is not one.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// A directory that is removed when the value goes, unless it is kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// A new directory under the system's directory for temporary files.
    pub fn create() -> Result<Self, SystemError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tallyhouse-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|source| io(format!("cannot create {}", path.display()), source))?;
        Ok(Self { path, is_kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left lies in the directory for temporary files.
        if !self.is_kept {
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// The ports of one system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemPorts {
    pub ingest: u16,
    pub ingest_admin: u16,
    pub query: u16,
    pub query_admin: u16,
    pub clickhouse_http: u16,
}

impl SystemPorts {
    fn free() -> Result<Self, std::io::Error> {
        let [ingest, ingest_admin, query, query_admin, clickhouse_http] = free_array()?;
        Ok(Self { ingest, ingest_admin, query, query_admin, clickhouse_http })
    }
}

/// A running system. It is killed when the value goes.
#[derive(Debug)]
pub struct System {
    program: Program,
    child: Child,
}

/// What is started, and started again after a crash.
#[derive(Debug)]
struct Program {
    binary: PathBuf,
    settings: Vec<(String, String)>,
    ports: SystemPorts,
    scratch: Scratch,
    /// When its listeners speak TLS.
    tls: Option<ClientTls>,
}

impl System {
    /// Starts a system with empty data and default settings, and waits until it is ready.
    pub async fn start(binary: &Path) -> Result<Self, SystemError> {
        Self::start_with(binary, &[]).await
    }

    /// The same with some of its variables set.
    pub async fn start_with(binary: &Path, settings: &[(&str, &str)]) -> Result<Self, SystemError> {
        let certificate = settings.iter().find(|(name, _)| *name == "TLS_CERT");
        let program = Program {
            binary: binary.to_owned(),
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ports: SystemPorts::free().map_err(|source| io("cannot find free ports".to_owned(), source))?,
            scratch: Scratch::create()?,
            tls: certificate
                .map(|(_, path)| ClientTls::of_own_server(path.as_ref(), None))
                .transpose()
                .map_err(HttpError::from)?,
        };
        credentials::write(&program.scratch.path().join("data"))
            .map_err(|source| io("cannot write credentials".to_owned(), source))?;
        let child = program.spawn()?;
        let mut system = Self { program, child };
        system.ready().await?;
        Ok(system)
    }

    /// Waits until both services take requests.
    pub async fn ready(&mut self) -> Result<(), SystemError> {
        let deadline = Instant::now() + START_WITHIN;
        for url in [self.ingest_admin_url(), self.query_admin_url()] {
            let health = self.endpoint(&url, Duration::from_secs(5))?;
            while !health.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success()) {
                if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                    return Err(SystemError::Ended { log: self.log_tail() });
                }
                if Instant::now() > deadline {
                    return Err(SystemError::Late { what: "become ready", within: START_WITHIN, log: self.log_tail() });
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// `kill -9`, and the same data and ports again. Returns as soon as the new process exists.
    pub async fn crash_and_restart(&mut self) -> Result<(), SystemError> {
        self.child.kill().await.map_err(|source| io("cannot kill tallyhouse".to_owned(), source))?;
        self.child = self.program.spawn()?;
        Ok(())
    }

    /// How it has ended by itself, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The same data and ports again, once it has ended, and waits until it is ready.
    pub async fn start_again(&mut self) -> Result<(), SystemError> {
        self.child = self.program.spawn()?;
        self.ready().await
    }

    /// Sends SIGTERM and waits until it has drained and gone.
    pub async fn stop(mut self) -> Result<(), SystemError> {
        process::signal(self.pid()?, Signal::TERM)?;
        match timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(status) => status.map(drop).map_err(|source| io("cannot wait for tallyhouse".to_owned(), source)),
            Err(_) => Err(SystemError::Late { what: "stop", within: STOP_WITHIN, log: self.log_tail() }),
        }
    }

    /// Leaves its data and log where they are, for whoever looks into a failure, and says where.
    pub fn keep(&mut self) -> &Path {
        self.program.scratch.keep();
        self.program.scratch.path()
    }

    /// The process that serves.
    pub fn pid(&self) -> Result<i32, SystemError> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(|| SystemError::Ended { log: self.log_tail() })
    }

    /// The process of its ClickHouse. `None` while there is none: a pid file may outlive its process, and the number may
    /// then be anybody's, so only a child of ours counts.
    pub fn clickhouse_pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data().join("clickhouse.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        (process::parent(pid).ok()? == self.pid().ok()?).then_some(pid)
    }

    pub fn ports(&self) -> SystemPorts {
        self.program.ports
    }

    /// An endpoint of it, as it speaks.
    pub fn endpoint(&self, url: &str, deadline: Duration) -> Result<Endpoint, HttpError> {
        match &self.program.tls {
            Some(tls) => Endpoint::over(tls, url, deadline),
            None => Endpoint::new(url, deadline),
        }
    }

    fn url(&self, port: u16) -> String {
        let scheme = if self.program.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }

    pub fn ingest_url(&self) -> String {
        self.url(self.program.ports.ingest)
    }

    /// What operators ask of the ingest API.
    pub fn ingest_admin_url(&self) -> String {
        self.url(self.program.ports.ingest_admin)
    }

    /// The query API.
    pub fn query_url(&self) -> String {
        self.url(self.program.ports.query)
    }

    /// What operators ask of the query API.
    pub fn query_admin_url(&self) -> String {
        self.url(self.program.ports.query_admin)
    }

    /// Its ClickHouse, as the user that writes.
    pub fn clickhouse(&self) -> ClickHouseConfig {
        self.clickhouse_as("writer")
    }

    /// The same as another of its users.
    pub fn clickhouse_as(&self, user: &str) -> ClickHouseConfig {
        ClickHouseConfig {
            url: format!("http://127.0.0.1:{}", self.program.ports.clickhouse_http),
            user: user.to_owned(),
            password: credentials::PASSWORD.to_owned(),
        }
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.program.scratch.path().join("data")
    }

    /// The end of what it wrote.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(log_path(self.program.scratch.path())).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Program {
    fn spawn(&self) -> Result<Child, SystemError> {
        let log = log_path(self.scratch.path());
        let open = || File::options().create(true).append(true).open(&log);
        let (out, err) = open()
            .and_then(|out| Ok((out, open()?)))
            .map_err(|source| io("cannot open a log file".to_owned(), source))?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        Command::new(&self.binary)
            .arg("up")
            .env("TALLYHOUSE_DEV", "1")
            .env("TALLYHOUSE_DATA", self.scratch.path().join("data"))
            .env("INGEST_ADDR", address(self.ports.ingest))
            .env("INGEST_ADMIN_ADDR", address(self.ports.ingest_admin))
            .env("QUERY_ADDR", address(self.ports.query))
            .env("QUERY_ADMIN_ADDR", address(self.ports.query_admin))
            .env("CLICKHOUSE_HTTP_PORT", self.ports.clickhouse_http.to_string())
            .env_remove("CLICKHOUSE_URL")
            .env_remove("KAFKA_BROKERS")
            .env_remove("REDIS_URL")
            // Whoever looks at its admin ports has no token.
            .env_remove("ADMIN_TOKEN")
            .env_remove("TLS_CERT")
            .env_remove("TLS_KEY")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| io(format!("cannot start {}", self.binary.display()), source))
    }
}

fn log_path(scratch: &Path) -> PathBuf {
    scratch.join("tallyhouse.log")
}

fn io(what: String, source: std::io::Error) -> SystemError {
    SystemError::Io { what, source }
}
