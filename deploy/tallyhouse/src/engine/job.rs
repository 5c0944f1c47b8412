//! One process of the engine: how it is started, and what is left of it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cage::Cage;
use super::dedup_log;
use super::output::Output;
use super::program::Program;
use super::pty;
use super::settings::Files;
use crate::telemetry::Metrics;
use tallyhouse_service::private_file;

/// What the processes of one engine have in common.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) executable: PathBuf,
    pub(super) program: Program,
    pub(super) files: Files,
    pub(super) http_port: u16,
    pub(super) tcp_port: Option<u16>,
    /// Ports of other engines, which it may connect to.
    pub(super) peers: Vec<u16>,
    pub(super) cage: Cage,
    pub(super) metrics: Metrics,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) output: Output,
    /// Our end of its standard input, open as long as it lives.
    _terminal: OwnedFd,
}

impl Job {
    pub(super) fn spawn(&self) -> io::Result<Process> {
        self.repair_dedup_logs();
        self.forget_system_logs()?;
        let terminal = pty::open()?;
        let (printed, output) = io::pipe()?;
        let output_log = Output::record(printed, &self.files.output)?;
        let mut command = Command::new(&self.executable);
        command.arg("engine").arg("--config").arg(&self.files.config);
        command.arg("--parent").arg(std::process::id().to_string());
        if self.tcp_port.is_some() {
            command.arg("--native");
        }
        match self.cage {
            Cage::On => self.allow(&mut command),
            Cage::Off => drop(command.arg("--uncaged")),
        }
        match &self.program {
            Program::Library(path) => command.arg("--library").arg(path),
            Program::Server(path) => command.arg("--server").arg(path),
        };
        let child = command
            // Ours has secrets, and SQL can read the environment of a process.
            .env_clear()
            .stdin(Stdio::from(terminal.slave))
            .stdout(output.try_clone()?)
            .stderr(output)
            // Its own group: ctrl-C is for us, who drain first and stop ClickHouse last.
            .process_group(0)
            .spawn()?;
        Ok(Process { child, output: output_log, _terminal: terminal.master })
    }

    /// See [`super::cage`].
    fn allow(&self, command: &mut Command) {
        for folder in [&self.files.tables, &self.files.warm, &self.files.cold, &self.files.backups, &self.files.logs] {
            command.arg("--writable").arg(folder);
        }
        for port in [Some(self.http_port), self.tcp_port].into_iter().flatten() {
            command.arg("--port").arg(port.to_string());
        }
        for port in &self.peers {
            command.arg("--peer").arg(port.to_string());
        }
    }

    /// The tables belong to nobody at this moment: the process before has ended, and the next one has not started.
    fn repair_dedup_logs(&self) {
        match dedup_log::repair(&[&self.files.tables, &self.files.warm, &self.files.cold]) {
            Ok(0) => {}
            Ok(revoked) => {
                self.metrics.revoked_inserts.inc_by(revoked as u64);
                tracing::warn!(
                    revoked,
                    "entries of the deduplication log without their rows, left by a crash, were revoked; their inserts will be repeated"
                );
            }
            Err(error) => tracing::error!(%error, "deduplication logs could not be checked and repaired"),
        }
    }

    /// The library keeps the definitions of `system.query_log` and its like in memory only, and refuses to make tables where there are folders of
    /// the run before: without this no run after the first would have system logs, and it would say so every few seconds.
    fn forget_system_logs(&self) -> io::Result<()> {
        if let Program::Server(_) = self.program {
            return Ok(());
        }
        // It may be anywhere else, for all that we know of a folder that the engine writes to.
        if self.files.system_logs.parent().is_some_and(Path::is_symlink) {
            return Err(io::Error::other(format!("{} is below a symlink", self.files.system_logs.display())));
        }
        match std::fs::remove_dir_all(&self.files.system_logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn write_pid(&self, pid: u32) {
        if let Err(error) = private_file::write(&self.files.pid, &format!("{pid}\n")) {
            tracing::warn!(%error, path = %self.files.pid.display(), "the process id was not written");
        }
    }

    /// The last lines that the process printed, in one.
    pub(super) fn last_words(&self) -> String {
        last_words(&String::from_utf8_lossy(&std::fs::read(&self.files.output).unwrap_or_default()))
    }
}

fn last_words(printed: &str) -> String {
    const LINES: usize = 3;
    const CHARACTERS: usize = 600;
    // ClickHouse says where it logs, each time.
    let told = |line: &&str| !line.trim().is_empty() && !line.starts_with("Logging ");
    let lines: Vec<&str> = printed.lines().filter(told).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join(" | ");
    if last.is_empty() { "none".to_owned() } else { last.chars().take(CHARACTERS).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_few_and_in_one_line() {
        assert_eq!(last_words("Logging warning to /x\n\na\nb\nc\nd\n"), "b | c | d");
        assert_eq!(last_words("Logging warning to /x\n"), "none");
    }
}
