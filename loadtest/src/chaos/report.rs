//! The report of a run, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::plan::{Fault, Strike, Target};
use crate::verify::Verification;

#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    pub strikes: Vec<Strike>,
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Events that were sent twice.
    pub repeated: u64,
    /// Tries that were handed back.
    pub handed_back: u64,
    /// Tries without an answer.
    pub unanswered: u64,
    /// Batches that were not sent because too many were under way.
    pub withheld: u64,
    /// The longest time without an acknowledgement.
    pub longest_gap: Duration,
    /// From the last fault's end until all was acknowledged.
    pub delivered_after: Duration,
    /// From the last fault's end until all was stored.
    pub complete_after: Duration,
    /// The longest time that each partition stood still although it had something.
    pub silences: BTreeMap<i32, Duration>,
    /// Partitions that were not consumed to their end.
    pub stuck: Vec<i32>,
    /// Whether the brokers say that the group has consumed everything; without Kafka there is nothing to consume.
    pub is_consumed: bool,
    /// Whether everything agrees, with the runs before.
    pub verification: Verification,
}

impl Run {
    /// Whether everything that was promised holds.
    pub fn is_exact(&self) -> bool {
        self.verification.is_exact() && self.is_consumed
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silent = self.silences.values().max().copied().unwrap_or_default();
        write!(
            f,
            "seed {}: {} faults; {} acknowledged, {} sent twice, {} handed back, {} unanswered, {} withheld; \
             longest gap {:.1?}, delivered {:.1?} and stored {:.1?} after the last fault, longest silence {silent:.1?}, \
             stuck partitions: {}, all consumed: {}; {}",
            self.seed,
            self.strikes.len(),
            self.acknowledged,
            self.repeated,
            self.handed_back,
            self.unanswered,
            self.withheld,
            self.longest_gap,
            self.delivered_after,
            self.complete_after,
            list(&self.stuck),
            self.is_consumed,
            self.verification,
        )
    }
}

#[derive(Debug, Default)]
pub struct ChaosReport {
    /// In order; the last may be the one that failed.
    pub runs: Vec<Run>,
    /// The highest memory of each process, bytes.
    pub peaks: BTreeMap<Target, u64>,
}

impl ChaosReport {
    /// Whether everything that was promised holds, and there was something to hold.
    pub fn is_exact(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(Run::is_exact)
    }

    fn faults(&self) -> BTreeMap<Target, BTreeMap<Fault, usize>> {
        let mut faults: BTreeMap<Target, BTreeMap<Fault, usize>> = BTreeMap::new();
        for strike in self.runs.iter().flat_map(|run| &run.strikes) {
            *faults.entry(strike.target).or_default().entry(strike.fault).or_default() += 1;
        }
        faults
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = |of: fn(&Run) -> Duration| self.runs.iter().map(of).max().unwrap_or_default();
        let sum = |of: fn(&Run) -> u64| self.runs.iter().map(of).sum::<u64>();
        writeln!(f, "{:<12}{:>9}{:>9}{:>9}{:>14}", "target", "kill -9", "pause", "restart", "peak memory")?;
        for (target, faults) in self.faults() {
            let times = |fault| faults.get(&fault).copied().unwrap_or_default();
            let peak = self.peaks.get(&target).map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
            let (kills, pauses, restarts) = (times(Fault::Kill), times(Fault::Pause), times(Fault::Restart));
            writeln!(f, "{target:<12}{kills:>9}{pauses:>9}{restarts:>9}{peak:>14}")?;
        }
        let seeds = (self.runs.first().map_or(0, |run| run.seed), self.runs.last().map_or(0, |run| run.seed));
        writeln!(f, "seeds                    {} to {}", seeds.0, seeds.1)?;
        writeln!(f, "events acknowledged      {}", sum(|run| run.acknowledged as u64))?;
        writeln!(f, "events sent twice        {}", sum(|run| run.repeated))?;
        writeln!(f, "tries handed back        {}", sum(|run| run.handed_back))?;
        writeln!(f, "tries without an answer  {}", sum(|run| run.unanswered))?;
        writeln!(f, "longest gap of answers   {:.1?}", longest(|run| run.longest_gap))?;
        writeln!(f, "slowest recovery         {:.1?}", longest(|run| run.complete_after))?;
        for partition in self.runs.iter().flat_map(|run| run.silences.keys()).collect::<std::collections::BTreeSet<_>>()
        {
            let longest = self.runs.iter().filter_map(|run| run.silences.get(partition)).max();
            writeln!(f, "partition {partition:<3} silent for {:.1?}", longest.copied().unwrap_or_default())?;
        }
        let stuck: Vec<i32> = self.runs.iter().flat_map(|run| run.stuck.iter().copied()).collect();
        writeln!(f, "stuck partitions         {}", list(&stuck))?;
        write!(
            f,
            "differences              {}",
            self.runs.iter().map(|run| run.verification.differences).sum::<usize>()
        )
    }
}

fn list(partitions: &[i32]) -> String {
    if partitions.is_empty() { "none".to_owned() } else { format!("{partitions:?}") }
}
