//! Errors of the engine, each one line that says what to do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::program::ProgramError;

/// A ClickHouse that did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing to run, or not the right thing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Somebody listens there already.
    #[error("port {port} is taken; end whatever listens there, or choose another port with {variable}")]
    PortTaken {
        port: u16,
        /// The variable that sets it.
        variable: &'static str,
    },
    /// No address of this machine.
    #[error("CLICKHOUSE_LISTEN: {address} is no address of this machine")]
    NotOurs { address: IpAddr },
    /// A running server did not take other accounts.
    #[error("ClickHouse did not read its accounts anew: {0}")]
    Accounts(String),
    /// Another ClickHouse works on the same data.
    #[error("{} is in use by another ClickHouse{}; stop it, or choose another folder with TALLYHOUSE_DATA",
        .path.display(), holder(*.pid))]
    DataLocked {
        path: PathBuf,
        /// The process, when it is known.
        pid: Option<u32>,
    },
    /// A file or folder of ours.
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// No process or no thread.
    #[error("ClickHouse cannot be started: {0}")]
    Spawn(std::io::Error),
    /// Its URL is not one.
    #[error(transparent)]
    Url(#[from] tallyhouse_service::http_client::HttpError),
    /// It ended while it was starting.
    #[error("ClickHouse ended while it was starting ({status}); its last words: {log}")]
    Ended {
        status: String,
        /// The end of what it wrote.
        log: String,
    },
    /// It was told to stop while it was starting.
    #[error("ClickHouse was stopped while it was starting")]
    Stopped,
    /// It did not answer in time.
    #[error("ClickHouse did not answer within {within:?}; its last words: {log}")]
    Silent {
        /// How long it had.
        within: Duration,
        /// The end of what it wrote.
        log: String,
    },
    /// What answered is not what this version is made for.
    #[error(
        "ClickHouse {found} answers, and {expected} is needed; `make run` installs it, TALLYHOUSE_ENGINE=library uses it"
    )]
    Version {
        /// What it calls itself.
        found: String,
        /// What it should begin with.
        expected: &'static str,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
