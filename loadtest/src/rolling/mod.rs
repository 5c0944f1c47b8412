//! A rolling restart under load: two gateways and two query APIs behind nginx, two consumers, one after the other by SIGTERM.
//!
//! ```text
//! fleet up -> nginx -> events and questions through it -> each instance: SIGTERM, drained, started, ready -> all stored -> compare
//! ```
//!
//! What has to hold: every acknowledged event is counted once, each question is answered with 2xx, and each instance was not ready while it still
//! served. nginx runs with `deploy/nginx/tallyhouse.conf.template` as it is.

mod nginx;
mod questions;
mod report;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

use crate::chaos::fleet::{Fleet, FleetError, Layout, Programs};
use crate::chaos::load::{self, LoadConfig};
use crate::chaos::plan::Target;
use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::client::ClientConfig;
use crate::daemon::DaemonError;
use crate::verify;
use crate::writers::WritersError;
use tallyhouse_service::http_client::HttpError;

pub use report::RollingReport;

/// Instances of each kind.
const INSTANCES: usize = 2;
/// Everything must be stored so long after the last restart.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct RollingConfig {
    pub programs: Programs,
    pub order: Order,
    /// How often all are restarted.
    pub rounds: u32,
    /// Load before the first restart, between two, and after the last.
    pub calm: Duration,
    /// `TALLYHOUSE_SHUTDOWN_DELAY_MS`
    pub delay: Duration,
    /// Events per second.
    pub events: u32,
    /// Questions per second.
    pub questions: u32,
}

/// What is restarted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OneByOne,
    /// The first gateway, consumer and query API, then the second of each: in a third of the time.
    OneOfEach,
}

impl Order {
    fn steps(self) -> Vec<Vec<Target>> {
        let kinds = [Target::Gateway, Target::Consumer, Target::QueryApi];
        match self {
            Self::OneOfEach => (0..INSTANCES).map(|index| kinds.iter().map(|kind| kind(index)).collect()).collect(),
            Self::OneByOne => {
                kinds.iter().flat_map(|kind| (0..INSTANCES).map(move |index| vec![kind(index)])).collect()
            }
        }
    }
}

/// Why it could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum RollingError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("nginx is not on PATH: install nginx-light; `deploy/tallyhouse/setup.sh --tests` does")]
    NoNginx,
    #[error("nginx: {0}")]
    Nginx(String),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The load broke off.
    #[error(transparent)]
    Load(#[from] WritersError),
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The store could not be looked into.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error("the load panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// Restarts everything on a fleet of its own; `progress` gets a line per restart.
pub async fn run(config: &RollingConfig, progress: impl Fn(String)) -> Result<RollingReport, RollingError> {
    let settings = [
        ("TALLYHOUSE_SHUTDOWN_DELAY_MS".to_owned(), config.delay.as_millis().to_string()),
        ("TRUSTED_PROXIES".to_owned(), "127.0.0.0/8".to_owned()),
        // All come from one address.
        ("RATE_LIMITS".to_owned(), "off".to_owned()),
    ];
    let layout = Layout {
        brokers: 1,
        gateways: INSTANCES,
        consumers: INSTANCES,
        query_apis: INSTANCES,
        settings: settings.into(),
    };
    let mut fleet = Fleet::start(&config.programs, layout).await?;
    let balancer = nginx::start(&fleet).await?;
    progress("rolling: the fleet is ready behind nginx".to_owned());

    let (stop, stopped) = watch::channel(false);
    let client = ClientConfig { give_up_after: COMPLETE_WITHIN, ..ClientConfig::development(&balancer.ingest) };
    let load = LoadConfig { client, rate: config.events, run: 1, poison: None };
    let sending = tokio::spawn({
        let stopped = stopped.clone();
        async move { load::run(&load, stopped).await }
    });
    let asking = tokio::spawn(questions::run(balancer.query.clone(), config.questions, stopped));

    let mut restarts = Vec::new();
    for _ in 0..config.rounds {
        for step in config.order.steps() {
            sleep(config.calm).await;
            for restart in fleet.restart(&step).await? {
                progress(report::line(&restart));
                restarts.push(restart);
            }
        }
    }
    sleep(config.calm).await;
    let restarted = Instant::now();
    stop.send_replace(true);
    let (sent, answers) = (sending.await??, asking.await??);
    let clickhouse = ClickHouse::new(fleet.clickhouse())?;
    verify::until_complete(&clickhouse, &sent.ledger, COMPLETE_WITHIN).await;
    let stored_after = restarted.elapsed();
    let verification = verify::compare(&clickhouse, &sent.ledger).await?;
    let mut report = RollingReport {
        restarts,
        handed_back: sent.handed_back,
        told: sent.told,
        unanswered: sent.unanswered,
        longest_gap: sent.longest_gap,
        answers,
        stored_after,
        verification,
        kept: None,
    };
    if !report.is_exact() {
        report.kept = Some(fleet.keep().to_owned());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_both_instances_of_a_kind_and_each_once() {
        for order in [Order::OneByOne, Order::OneOfEach] {
            let steps = order.steps();
            let kind = |target: &Target| std::mem::discriminant(target);
            for step in &steps {
                assert!(
                    step.iter().enumerate().all(|(at, one)| step[..at].iter().all(|other| kind(one) != kind(other)))
                );
            }
            let mut all = steps.concat();
            all.sort();
            all.dedup();
            assert_eq!((all.len(), steps.concat().len()), (6, 6));
        }
    }
}
