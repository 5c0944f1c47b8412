//! Start and shutdown: listening, signals, and draining within a budget.
//!
//! ```text
//! signal -> announced: not ready, requests are served … `TALLYHOUSE_SHUTDOWN_DELAY_MS` or a second signal -> stopped: drain -> end
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log_file;

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Everything finished in time.
    Drained,
    /// The budget ran out first.
    GaveUp,
}

/// The two moments of a stop. At the first readiness goes off and requests are served as before, so that load balancers notice; at the second
/// the drain begins.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    announced: CancellationToken,
    stopped: CancellationToken,
}

/// Both at once.
impl From<CancellationToken> for Stop {
    fn from(stopped: CancellationToken) -> Self {
        Self { announced: stopped.clone(), stopped }
    }
}

impl Stop {
    /// One that SIGTERM, SIGINT or SIGHUP begins; of a process that logs to a file, SIGHUP opens that one again. `delay` is between the two moments; a second signal ends it. The process ends within `budget`
    /// and a margin from then on, by itself or not.
    pub fn on_signal(delay: Duration, budget: Duration) -> Self {
        let stop = Self::default();
        let begun = stop.clone();
        tokio::spawn(async move {
            let mut signals = Signals::listen();
            let signal = signals.stop().await;
            tracing::info!(signal, delay_ms = delay.as_millis(), "stopping");
            begun.announced.cancel();
            drop(tokio::time::timeout(delay, signals.stop()).await);
            begun.stopped.cancel();
            end_within(budget);
        });
        stop
    }

    /// Readiness goes off.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// Stops now.
    pub fn stop(&self) {
        self.announced.cancel();
        self.stopped.cancel();
    }

    /// Ends when the stop is announced.
    pub async fn announced(&self) {
        tokio::select! {
            () = self.announced.cancelled() => {}
            () = self.stopped.cancelled() => {}
        }
    }

    /// Ends when the drain begins.
    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Cancelled when the drain begins.
    pub fn token(&self) -> CancellationToken {
        self.stopped.clone()
    }
}

const HANGUP: &str = "SIGHUP";

/// The signals that stop a program.
struct Signals(Vec<(&'static str, Signal)>);

impl Signals {
    fn listen() -> Self {
        let mut wanted = vec![("SIGTERM", SignalKind::terminate()), ("SIGINT", SignalKind::interrupt())];
        // Who started the program with `nohup` wants it to go on.
        if log_file::is_in_use() || !is_hangup_ignored() {
            wanted.push((HANGUP, SignalKind::hangup()));
        }
        let listened = wanted.into_iter().filter_map(|(name, kind)| match signal(kind) {
            Ok(signal) => Some((name, signal)),
            Err(error) => {
                tracing::error!(%error, "{name} cannot be awaited");
                None
            }
        });
        Self(listened.collect())
    }

    /// The name of the next one that means the end.
    async fn stop(&mut self) -> &'static str {
        loop {
            let signal = self.next().await;
            if signal != HANGUP || !log_file::reopen() {
                return signal;
            }
        }
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|context| {
            let mut came =
                self.0.iter_mut().filter_map(|(name, signal)| signal.poll_recv(context).is_ready().then_some(*name));
            came.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Whether SIGHUP was ignored by whoever started this process. Known on Linux only.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Waits for `work`, at most for `budget`, and logs which of the two it was.
pub async fn drain(what: &str, budget: Duration, work: impl Future<Output = ()>) -> Drain {
    match tokio::time::timeout(budget, work).await {
        Ok(()) => {
            tracing::info!(what, "drained");
            Drain::Drained
        }
        Err(_) => {
            tracing::warn!(what, budget_ms = budget.as_millis(), "gave up draining");
            Drain::GaveUp
        }
    }
}

/// What is left until the deadline of a stop. A moment is always left: what ends by itself is not cut off because something before it took long.
pub fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(2))
}

/// How much longer than its drain a program may take to end.
pub const MARGIN: Duration = Duration::from_secs(8);

/// How long threads that may wait have when everything else has ended.
const THREADS_WITHIN: Duration = Duration::from_secs(2);

/// Runs a program. Its threads may still wait for somebody when it has ended: they hold nobody up.
pub fn block_on<T>(program: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(program);
    runtime.shutdown_timeout(THREADS_WITHIN);
    Ok(ended)
}

/// Ends the process when it does not end by itself in time. What was acknowledged is on the disk or in Kafka: it is as safe as after a kill.
fn end_within(budget: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(budget + MARGIN);
        tracing::error!(budget_ms = budget.as_millis(), "the program did not end within its drain, and is ended");
        std::process::exit(1);
    });
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {address}: {source}; is another process using it?")]
pub struct BindError {
    /// The variable that holds the address.
    pub variable: &'static str,
    pub address: SocketAddr,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listens on `address`, which `variable` configured.
pub async fn bind(variable: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { variable, address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_is_ignored_is_seen() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000000001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    #[tokio::test]
    async fn a_token_is_both_moments() {
        let (token, stop) = (CancellationToken::new(), Stop::default());
        let both = Stop::from(token.clone());
        token.cancel();
        tokio::join!(both.announced(), both.stopped());
        stop.stop();
        tokio::join!(stop.announced(), stop.stopped());
    }
}
