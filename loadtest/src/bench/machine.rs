//! The machine that a report was made on.

use std::process::Command;

use jiff::Timestamp;
use serde::Serialize;

/// The head of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// The commit that the working directory stands on, `+` when it is changed.
    pub commit: String,
    /// How the report was asked for.
    pub command: String,
    /// When.
    pub date: String,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_gib, commit, command, date } = self;
        write!(f, "{cores} x {processor}, {memory_gib} GiB, {date}\ncommit {commit}: {command}")
    }
}

/// Describes this machine; what cannot be found out is `unknown`.
pub fn describe() -> Machine {
    Machine {
        processor: proc_field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: proc_field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib >> 20),
        commit: commit().unwrap_or_else(unknown),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        date: Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
    }
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(format!("{}{}", git(&["rev-parse", "--short", "HEAD"])?, if changed { "+" } else { "" }))
}

fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn unknown() -> String {
    "unknown".to_owned()
}
