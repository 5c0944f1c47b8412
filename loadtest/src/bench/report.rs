//! The report of a run, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::direct::Direct;
use super::load::Throughput;
use super::machine::Machine;
use super::quantiles::Quantiles;
use super::queries::Queries;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Prepared Native blocks straight into ClickHouse.
    pub ceiling: Direct,
    /// ClickHouse's own batching of small inserts.
    pub async_insert: Direct,
    /// The same over as many connections as `batches` had.
    pub async_insert_all: Direct,
    /// Batches of 100 through HTTP.
    pub batches: Served,
    /// The same over as many connections as `async_insert` had.
    pub compared: Served,
    /// Single events through HTTP.
    pub single: Served,
    /// The same into a handler that only reads them.
    pub bare: Served,
    /// Time to acknowledge at half load.
    pub latency: Latency,
    /// From sending to being counted in the rollup, at half load.
    pub freshness: Quantiles,
    /// The ingester's highest resident memory, bytes; not known of a system elsewhere.
    pub peak_memory: Option<u64>,
    /// Reading.
    pub queries: Queries,
    /// Where the ingester's processor time goes, or why that is not known; absent when not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// A throughput and the connections it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Served {
    pub connections: usize,
    /// What they achieved.
    #[serde(flatten)]
    pub throughput: Throughput,
}

/// Latency at a load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// The load.
    pub events_per_second: f64,
    /// Time to acknowledge, from the instant a request was due.
    pub acks: Quantiles,
}

impl Report {
    /// Events through HTTP in batches, as a share of the ceiling: over few connections, and over all.
    pub fn of_ceiling(&self) -> [f64; 2] {
        [self.compared, self.batches].map(|served| served.throughput.events_per_second / self.ceiling.rows_per_second)
    }

    /// Single events, as a share of what a bare handler takes.
    pub fn of_bare(&self) -> f64 {
        self.single.throughput.events_per_second / self.bare.throughput.events_per_second
    }

    /// Events through HTTP in batches as a multiple of `async_insert`, both over as many connections: few, and all.
    pub fn of_async_insert(&self) -> [f64; 2] {
        [
            self.compared.throughput.events_per_second / self.async_insert.rows_per_second,
            self.batches.throughput.events_per_second / self.async_insert_all.rows_per_second,
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, memory_gib, commit, command, date } = &self.machine;
        writeln!(
            f,
            "{date}, commit {commit}: {processor}, {cores} cores (shared with the load), {memory_gib} GiB\n  {command}\n"
        )?;
        writeln!(f, "{:<34} {:>10.0} rows/s", "ceiling (Native, 100k blocks)", self.ceiling.rows_per_second)?;
        for (connections, direct) in
            [(self.compared.connections, &self.async_insert), (self.batches.connections, &self.async_insert_all)]
        {
            let label = format!("async_insert, batches of 100, {connections}");
            writeln!(f, "{label:<34} {:>10.0} rows/s    {}", direct.rows_per_second, direct.inserts)?;
        }
        let served = [
            ("HTTP, batches of 100", &self.compared),
            ("HTTP, batches of 100", &self.batches),
            ("HTTP, single events", &self.single),
            ("bare handler, single events", &self.bare),
        ];
        for (name, Served { connections, throughput }) in served {
            let label = format!("{name}, {connections}");
            writeln!(f, "{label:<34} {:>10.0} events/s  {}", throughput.events_per_second, throughput.acks)?;
            if throughput.handed_back > 0 {
                writeln!(f, "{:<34} {:>10} requests handed back", "", throughput.handed_back)?;
            }
        }
        let (few, all) = (self.compared.connections, self.batches.connections);
        let [ceiling_few, ceiling_all] = self.of_ceiling();
        let [insert_few, insert_all] = self.of_async_insert();
        writeln!(f, "  = {ceiling_few:.2} of the ceiling and {insert_few:.1} x async_insert over {few} connections")?;
        writeln!(f, "  = {ceiling_all:.2} of the ceiling and {insert_all:.1} x async_insert over {all}")?;
        writeln!(f, "  = {:.2} of the bare handler, single events\n", self.of_bare())?;
        writeln!(f, "at half load ({:.0} events/s)", self.latency.events_per_second)?;
        writeln!(f, "  acknowledged   {}", self.latency.acks)?;
        writeln!(f, "  in the rollup  {}", self.freshness)?;
        if let Some(peak) = self.peak_memory {
            writeln!(f, "peak memory      {} MiB (ingester and query API, without ClickHouse)", peak >> 20)?;
        }
        writeln!(f, "query, cached    {}", self.queries.cached)?;
        write!(f, "query, uncached  {}", self.queries.uncached)?;
        if let Some(profile) = &self.profile {
            write!(f, "\n\nprofile of the serving process under full load\n{profile}")?;
        }
        Ok(())
    }
}
