//! The system under test: ClickHouse and the ingester in one process, a Redis, and two instances of `query-api` on both.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::DegradeError;
use super::instance::{Instance, Start};
use crate::clickhouse::{ClickHouse, ClickHouseConfig};
use crate::process;
use crate::redis::Redis;
use crate::system::{Scratch, System};

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
        let redis = Redis::start(scratch.path()).await?;
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
