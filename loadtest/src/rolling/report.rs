//! What was seen of a rolling restart.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::questions::Answers;
use crate::chaos::fleet::Restart;
use crate::chaos::plan::Target;
use crate::daemon::Stopped;
use crate::verify::Verification;

#[derive(Debug)]
pub struct RollingReport {
    pub restarts: Vec<Restart>,
    /// Tries of senders that were answered with 429 or 503.
    pub handed_back: u64,
    /// What the last of them was told.
    pub told: Option<String>,
    /// Tries of senders without an answer.
    pub unanswered: u64,
    /// The longest time without an acknowledgement.
    pub longest_gap: Duration,
    pub answers: Answers,
    /// From the last restart until all was stored.
    pub stored_after: Duration,
    pub verification: Verification,
    /// Where data and logs are, when something does not hold.
    pub kept: Option<PathBuf>,
}

/// Acknowledgements may pause for a rebalance of consumers, and no longer: the shortest drain is longer than this.
const MOST_WITHOUT_ACKNOWLEDGEMENT: Duration = Duration::from_secs(10);

impl RollingReport {
    /// Whether everything that is promised holds: no event lost or counted twice, no question without its answer, and senders who are asked to try
    /// again are acknowledged soon.
    pub fn is_exact(&self) -> bool {
        self.verification.is_exact()
            && self.answers.failed.is_empty()
            && self.answers.answered > 0
            && self.unanswered == 0
            && self.longest_gap < MOST_WITHOUT_ACKNOWLEDGEMENT
            && self.restarts.iter().all(is_clean)
    }
}

/// Whether an instance drained, and those that wait for it were told before.
fn is_clean(restart: &Restart) -> bool {
    let is_served = !matches!(restart.target, Target::Gateway(_) | Target::QueryApi(_)) || restart.served_while_unready;
    restart.stopped == Stopped::Drained && restart.unready_after.is_some() && is_served
}

/// For people.
pub(super) fn line(restart: &Restart) -> String {
    let Restart { target, unready_after, ended_after, ready_after, stopped, .. } = restart;
    let unready = unready_after.map_or("never".to_owned(), |after| format!("after {after:.1?}"));
    let how = if *stopped == Stopped::Killed { " only by kill -9" } else { "" };
    let clean = if is_clean(restart) { "" } else { "; that is not as it should be" };
    format!(
        "rolling: {target}: unready {unready}, ended after {ended_after:.1?}{how}, ready again {ready_after:.1?} later{clean}"
    )
}

impl fmt::Display for RollingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restarts, handed_back, told, unanswered, longest_gap, answers, stored_after, verification, kept } =
            self;
        writeln!(f, "{} restarts", restarts.len())?;
        restarts
            .iter()
            .filter(|restart| !is_clean(restart))
            .try_for_each(|restart| writeln!(f, "  {}", line(restart)))?;
        writeln!(
            f,
            "senders: {handed_back} tries handed back, {unanswered} without an answer, longest time without an acknowledgement {longest_gap:.1?}"
        )?;
        told.iter().try_for_each(|told| writeln!(f, "  the last: {told}"))?;
        let failed: u64 = answers.failed.values().sum();
        writeln!(
            f,
            "questions: {} answered, {failed} not, the slowest after {:.1?}",
            answers.answered, answers.slowest
        )?;
        answers.failed.iter().try_for_each(|(failure, count)| writeln!(f, "  {count} x {failure}"))?;
        write!(f, "stored {stored_after:.1?} after the last restart; {verification}")?;
        kept.iter().try_for_each(|path| write!(f, "\ndata and logs are kept in {}", path.display()))
    }
}
