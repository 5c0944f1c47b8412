//! A Redis server on this machine, to be used, killed and made to stand still.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::Files;
use crate::daemon::{Daemon, DaemonError, Launch, log_tail};
use crate::ports;
use crate::process::{self, ProcessError};

const READY_WITHIN: Duration = Duration::from_secs(60);
const COMMAND_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Why there is no Redis, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// A port, or the connection.
    #[error("Redis: {0}")]
    Io(#[from] io::Error),
    /// `redis-server`
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A signal.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It does not answer at its start.
    #[error("Redis was not ready within {READY_WITHIN:?}; the end of its log:\n{0}")]
    NotReady(String),
    /// It does not answer a command.
    #[error("Redis does not answer: {0}")]
    Silent(String),
    /// It answered with an error.
    #[error("Redis: {command}: {answer}")]
    Refused {
        /// What it was asked.
        command: String,
        /// What it said.
        answer: String,
    },
}

/// How one is started: it listens on a port and keeps nothing, but for what a `SAVE` writes into the folder.
pub fn launch(port: impl Display, folder: &Path) -> Launch {
    let port = port.to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
    Launch {
        name: "redis".to_owned(),
        program: "redis-server".into(),
        arguments: arguments.iter().map(Into::into).chain([folder.into()]).collect(),
        env: Vec::new(),
        without: Vec::new(),
        log: folder.join("redis.log"),
    }
}

/// A server. It is killed when the value goes.
#[derive(Debug)]
pub struct Redis {
    launch: Launch,
    daemon: Daemon,
    address: String,
}

impl Redis {
    /// Starts one on a free port and waits until it answers.
    pub async fn start(folder: &Path) -> Result<Self, RedisError> {
        let [port] = ports::free_array()?;
        Self::start_on(port, folder).await
    }

    /// The same on a port.
    pub async fn start_on(port: u16, folder: &Path) -> Result<Self, RedisError> {
        let launch = launch(port, folder);
        let redis = Self { daemon: Daemon::start(&launch)?, launch, address: format!("127.0.0.1:{port}") };
        redis.ready().await?;
        Ok(redis)
    }

    /// One with more options, such as `--replicaof 127.0.0.1 6379`.
    pub async fn start_with(port: u16, folder: &Path, options: &[&str]) -> Result<Self, RedisError> {
        let mut launch = launch(port, folder);
        launch.arguments.extend(options.iter().map(Into::into));
        let redis = Self { daemon: Daemon::start(&launch)?, launch, address: format!("127.0.0.1:{port}") };
        redis.ready().await?;
        Ok(redis)
    }

    /// A Sentinel on the port that its settings name.
    pub async fn start_sentinel(port: u16, folder: &Path, settings: &Path) -> Result<Self, RedisError> {
        let arguments = vec![settings.into(), "--sentinel".into()];
        let launch = Launch { name: "sentinel".to_owned(), arguments, ..launch(port, folder) };
        let redis = Self { daemon: Daemon::start(&launch)?, launch, address: format!("127.0.0.1:{port}") };
        redis.ready().await?;
        Ok(redis)
    }

    /// One that also speaks TLS, on another port, and asks for certificates of the authority in `ca`. What it was given is
    /// for tests; commands of this value go over the plain port.
    pub async fn start_secure(folder: &Path, shown: &Files, ca: &Path) -> Result<(Self, u16), RedisError> {
        let [plain, secure] = ports::free_array()?;
        let mut launch = launch(plain, folder);
        let options = [
            ("--tls-port", secure.to_string().into()),
            ("--tls-cert-file", shown.certificate.as_os_str().to_owned()),
            ("--tls-key-file", shown.key.as_os_str().to_owned()),
            ("--tls-ca-cert-file", ca.as_os_str().to_owned()),
            ("--tls-auth-clients", "yes".into()),
        ];
        launch.arguments.extend(options.into_iter().flat_map(|(name, value)| [name.into(), value]));
        let redis = Self { daemon: Daemon::start(&launch)?, launch, address: format!("127.0.0.1:{plain}") };
        redis.ready().await?;
        Ok((redis, secure))
    }

    /// Where it is, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// It stands still: commands are taken, and nothing is answered.
    pub fn freeze(&self) -> Result<(), RedisError> {
        Ok(process::signal(self.daemon.pid()?, Signal::STOP)?)
    }

    /// It goes on.
    pub fn thaw(&self) -> Result<(), RedisError> {
        Ok(process::signal(self.daemon.pid()?, Signal::CONT)?)
    }

    /// `kill -9`: connections are refused.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Kills it and starts it again, with what it held at its last `SAVE`.
    pub async fn start_again(&mut self) -> Result<(), RedisError> {
        self.daemon.kill();
        self.daemon = Daemon::start(&self.launch)?;
        self.ready().await
    }

    /// One inline command that must not fail.
    pub async fn command(&self, command: &str) -> Result<(), RedisError> {
        let answer = self.ask(command).await?;
        if answer.starts_with('-') {
            return Err(RedisError::Refused { command: command.to_owned(), answer });
        }
        Ok(())
    }

    /// One inline command; the first line of the answer as it is, within seconds.
    pub async fn ask(&self, command: &str) -> Result<String, RedisError> {
        let exchange = async {
            let mut stream = BufReader::new(TcpStream::connect(&self.address).await?);
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = String::new();
            if stream.read_line(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok::<_, io::Error>(answer.trim_end().to_owned())
        };
        let answer = timeout(COMMAND_WITHIN, exchange).await;
        Ok(answer.map_err(|_| RedisError::Silent(command.to_owned()))??)
    }

    async fn ready(&self) -> Result<(), RedisError> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.ask("PING").await.is_ok_and(|answer| answer == "+PONG") {
            if Instant::now() > deadline {
                return Err(RedisError::NotReady(log_tail(&self.launch.log)));
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}
