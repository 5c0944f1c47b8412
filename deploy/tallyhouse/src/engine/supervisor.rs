//! Keeps the process running until the engine is stopped.
//!
//! One thread starts the process and waits for it. It has to be one and the same thread: the kernel kills the process
//! when the *thread* that started it ends, and a runtime's worker threads come and go.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_service::retry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::EngineError;
use super::hang;
use super::job::Job;

/// A process that ran this long had no trouble starting: the next wait is the shortest again.
const STEADY: Duration = Duration::from_secs(60);

/// How often it is looked whether another process is there.
const LOOK: Duration = Duration::from_millis(10);

/// After SIGKILL only the kernel can be slow.
const REAP_WITHIN: Duration = Duration::from_secs(5);

/// A process that ended before it was ready.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    status: String,
    log: String,
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        Self::Ended { status: failure.status, log: failure.log }
    }
}

/// What the supervisor is about.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Runs, or will again.
    Active,
    /// Gave up: it never was ready, twice when a signal ended it at first.
    Failed(Failure),
    /// Ended as told.
    Stopped,
}

#[derive(Debug, Default)]
struct ProcessState {
    stopping: bool,
    /// The process ends because another one, with other settings, is to take its place.
    replacing: bool,
    was_ready: bool,
    ended: bool,
    /// Set while the process exists and was not waited for: only then the number is surely its own.
    pid: Option<Pid>,
}

#[derive(Debug)]
struct Supervised {
    job: Job,
    state: Mutex<ProcessState>,
    changed: Condvar,
    phase: watch::Sender<Phase>,
}

/// The thread and its process. The process is killed when the value goes.
#[derive(Debug)]
pub(super) struct Supervisor(Arc<Supervised>);

impl Supervisor {
    pub(super) fn start(job: Job) -> Result<Self, EngineError> {
        let shared = Arc::new(Supervised {
            job,
            state: Mutex::default(),
            changed: Condvar::new(),
            phase: watch::Sender::new(Phase::Active),
        });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let phase = thread.supervise();
                thread.lock().ended = true;
                thread.changed.notify_all();
                thread.phase.send_replace(phase);
            })
            .map_err(EngineError::Spawn)?;
        Ok(Self(shared))
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.0.pid()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.0.job.metrics.engine_restarts.get()
    }

    /// From now on its end is a crash to recover from, not a failure to report.
    pub(super) fn mark_ready(&self) {
        self.0.lock().was_ready = true;
    }

    /// Kills the process whenever it hangs, until the task is aborted.
    pub(super) fn watch(&self, endpoint: Endpoint, limits: hang::Limits) -> JoinHandle<()> {
        let [looked_at, killed] = [&self.0, &self.0].map(Arc::clone);
        tokio::spawn(async move { hang::watch(endpoint, limits, || looked_at.pid(), |pid| killed.kill(pid)).await })
    }

    pub(super) fn last_words(&self) -> String {
        self.0.job.last_words()
    }

    /// Ends the process, and returns when another one has taken its place, which has yet to load its tables. Nothing is done between
    /// two processes: the next one reads its settings anyway.
    pub(super) async fn replace(&self, budget: Duration) {
        let Some(before) = self.pid() else { return };
        self.0.replace(Signal::TERM);
        let deadline = tokio::time::Instant::now() + budget;
        let mut is_killed = false;
        while self.pid().is_none_or(|pid| pid == before) && matches!(*self.phase().borrow(), Phase::Active) {
            if !is_killed && tokio::time::Instant::now() > deadline {
                self.0.replace(Signal::KILL);
                is_killed = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// SIGCONT. What was stopped by a signal would not end by another one either.
    pub(super) fn thaw(&self) {
        let state = self.0.lock();
        if let Some(pid) = state.pid
            && let Err(error) = kill_process(pid, Signal::CONT)
        {
            tracing::debug!(%error, "ClickHouse was not signalled");
        }
    }

    /// SIGTERM, and SIGKILL after `budget`.
    pub(super) async fn stop(&mut self, budget: Duration) {
        let mut phase = self.phase();
        let mut ended = async |within| {
            let is_over = |phase: &Phase| !matches!(phase, Phase::Active);
            tokio::time::timeout(within, phase.wait_for(is_over)).await.is_ok()
        };
        self.0.end(Signal::TERM);
        if ended(budget).await {
            tracing::info!("ClickHouse stopped");
            return;
        }
        tracing::warn!(budget_ms = budget.as_millis(), "ClickHouse did not stop in time and is killed");
        self.0.end(Signal::KILL);
        if !ended(REAP_WITHIN).await {
            tracing::error!("ClickHouse cannot be killed");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.end(Signal::KILL);
        let state = self.0.lock();
        drop(self.0.changed.wait_timeout_while(state, REAP_WITHIN, |state| !state.ended));
    }
}

impl Supervised {
    fn lock(&self) -> MutexGuard<'_, ProcessState> {
        // Nothing panics while it is held; if something did, the state is still the last that was written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Option<u32> {
        self.lock().pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
    }

    /// Kills this process if it still is the one; it is started again.
    fn kill(&self, hung: u32) {
        let state = self.lock();
        if let Some(pid) = state.pid
            && u32::try_from(pid.as_raw_nonzero().get()) == Ok(hung)
            && let Err(error) = kill_process(pid, Signal::KILL)
        {
            tracing::debug!(%error, "ClickHouse was not killed");
        }
    }

    fn replace(&self, signal: Signal) {
        let mut state = self.lock();
        let Some(pid) = state.pid else { return };
        state.replacing = true;
        if let Err(error) = kill_process(pid, signal) {
            tracing::debug!(%error, "ClickHouse was not signalled");
        }
    }

    fn end(&self, signal: Signal) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(pid) = state.pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "ClickHouse was not signalled");
        }
        self.changed.notify_all();
    }

    fn supervise(&self) -> Phase {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let Some(outcome) = self.run_once() else { return Phase::Stopped };
            if self.lock().stopping {
                return Phase::Stopped;
            }
            if std::mem::take(&mut self.lock().replacing) {
                tracing::info!("ClickHouse is started again with other accounts");
                failures = 0;
                continue;
            }
            let failure = Failure { status: outcome.to_string(), log: self.job.last_words() };
            if !self.lock().was_ready && is_hopeless(failures, &outcome) {
                return Phase::Failed(failure);
            }
            failures = if started.elapsed() >= STEADY { 0 } else { failures + 1 };
            let wait = retry::ENGINE_START.pause(failures);
            tracing::error!(
                status = failure.status,
                last_words = failure.log,
                again_in_ms = wait.as_millis(),
                "ClickHouse ended unasked and is started again"
            );
            if !self.pause(wait) {
                return Phase::Stopped;
            }
            self.job.metrics.engine_restarts.inc();
        }
    }

    /// Runs the process to its end. `None` when it was not started because of a stop.
    fn run_once(&self) -> Option<Outcome> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        // Started under the lock: a stop either comes before and prevents it, or after and finds its number.
        let mut process = match self.job.spawn() {
            Ok(process) => process,
            Err(error) => return Some(Outcome::NotStarted(error)),
        };
        let pid = i32::try_from(process.child.id()).ok().and_then(Pid::from_raw);
        state.pid = pid;
        drop(state);
        self.job.write_pid(process.child.id());
        if let Some(pid) = pid {
            await_end(pid);
        }
        // From here on the number can become somebody else's.
        self.lock().pid = None;
        let ended = process.child.wait();
        process.output.drain();
        Some(ended.map_or_else(Outcome::NotStarted, Outcome::Ended))
    }

    /// Waits, and says whether to go on.
    fn pause(&self, wait: Duration) -> bool {
        let state = self.lock();
        match self.changed.wait_timeout_while(state, wait, |state| !state.stopping) {
            Ok((state, _)) => !state.stopping,
            Err(_) => false,
        }
    }
}

enum Outcome {
    NotStarted(io::Error),
    Ended(ExitStatus),
}

/// Whether what was never ready, and failed so often before, is not started again. A mistake in what it was given ends it with a
/// code, every time; a signal may have been chance.
fn is_hopeless(failures: u32, outcome: &Outcome) -> bool {
    let is_signal = matches!(outcome, Outcome::Ended(status) if status.signal().is_some());
    failures > 0 || !is_signal
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => write!(f, "not started: {error}"),
            Self::Ended(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => write!(f, "signal {signal}"),
                (None, Some(code)) => write!(f, "exit code {code}"),
                (None, None) => write!(f, "{status}"),
            },
        }
    }
}

/// Waits for the end of a process and leaves it to be waited for, so that its number stays its own.
fn await_end(pid: Pid) {
    while let Err(Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_a_signal_ended_is_tried_once_more() {
        let [signal, code] = [6, 3 << 8].map(|status| Outcome::Ended(ExitStatus::from_raw(status)));
        assert!(!is_hopeless(0, &signal) && is_hopeless(1, &signal));
        assert!(is_hopeless(0, &code) && is_hopeless(0, &Outcome::NotStarted(io::Error::other("no"))));
    }
}
