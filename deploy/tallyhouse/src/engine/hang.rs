//! An engine that hangs: it has its process and its port, and answers nobody.
//!
//! ```text
//! every second: /ping -> answered -> it lives
//!                     '-> silent for `hung_after` (before its first answer `start_within`, twice as long each time) -> SIGKILL -> the
//!                         supervisor starts it again
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

/// How often a start is given twice the time: one that loads many tables would be killed for ever.
const LONGER_AT_MOST: u32 = 5;

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

    /// The process to be killed. `killed`: how many were in a row before they had answered.
    fn hung(self, limits: Limits, killed: u32, now: Instant) -> Option<u32> {
        let start_within = limits.start_within * 2_u32.pow(killed.min(LONGER_AT_MOST));
        let limit = if self.has_answered { limits.hung_after } else { start_within };
        self.pid.filter(|_| now.duration_since(self.since) > limit)
    }
}

/// Looks for ever, from when the process that runs has answered. `pid` gives the process that runs, `kill` ends one that hangs.
pub(super) async fn watch(endpoint: Endpoint, limits: Limits, pid: impl Fn() -> Option<u32>, kill: impl Fn(u32)) {
    let mut silence = Silence { has_answered: true, ..Silence::of(pid(), Instant::now()) };
    let mut killed = 0;
    loop {
        sleep(LOOK).await;
        let asked = pid();
        let is_answered = endpoint.get("/ping").await.is_ok();
        let now = Instant::now();
        // An answer is of the process that was there when it was asked for.
        silence = silence.after(pid(), is_answered && pid() == asked, now);
        if silence.has_answered {
            killed = 0;
        }
        if let Some(hung) = silence.hung(limits, killed, now) {
            killed += u32::from(!silence.has_answered);
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
        let hung = |silence: Silence, seconds| silence.hung(LIMITS, 0, at(seconds));
        assert_eq!((hung(starting, 110), hung(starting, 121)), (None, Some(7)));
        let answered = starting.after(Some(7), true, at(100));
        let silent = answered.after(Some(7), false, at(150));
        assert_eq!((hung(silent, 160), hung(silent, 161)), (None, Some(7)));
        let restarted = silent.after(Some(8), false, at(161));
        assert_eq!((hung(restarted, 200), hung(restarted.after(None, false, at(900)), 999)), (None, None));
    }

    #[test]
    fn one_that_was_killed_while_it_started_has_twice_the_time() {
        let start = Instant::now();
        let silent = Silence::of(Some(7), start);
        for (killed, seconds) in [(0, 120), (1, 240), (2, 480), (5, 3_840), (99, 3_840)] {
            let at = start + Duration::from_secs(seconds);
            assert_eq!(silent.hung(LIMITS, killed, at), None, "{killed}");
            assert_eq!(silent.hung(LIMITS, killed, at + Duration::from_secs(1)), Some(7), "{killed}");
        }
        let answered = Silence { has_answered: true, ..silent };
        assert_eq!(answered.hung(LIMITS, 9, start + Duration::from_secs(61)), Some(7), "one that ran has no more");
    }
}
