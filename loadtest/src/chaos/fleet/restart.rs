//! Restarts members as an operator does: SIGTERM, its drain, the same command again; and watches what others see meanwhile.

use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{Fleet, FleetError, Member, READY_WITHIN};
use crate::chaos::plan::Target;
use crate::daemon::{Daemon, Stopped};
use tallyhouse_service::http_client::Endpoint;

/// The delay (20 s at most), the drain of 20 s, and what a program may take beyond it.
const END_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// What was seen of a restart.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    pub target: Target,
    /// From SIGTERM until readiness was off while the process was still there.
    pub unready_after: Option<Duration>,
    /// Whether its listener for requests still took connections then.
    pub served_while_unready: bool,
    /// From SIGTERM to its end.
    pub ended_after: Duration,
    pub stopped: Stopped,
    /// From its start until it was ready again.
    pub ready_after: Duration,
}

impl Fleet {
    /// Restarts these members, all at once.
    pub async fn restart(&mut self, targets: &[Target]) -> Result<Vec<Restart>, FleetError> {
        self.look_at_memory();
        let members = self.members.iter_mut().filter(|(target, _)| targets.contains(target));
        try_join_all(members.map(|(target, member)| member.restart(*target))).await
    }
}

impl Member {
    async fn restart(&mut self, target: Target) -> Result<Restart, FleetError> {
        let health = match &self.admin {
            Some(admin) => Some(Endpoint::new(&format!("http://{admin}/"), Duration::from_secs(5))?),
            None => None,
        };
        let asked = Instant::now();
        self.daemon.signal(Signal::TERM)?;
        let (mut unready_after, mut served_while_unready) = (None, false);
        let mut stopped = Stopped::Drained;
        while !self.daemon.has_ended() {
            if asked.elapsed() > END_WITHIN {
                self.daemon.kill();
                stopped = Stopped::Killed;
            }
            if unready_after.is_none() && is_unready(health.as_ref()).await {
                unready_after = Some(asked.elapsed());
                served_while_unready = tokio::net::TcpStream::connect(&self.address).await.is_ok();
            }
            sleep(POLL).await;
        }
        let ended_after = asked.elapsed();
        let began = Instant::now();
        self.daemon = Daemon::start(&self.launch)?;
        while !is_ready(health.as_ref()).await {
            if began.elapsed() > READY_WITHIN || self.daemon.has_ended() {
                return Err(self.not_ready());
            }
            sleep(POLL).await;
        }
        let ready_after = began.elapsed();
        Ok(Restart { target, unready_after, served_while_unready, ended_after, stopped, ready_after })
    }
}

/// Whether it says that it is not ready. One that does not answer has ended.
async fn is_unready(health: Option<&Endpoint>) -> bool {
    let Some(health) = health else { return false };
    health.get("/health/ready").await.is_ok_and(|reply| !reply.status.is_success())
}

async fn is_ready(health: Option<&Endpoint>) -> bool {
    let Some(health) = health else { return true };
    health.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success())
}
