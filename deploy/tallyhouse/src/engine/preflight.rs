//! What must be free before ClickHouse is started. Each is given a moment: a predecessor that was just killed may still
//! be giving back its memory, and its lock and ports with it.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::EngineError;
use super::settings::Files;

const DATA_WITHIN: Duration = Duration::from_secs(15);
const PORT_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Waits until no ClickHouse works on the data.
pub(super) async fn wait_for_data(files: &Files) -> Result<(), EngineError> {
    let deadline = Instant::now() + DATA_WITHIN;
    // ClickHouse holds `flock` on this file while it runs and writes its process id into it.
    while is_locked(files)? {
        if Instant::now() > deadline {
            let pid = std::fs::read_to_string(&files.lock).ok().and_then(|text| pid_in(&text));
            return Err(EngineError::DataLocked { path: files.tables.clone(), pid });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until a port of this machine can be listened on.
pub(super) async fn wait_for_port(variable: &'static str, port: u16) -> Result<(), EngineError> {
    let deadline = Instant::now() + PORT_WITHIN;
    while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline {
            return Err(EngineError::PortTaken { port, variable });
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn is_locked(files: &Files) -> Result<bool, EngineError> {
    let failed = |source| EngineError::File { path: files.lock.clone(), source };
    let file = match File::open(&files.lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn pid_in(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("PID:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_known() {
        assert_eq!(pid_in("PID: 4711\nStarted at: 2026-11-21 03:19:32\nRevision: 54515\n"), Some(4711));
        assert_eq!(pid_in(""), None);
    }
}
