//! The report of a run, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::bench::direct::Direct;
use crate::bench::load::Throughput;
use crate::bench::machine::Machine;
use crate::bench::quantiles::Quantiles;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BacklogReport {
    /// Where and when.
    pub machine: Machine,
    /// Kafka brokers; none: events wait in the local log of the process that stores them.
    pub brokers: usize,
    pub consumers: usize,
    /// Events per second of the steady load.
    pub rate: f64,
    /// Acknowledged while ClickHouse stood still, as fast as it went.
    pub filled: Throughput,
    /// How that backlog was stored, with nothing else to do.
    pub drained: Drained,
    /// Prepared blocks straight into the same ClickHouse.
    pub ceiling: Direct,
    /// Time to acknowledge under the steady load.
    pub acks: Quantiles,
    /// Time to be counted under it.
    pub visible: Quantiles,
    pub outage: Outage,
    /// The highest resident memory of each ingester, bytes.
    pub peaks: BTreeMap<String, u64>,
}

/// Events that were stored from a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Drained {
    /// How fast.
    pub events_per_second: f64,
    /// In how large batches.
    pub events_per_insert: f64,
}

/// ClickHouse stood still under the steady load, and came back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outage {
    /// For how long.
    pub away_seconds: u64,
    /// Time to acknowledge, from its first second until well after its end.
    pub acks: Quantiles,
    /// Until less than a second's worth of events was missing, from the moment it was back.
    pub caught_up_seconds: f64,
    /// Events per second stored meanwhile, from the first progress.
    pub stored_per_second: f64,
    /// Time to be counted afterwards.
    pub visible: Quantiles,
}

impl fmt::Display for BacklogReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, filled, ceiling, outage, .. } = self;
        writeln!(f, "{machine}")?;
        writeln!(f, "{} brokers, {} consumers\n", self.brokers, self.consumers)?;
        writeln!(f, "acknowledged without ClickHouse  {:>9.0} events/s, {}", filled.events_per_second, filled.acks)?;
        let Drained { events_per_second, events_per_insert } = self.drained;
        let share = events_per_second / ceiling.rows_per_second.max(1.0);
        writeln!(
            f,
            "stored from the backlog          {events_per_second:>9.0} events/s, {events_per_insert:.0} to an insert"
        )?;
        writeln!(f, "  of the ceiling                 {:>9.0} rows/s: {share:.2}", ceiling.rows_per_second)?;
        writeln!(f, "steady load                      {:>9.0} events/s", self.rate)?;
        writeln!(f, "  acknowledged                   {}", self.acks)?;
        writeln!(f, "  counted                        {}", self.visible)?;
        writeln!(f, "ClickHouse away                  {:>9} s under that load", outage.away_seconds)?;
        writeln!(f, "  acknowledged                   {}", outage.acks)?;
        let ratio = outage.stored_per_second / self.rate.max(1.0);
        writeln!(f, "  caught up                      {:>9.1} s after it was back", outage.caught_up_seconds)?;
        writeln!(
            f,
            "  stored meanwhile               {:>9.0} events/s: {ratio:.1} x arrival",
            outage.stored_per_second
        )?;
        writeln!(f, "  counted afterwards             {}", outage.visible)?;
        for (name, bytes) in &self.peaks {
            writeln!(f, "{:<33}{:>9} MiB at most", format!("memory of {name}"), bytes >> 20)?;
        }
        Ok(())
    }
}
