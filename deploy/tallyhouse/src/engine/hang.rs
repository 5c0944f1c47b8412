//! An engine that hangs: it has its process and its port, and answers nobody.
//!
//! ```text
//! every second: /ping -> answered -> it lives
//!                     '-> silent for `hung_after` (or, before its first answer, `start_within`) -> SIGKILL -> the supervisor starts it again
//! ```
//!
//! `/health` tells a silent one after seconds (component `clickhouse`); this is for one that stays so. `/ping` asks for no table and waits for no
//! query, so what is merely busy answers it. Failure cases: a process that ends meanwhile is the supervisor's, and the next one begins anew; a machine that
//! sleeps does not count the time; whoever keeps all connections taken for that long has it restarted, which frees them.

use std::time::Duration;

use tallyhouse_service::http_client::Endpoint;
use tokio::time::{Instant, sleep};

const LOOK: Duration = Duration::from_secs(1);

/// One look. Longer than any answer that was seen, under full load.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long it may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) start_within: Duration,
    pub(super) hung_after: Duration,
}

/// What is known of the process that runs.
#[derive(Debug, Clone, Copy)]
struct Silence {
    pid: Option<u32>,
    has_answered: bool,
    since: Instant,
}

impl Silence {
    fn of(pid: Option<u32>, now: Instant) -> Self {
        Self { pid, has_answered: false, since: now }
    }

    /// After a look.
    fn after(self, pid: Option<u32>, is_answered: bool, now: Instant) -> Self {
        match (self.pid == pid, is_answered) {
            (false, _) => Self::of(pid, now),
            (true, true) => Self { has_answered: true, since: now, ..self },
            (true, false) => self,
        }
    }

    /// The process to be killed.
    fn hung(self, limits: Limits, now: Instant) -> Option<u32> {
        let limit = if self.has_answered { limits.hung_after } else { limits.start_within };
        self.pid.filter(|_| now.duration_since(self.since) > limit)
    }
}

/// Looks for ever, from when the process that runs has answered. `pid` gives the process that runs, `kill` ends one that hangs.
pub(super) async fn watch(endpoint: Endpoint, limits: Limits, pid: impl Fn() -> Option<u32>, kill: impl Fn(u32)) {
    let mut silence = Silence { has_answered: true, ..Silence::of(pid(), Instant::now()) };
    loop {
        sleep(LOOK).await;
        let asked = pid();
        let is_answered = endpoint.get("/ping").await.is_ok();
        let now = Instant::now();
        // An answer is of the process that was there when it was asked for.
        silence = silence.after(pid(), is_answered && pid() == asked, now);
        if let Some(hung) = silence.hung(limits, now) {
            tracing::error!(
                pid = hung,
                seconds = now.duration_since(silence.since).as_secs(),
                "ClickHouse hangs: it answers nobody, and is killed and started again"
            );
            kill(hung);
            silence = Silence::of(None, now);
        }
    }
}

/// Where it is asked.
pub(super) fn endpoint(http_url: &str) -> Result<Endpoint, tallyhouse_service::http_client::HttpError> {
    Endpoint::new(&format!("{http_url}/"), ANSWER_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { start_within: Duration::from_secs(120), hung_after: Duration::from_secs(60) };

    #[test]
    fn what_is_silent_for_too_long_hangs_and_what_starts_has_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let starting = Silence::of(Some(7), start).after(Some(7), false, at(100));
        assert_eq!((starting.hung(LIMITS, at(110)), starting.hung(LIMITS, at(121))), (None, Some(7)));
        let answered = starting.after(Some(7), true, at(100));
        let silent = answered.after(Some(7), false, at(150));
        assert_eq!((silent.hung(LIMITS, at(160)), silent.hung(LIMITS, at(161))), (None, Some(7)));
        let restarted = silent.after(Some(8), false, at(161));
        assert_eq!(
            (restarted.hung(LIMITS, at(200)), restarted.after(None, false, at(900)).hung(LIMITS, at(999))),
            (None, None)
        );
    }
}
