//! Watches both processes during an attack: their memory at its highest, and whether ClickHouse is the same process.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::process;
use crate::system::System;

const EVERY: Duration = Duration::from_millis(50);

/// What was seen of the processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Resident bytes of the service when the attack began.
    pub(super) service_before: u64,
    /// The same at its highest.
    pub(super) service_peak: u64,
    pub(super) engine_peak: u64,
    /// How often ClickHouse was another process than before.
    pub(super) engine_restarts: u32,
}

pub(super) struct Watch {
    engine: Option<i32>,
    seen: Seen,
}

impl Watch {
    pub(super) fn begin(system: &System) -> Self {
        let service_before = system.pid().ok().and_then(resident).unwrap_or_default();
        Self { engine: system.clickhouse_pid(), seen: Seen { service_before, ..Seen::default() } }
    }

    /// Looks until it is dropped.
    pub(super) async fn look(&mut self, system: &System) -> Infallible {
        loop {
            if let Some(service) = system.pid().ok().and_then(resident) {
                self.seen.service_peak = self.seen.service_peak.max(service);
            }
            if let Some(engine) = system.clickhouse_pid() {
                self.seen.engine_peak = self.seen.engine_peak.max(resident(engine).unwrap_or_default());
                if self.engine.replace(engine).is_some_and(|before| before != engine) {
                    self.seen.engine_restarts += 1;
                }
            }
            sleep(EVERY).await;
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }
}

fn resident(pid: i32) -> Option<u64> {
    process::memory(pid).ok().map(|memory| memory.resident)
}
