//! How reading holds up when something goes wrong, measured on two separate instances of `query-api` over one ClickHouse and one
//! Redis of their own.
//!
//! ```text
//! start -> events -> [`stampede`] -> [`killed_leader`] killed -> [`redis`] away -> [`isolation`] -> [`late`] event -> [`closed_tabs`]
//!       -> ClickHouse [`away`]
//! ```
//!
//! Each part starts the instances that it needs. Everything shares the machine with whoever asks.

pub mod away;
pub mod closed_tabs;
mod connection;
pub mod freshness;
mod instance;
pub mod isolation;
pub mod killed_leader;
pub mod late;
pub mod open_loop;
mod questions;
pub mod redis;
mod report;
mod stage;
pub mod stampede;

use std::sync::Arc;

use crate::bench::machine;
use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::daemon::DaemonError;
use crate::development::PROJECT;
use crate::process::ProcessError;
use crate::reads::generate::{self, Arrivals};
use crate::reads::{self, ReadsError};
use crate::redis::RedisError;
use crate::system::SystemError;
use questions::Questions;
use stage::Stage;
use tallyhouse_service::http_client::HttpError;

pub use report::Report;
pub use stage::Programs;

#[derive(Debug, Clone)]
pub struct DegradeConfig {
    pub programs: Programs,
    /// Events, made inside ClickHouse.
    pub events: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DegradeError {
    /// ClickHouse and the ingester did not start or stop.
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Events(#[from] ReadsError),
    /// A call that had to work.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Ports and connections.
    #[error("a port or a connection: {0}")]
    Io(#[from] std::io::Error),
    /// Something that makes a measurement worthless.
    #[error("{0}")]
    Worthless(String),
}

/// Measures everything; `progress` gets each step.
pub async fn run(config: &DegradeConfig, progress: impl Fn(&str)) -> Result<Report, DegradeError> {
    stampede::raise_limit();
    progress("starting a system of its own");
    let mut stage = Stage::start(&config.programs).await?;
    progress("making events");
    let clickhouse = ClickHouse::with_timeout(&stage.clickhouse_config(), generate::TIMEOUT)?;
    let arrivals = Arrivals { events: config.events, of_last_day: 1 };
    generate::events(&clickhouse, PROJECT, arrivals, |_| {}).await?;
    reads::until_merged(&stage.clickhouse).await?;
    let questions = Arc::new(Questions::new());
    progress("a stampede");
    let stampede = stampede::measure(&mut stage, &questions).await?;
    progress("who computes is killed");
    let holder = killed_leader::measure(&mut stage, &questions).await?;
    progress("dashboards without Redis");
    let redis = redis::measure(&mut stage, &questions).await?;
    progress("dashboards beside ad hoc questions");
    let isolation = isolation::measure(&mut stage, &questions).await?;
    progress("late events");
    let late = late::measure(&mut stage).await?;
    progress("closed tabs");
    let tab = closed_tabs::measure(&mut stage, &questions).await?;
    progress("without ClickHouse");
    let away = away::measure(&mut stage, &questions).await?;
    stage.stop().await?;
    let machine = machine::describe();
    Ok(Report { machine, events: config.events, stampede, holder, redis, isolation, late, tab, away })
}
