//! What an attack knows of the system: its ports, the attacker's keys, and how hard it is to hit.

use std::time::Duration;

use rustix::process::Signal;

use super::{SiegeConfig, SiegeError};
use crate::clickhouse::ClickHouseConfig;
use crate::process;
use crate::system::{System, SystemPorts};

/// How long each attack goes on, and with how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// What was tried: thousands of connections, half a minute each.
    Full,
    /// The same list for a test: a tenth of it, for seconds.
    Short,
}

impl Scale {
    /// How long an attack that could go on for ever goes on.
    pub(super) fn lasts(self) -> Duration {
        match self {
            Self::Full => Duration::from_secs(20),
            Self::Short => Duration::from_millis(1_500),
        }
    }

    /// Of so many, how many there are.
    pub(super) fn of(self, all: usize) -> usize {
        match self {
            Self::Full => all,
            Self::Short => all.div_ceil(10),
        }
    }
}

/// The keys of the project that attacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attacker {
    pub ingest_key: String,
    pub query_key: String,
}

/// Where an attack is aimed at.
pub(super) struct Target {
    pub(super) ports: SystemPorts,
    /// The engine's own protocol, which listens only where it is asked for.
    pub(super) native: u16,
    pub(super) attacker: Attacker,
    pub(super) scale: Scale,
    /// What Grafana is given.
    pub(super) grafana: ClickHouseConfig,
    /// Who writes: its password must not be found by anybody.
    pub(super) writer: ClickHouseConfig,
    service: i32,
    engine: Option<i32>,
}

impl Target {
    pub(super) fn of(system: &System, config: &SiegeConfig, native: u16) -> Result<Self, SiegeError> {
        Ok(Self {
            ports: system.ports(),
            native,
            attacker: config.attacker.clone(),
            scale: config.scale,
            grafana: system.clickhouse_as("grafana"),
            writer: system.clickhouse(),
            service: system.pid()?,
            engine: system.clickhouse_pid(),
        })
    }

    pub(super) fn signal_service(&self, signal: Signal) -> Result<(), SiegeError> {
        Ok(process::signal(self.service, signal)?)
    }

    pub(super) fn service_lives(&self) -> bool {
        process::memory(self.service).is_ok()
    }

    /// Whether the engine that there was is still there.
    pub(super) fn engine_lives(&self) -> bool {
        self.engine.is_some_and(|engine| process::memory(engine).is_ok())
    }

    /// Whether there was an engine to be signalled.
    pub(super) fn signal_engine(&self, signal: Signal) -> bool {
        self.engine.is_some_and(|engine| process::signal(engine, signal).is_ok())
    }
}
