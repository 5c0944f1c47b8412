//! Programs that are started, broken and started again, and that never outlive this process.
//!
//! The kernel kills each when the *thread* that started it ends (`setpriv --pdeathsig`), and a runtime's threads come and
//! go with the runtime. So one thread, which lives as long as this process, starts them all.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::{self, Memory, ProcessError};

const POLL: Duration = Duration::from_millis(20);
/// Starts that wait for the thread; each is done in milliseconds.
const QUEUED: usize = 16;

#[derive(Debug, Clone)]
pub struct Launch {
    /// For messages: `consumer 2`.
    pub name: String,
    /// The program, looked for on `PATH` when it is only a name.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Variables, on top of this process's own.
    pub env: Vec<(String, String)>,
    /// Variables that it must not see.
    pub without: Vec<&'static str>,
    /// Where its output goes; added to, so that every life of it can be read.
    pub log: PathBuf,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It was not started.
    #[error("{name} cannot be started: {source}")]
    Spawn { name: String, source: io::Error },
    /// A signal or a look into /proc.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// A running program, or one that ended. It is killed when the value goes.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    pub fn start(launch: &Launch) -> Result<Self, DaemonError> {
        let spawned = command(launch).and_then(spawn_bound);
        let child = spawned.map_err(|source| DaemonError::Spawn { name: launch.name.clone(), source })?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> Result<i32, ProcessError> {
        i32::try_from(self.child.id()).map_err(|_| ProcessError::Unreadable(0))
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal. A program that ended is not one, and its number may be another's.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        if self.has_ended() { Ok(()) } else { process::signal(self.pid()?, signal) }
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only when it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM, and `kill -9` when it is still there after `within`. Says whether the second was needed.
    pub async fn stop(&mut self, within: Duration) -> Result<Stopped, ProcessError> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + within;
        while !self.has_ended() {
            if Instant::now() > deadline {
                self.kill();
                return Ok(Stopped::Killed);
            }
            sleep(POLL).await;
        }
        Ok(Stopped::Drained)
    }

    pub fn memory(&self) -> Result<Memory, ProcessError> {
        process::memory(self.pid()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a program ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// By itself.
    Drained,
    /// Only when it was killed.
    Killed,
}

/// The last lines of a log.
pub fn log_tail(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn command(launch: &Launch) -> io::Result<Command> {
    let out = File::options().create(true).append(true).open(&launch.log)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(&launch.program)
        .args(&launch.arguments)
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(out.try_clone()?)
        .stdout(out);
    for name in &launch.without {
        command.env_remove(name);
    }
    // Its own group: ctrl-C is for us.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

type Order = (Command, SyncSender<io::Result<Child>>);

fn spawn_bound(command: Command) -> io::Result<Child> {
    static NURSE: OnceLock<Option<SyncSender<Order>>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts programs is gone");
    let nurse = NURSE.get_or_init(|| {
        let (orders, ordered) = sync_channel(QUEUED);
        std::thread::Builder::new().name("nurse".to_owned()).spawn(move || nurse(&ordered)).is_ok().then_some(orders)
    });
    let (reply, started) = sync_channel(1);
    nurse.as_ref().ok_or_else(gone)?.send((command, reply)).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}

fn nurse(ordered: &Receiver<Order>) {
    while let Ok((mut command, reply)) = ordered.recv() {
        // Whoever ordered it has gone: the child is dropped, not killed, but dies with this process.
        drop(reply.send(command.spawn()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Scratch;

    #[tokio::test]
    async fn a_program_outlives_the_thread_that_asked_for_it_and_not_its_value() {
        let scratch = Scratch::create().unwrap();
        let launch = Launch {
            name: "sleeper".to_owned(),
            program: "sleep".into(),
            arguments: vec!["1000".into()],
            env: Vec::new(),
            without: Vec::new(),
            log: scratch.path().join("log"),
        };
        let started = std::thread::spawn(move || Daemon::start(&launch).unwrap());
        let mut daemon = started.join().unwrap();
        let pid = daemon.pid().unwrap();
        assert!(!daemon.has_ended());
        assert_eq!(daemon.stop(Duration::from_secs(10)).await.unwrap(), Stopped::Drained);
        assert!(process::memory(pid).is_err());
    }
}
