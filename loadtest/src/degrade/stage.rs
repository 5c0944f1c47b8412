//! What is broken: ClickHouse and the ingester in one process, a Redis, and two instances of `query-api` on both.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, sleep};

use super::DegradeError;
use super::instance::{Instance, Start};
use crate::chaos::fleet::free_addresses;
use crate::clickhouse::{ClickHouse, ClickHouseConfig};
use crate::daemon::{Daemon, Launch};
use crate::process;
use crate::system::{Scratch, System};

const COMMAND_WITHIN: Duration = Duration::from_secs(5);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at something that is awaited.
pub(super) const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone)]
pub struct Programs {
    /// `tallyhouse`
    pub tallyhouse: PathBuf,
    /// `query-api`
    pub query_api: PathBuf,
}

/// Everything that runs but the instances, which each part starts as it needs them. All of it is killed when the value goes.
pub(super) struct Stage {
    pub(super) clickhouse: ClickHouse,
    pub(super) redis: Redis,
    system: System,
    query_api: PathBuf,
    started: usize,
    scratch: Scratch,
}

pub(super) type Pair = [Instance; 2];

impl Stage {
    /// Starts everything with empty data and waits until it is ready.
    pub(super) async fn start(programs: &Programs) -> Result<Self, DegradeError> {
        let scratch = Scratch::create()?;
        let redis = Redis::start(&scratch).await?;
        let system = System::start_with(&programs.tallyhouse, &[("REDIS_URL", &redis.url())]).await?;
        let clickhouse = ClickHouse::new(&system.clickhouse())?;
        Ok(Self { clickhouse, redis, system, query_api: programs.query_api.clone(), started: 0, scratch })
    }

    /// Two instances with these variables beside those of every instance.
    pub(super) async fn pair(&mut self, settings: &[(&str, &str)]) -> Result<Pair, DegradeError> {
        Ok([self.instance(settings).await?, self.instance(settings).await?])
    }

    /// One more instance, ready.
    pub(super) async fn instance(&mut self, settings: &[(&str, &str)]) -> Result<Instance, DegradeError> {
        self.started += 1;
        let start = Start {
            program: &self.query_api,
            folder: self.scratch.path(),
            number: self.started,
            clickhouse_url: &self.system.clickhouse().url,
            redis_url: &self.redis.url(),
            settings,
        };
        Instance::start(start).await
    }

    pub(super) fn ingest_url(&self) -> String {
        self.system.ingest_url()
    }

    /// Where ClickHouse listens.
    pub(super) fn clickhouse_config(&self) -> ClickHouseConfig {
        self.system.clickhouse()
    }

    /// Kills ClickHouse, and keeps who would start it again from doing so: connections are refused.
    pub(super) fn remove_clickhouse(&self) -> Result<(), DegradeError> {
        process::signal(self.system.pid()?, Signal::STOP)?;
        Ok(process::signal(self.clickhouse_pid()?, Signal::KILL)?)
    }

    /// Lets it be started again, and waits until it answers.
    pub(super) async fn bring_clickhouse_back(&mut self) -> Result<(), DegradeError> {
        process::signal(self.system.pid()?, Signal::CONT)?;
        let alive = async || self.clickhouse.number("SELECT 1").await.is_ok();
        until("ClickHouse is back", alive).await?;
        Ok(self.system.ready().await?)
    }

    /// ClickHouse stands still: connections are taken, and nothing is answered.
    pub(super) fn freeze_clickhouse(&self) -> Result<(), DegradeError> {
        Ok(process::signal(self.clickhouse_pid()?, Signal::STOP)?)
    }

    /// It goes on.
    pub(super) fn thaw_clickhouse(&self) -> Result<(), DegradeError> {
        Ok(process::signal(self.clickhouse_pid()?, Signal::CONT)?)
    }

    /// Ends it in order.
    pub(super) async fn stop(self) -> Result<(), DegradeError> {
        Ok(self.system.stop().await?)
    }

    fn clickhouse_pid(&self) -> Result<i32, DegradeError> {
        self.system
            .clickhouse_pid()
            .ok_or_else(|| DegradeError::Worthless("there is no ClickHouse to break".to_owned()))
    }
}

pub(super) struct Redis {
    launch: Launch,
    daemon: Daemon,
    address: String,
}

impl Redis {
    async fn start(scratch: &Scratch) -> Result<Self, DegradeError> {
        let address = one_address()?;
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let arguments = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let launch = Launch {
            name: "redis".to_owned(),
            program: "redis-server".into(),
            arguments: arguments.iter().map(Into::into).collect(),
            env: Vec::new(),
            without: Vec::new(),
            log: scratch.path().join("redis.log"),
        };
        let redis = Self { daemon: Daemon::start(&launch)?, launch, address };
        redis.ready().await?;
        Ok(redis)
    }

    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// It stands still: commands are taken, and nothing is answered.
    pub(super) fn freeze(&mut self) -> Result<(), DegradeError> {
        Ok(self.daemon.signal(Signal::STOP)?)
    }

    /// It goes on.
    pub(super) fn thaw(&mut self) -> Result<(), DegradeError> {
        Ok(self.daemon.signal(Signal::CONT)?)
    }

    /// `kill -9`: connections are refused.
    pub(super) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it again, empty.
    pub(super) async fn start_again(&mut self) -> Result<(), DegradeError> {
        self.daemon = Daemon::start(&self.launch)?;
        self.ready().await
    }

    /// One inline command, answered within seconds.
    pub(super) async fn command(&self, command: &str) -> Result<(), DegradeError> {
        let exchange = async {
            let mut stream = BufReader::new(tokio::net::TcpStream::connect(&self.address).await?);
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(COMMAND_WITHIN, exchange).await;
        match answer {
            Ok(Ok(answer)) if !answer.starts_with('-') => Ok(()),
            Ok(Ok(refusal)) => Err(DegradeError::Worthless(format!("Redis: {command}: {}", refusal.trim_end()))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(DegradeError::Worthless(format!("Redis does not answer: {command}"))),
        }
    }

    async fn ready(&self) -> Result<(), DegradeError> {
        until("Redis listens", async || tokio::net::TcpStream::connect(&self.address).await.is_ok()).await
    }
}

/// Waits until it is so, for a minute at most.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<(), DegradeError> {
    let deadline = Instant::now() + READY_WITHIN;
    while !is_so().await {
        if Instant::now() > deadline {
            return Err(DegradeError::Worthless(format!("not within {READY_WITHIN:?}: {what}")));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// An address that nobody listens on.
pub(super) fn one_address() -> std::io::Result<String> {
    free_addresses(1)?.pop().ok_or_else(|| std::io::Error::other("no port is free"))
}
