//! Preflight: waits until the lock and the ports are free before ClickHouse starts. A predecessor that was just killed may still
//! be freeing its memory, and holds its lock and ports until then.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::EngineError;
use super::settings::{self, Files};

const DATA_WITHIN: Duration = Duration::from_secs(15);
const PORT_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Waits until no ClickHouse works on the data.
pub(super) async fn wait_for_data(files: &Files) -> Result<(), EngineError> {
    let deadline = Instant::now() + DATA_WITHIN;
    while is_locked(&files.lock)? {
        if Instant::now() > deadline {
            let pid = holder_of(&files.lock);
            return Err(EngineError::DataLocked { path: files.tables.clone(), pid });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until a port of this machine can be listened on.
pub(super) async fn wait_for_port(variable: &'static str, address: SocketAddr) -> Result<(), EngineError> {
    let deadline = Instant::now() + PORT_WITHIN;
    while let Err(error) = TcpListener::bind(address) {
        if error.kind() == ErrorKind::AddrNotAvailable {
            return Err(EngineError::NotOurs { address: address.ip() });
        }
        if Instant::now() > deadline {
            return Err(EngineError::PortTaken { port: address.port(), variable });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Whether a ClickHouse works on the tables below a data folder, and which, when it says so. Makes nothing.
pub fn data_in_use(data: &Path) -> Result<Option<Option<u32>>, EngineError> {
    let lock = settings::lock(data);
    Ok(is_locked(&lock)?.then(|| holder_of(&lock)))
}

/// ClickHouse holds `flock` on this file while it runs and writes its process id into it.
fn is_locked(lock: &Path) -> Result<bool, EngineError> {
    let failed = |source| EngineError::File { path: lock.to_owned(), source };
    let file = match File::open(lock) {
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

fn holder_of(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock).ok().and_then(|text| holder(&text))
}

fn holder(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("PID:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_known() {
        assert_eq!(holder("PID: 4711\nStarted at: 2026-11-21 03:19:32\nRevision: 54515\n"), Some(4711));
        assert_eq!(holder(""), None);
    }
}
