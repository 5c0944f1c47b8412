//! Processor time and memory of a process, from the kernel, and signals to it.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Why a process cannot be looked at or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is gone, or this is not Linux.
    #[error("process {0} cannot be read from /proc")]
    Unreadable(i32),
    /// The signal was not delivered.
    #[error("process {pid} cannot be signalled: {source}")]
    Signal {
        /// Whom it was for.
        pid: i32,
        source: rustix::io::Errno,
    },
}

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now, in bytes.
    pub resident: u64,
    /// At its highest since the process started, in bytes.
    pub peak: u64,
}

/// Reads the memory of a process.
pub fn memory(pid: i32) -> Result<Memory, ProcessError> {
    let status = status(pid)?;
    let kib = |name| field(&status, name).and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    match (kib("VmRSS"), kib("VmHWM")) {
        (Some(resident), Some(peak)) => Ok(Memory { resident: resident * 1024, peak: peak * 1024 }),
        _ => Err(ProcessError::Unreadable(pid)),
    }
}

/// The processor time that a process has used in all, in steps of 10 ms.
pub fn processor_time(pid: i32) -> Result<Duration, ProcessError> {
    /// Linux tells times in hundredths of a second, whatever its own clock does.
    const TICK: Duration = Duration::from_millis(10);
    let unreadable = || ProcessError::Unreadable(pid);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| unreadable())?;
    // The name, in parentheses, may hold anything. The fields after it begin with the third; user and system time are 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(TICK * user.saturating_add(system)),
        _ => Err(unreadable()),
    }
}

/// The parent of a process.
pub fn parent(pid: i32) -> Result<i32, ProcessError> {
    field(&status(pid)?, "PPid").and_then(|text| text.trim().parse().ok()).ok_or(ProcessError::Unreadable(pid))
}

pub fn signal(pid: i32, signal: Signal) -> Result<(), ProcessError> {
    let target = Pid::from_raw(pid).ok_or(ProcessError::Unreadable(pid))?;
    kill_process(target, signal).map_err(|source| ProcessError::Signal { pid, source })
}

fn status(pid: i32) -> Result<String, ProcessError> {
    std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| ProcessError::Unreadable(pid))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let me = i32::try_from(std::process::id()).unwrap();
        let memory = memory(me).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        assert!(parent(me).unwrap() > 0);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while processor_time(me).unwrap().is_zero() && std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        assert!(!processor_time(me).unwrap().is_zero());
        assert!(matches!(super::memory(i32::MAX), Err(ProcessError::Unreadable(_))));
    }
}
