//! Measures the cost of durability and the catching up of a backlog: one fleet, one run, so that ratios are comparable.
//!
//! ```text
//! warm up -> ClickHouse paused: fill as fast as acknowledged -> resumed: how fast is it stored
//!         -> the ceiling, in the same tables -> open loop at a steady rate: acknowledgements and freshness
//!         -> ClickHouse paused again, for long, under a steady rate: acknowledgements, catching up, freshness afterwards
//! ```

mod report;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::bench::bodies::Bodies;
use crate::bench::load::{self, ClosedLoop, OpenLoop, Throughput};
use crate::bench::machine;
use crate::bench::quantiles::Quantiles;
use crate::bench::{BenchError, direct, freshness};
use crate::chaos::fleet::{Fleet, FleetError, Layout, Programs};
use crate::chaos::plan::{Fault, Target};
use crate::clickhouse::{ClickHouse, ClickHouseError};
use crate::development::PROJECT;
pub use report::{BacklogReport, Drained, Outage};

/// Events in a request.
const BATCH: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest time that is given to catching up.
const DRAINED_WITHIN: Duration = Duration::from_secs(600);
/// The load goes on for at least so long after ClickHouse is back.
const CALM_AFTER: Duration = Duration::from_secs(20);
/// Behind by less than this is caught up.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct BacklogConfig {
    pub programs: Programs,
    pub layout: Layout,
    /// How long the load before the outage and the ceiling each go on.
    pub each: Duration,
    pub connections: usize,
    /// Events per second of the steady load.
    pub rate: f64,
    /// How long ClickHouse is away under it.
    pub away: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// Acknowledged events are not there.
    #[error("{missing} events were not stored within {DRAINED_WITHIN:?}")]
    NotStored { missing: u64 },
}

/// Measures; `progress` gets each step.
pub async fn run(config: &BacklogConfig, progress: impl Fn(&str)) -> Result<BacklogReport, BacklogError> {
    let fleet = Fleet::start(&config.programs, config.layout.clone()).await?;
    let store = ClickHouse::new(fleet.clickhouse())?;
    let mut bench = Bench { config, store, fleet, bodies: Bodies::render(BATCH), sent: 0 };
    progress("warming up");
    bench.fill(Duration::from_secs(2)).await?;
    bench.until(|counted, sent| counted >= sent).await?;
    progress("filling while ClickHouse stands still");
    bench.fleet.strike(Target::ClickHouse, Fault::Pause)?;
    let filled = bench.fill(config.each).await?;
    bench.fleet.heal(Target::ClickHouse, Fault::Pause).await?;
    progress(&format!("  {:.0} events/s acknowledged; catching up", filled.events_per_second));
    let drained = bench.catch_up().await?;
    progress(&format!(
        "  {:.0} events/s stored, {:.0} to an insert",
        drained.events_per_second, drained.events_per_insert
    ));
    let ceiling = direct::ceiling(bench.fleet.clickhouse(), config.each).await?;
    progress(&format!("the ceiling: {:.0} rows/s", ceiling.rows_per_second));
    progress("steady load");
    let (acks, visible) = bench.steady().await?;
    progress(&format!("  acknowledged {acks}\n  visible {visible}"));
    progress(&format!("ClickHouse away for {} s", config.away.as_secs()));
    let outage = bench.outage().await?;
    bench.fleet.look_at_memory();
    let peaks = bench.fleet.peaks().iter().map(|(target, peak)| (target.to_string(), *peak)).collect();
    Ok(BacklogReport {
        machine: machine::describe(),
        brokers: config.layout.brokers,
        consumers: config.layout.consumers,
        rate: config.rate,
        filled,
        drained,
        ceiling,
        acks,
        visible,
        outage,
        peaks,
    })
}

struct Bench<'a> {
    config: &'a BacklogConfig,
    fleet: Fleet,
    store: ClickHouse,
    bodies: Bodies,
    /// Events that were acknowledged.
    sent: u64,
}

impl Bench<'_> {
    async fn fill(&mut self, lasts: Duration) -> Result<Throughput, BenchError> {
        let config = ClosedLoop { url: self.fleet.ingest_url(), connections: self.config.connections, lasts };
        let filled = load::closed_loop(&config, &self.bodies).await?;
        self.sent += filled.requests * BATCH as u64;
        Ok(filled)
    }

    fn open_loop(&self, lasts: Duration) -> OpenLoop {
        let requests_per_second = self.config.rate / BATCH as f64;
        OpenLoop { url: self.fleet.ingest_url(), connections: self.config.connections, requests_per_second, lasts }
    }

    async fn steady(&mut self) -> Result<(Quantiles, Quantiles), BenchError> {
        let (url, lasts) = (self.fleet.ingest_url(), self.config.each);
        let load = self.open_loop(lasts);
        let looking = freshness::measure(&url, self.fleet.clickhouse(), lasts);
        let (acks, visible) = tokio::try_join!(load::open_loop(&load, &self.bodies), looking)?;
        self.sent += acks.count * BATCH as u64;
        Ok((acks, visible))
    }

    async fn outage(&mut self) -> Result<Outage, BacklogError> {
        self.until(|counted, sent| counted >= sent).await?;
        let away = self.config.away;
        let load = self.open_loop(away + (away / 2).max(CALM_AFTER));
        let (rate, before, clickhouse) = (self.config.rate, self.sent, self.fleet.clickhouse().clone());
        let Self { fleet, store, bodies, .. } = self;
        fleet.strike(Target::ClickHouse, Fault::Pause)?;
        let started = Instant::now();
        let playing = async {
            sleep(away).await;
            fleet.heal(Target::ClickHouse, Fault::Pause).await?;
            let back = Instant::now();
            let deadline = back + DRAINED_WITHIN;
            let (mut at, mut begun) = (before, None);
            loop {
                let due = (rate * started.elapsed().saturating_sub(FRESH).as_secs_f64()) as u64;
                at = counted(store).await.unwrap_or(at);
                if at > before && begun.is_none() {
                    begun = Some((Instant::now(), at));
                }
                if at >= before + due.min((rate * load.lasts.as_secs_f64()) as u64) {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(BacklogError::NotStored { missing: before + due - at });
                }
                sleep(LOOK_EVERY).await;
            }
            let (begun, from) = begun.unwrap_or((back, before));
            let caught_up_after = back.elapsed();
            let stored_per_second = (at - from) as f64 / begun.elapsed().as_secs_f64().max(f64::EPSILON);
            let visible = freshness::measure(&fleet.ingest_url(), &clickhouse, CALM_AFTER / 4).await?;
            Ok((caught_up_after, stored_per_second, visible))
        };
        let loading = async { Ok(load::open_loop(&load, bodies).await?) };
        let (acks, (caught_up_after, stored_per_second, visible)) = tokio::try_join!(loading, playing)?;
        self.sent += acks.count * BATCH as u64;
        self.until(|counted, sent| counted >= sent).await?;
        Ok(Outage {
            away_seconds: away.as_secs(),
            acks,
            caught_up_seconds: caught_up_after.as_secs_f64(),
            stored_per_second,
            visible,
        })
    }

    /// The rate at which a backlog is stored: from the first progress, since members of the group may first have to come back
    /// and attempts to be repeated, until nothing is left.
    async fn catch_up(&self) -> Result<Drained, BacklogError> {
        let before = counted(&self.store).await?;
        let (begun, from) = self.until(|counted, _| counted > before).await?;
        let inserts = self.inserts().await?;
        let (ended, to) = self.until(|counted, sent| counted >= sent).await?;
        let (events, inserts) = ((to - from) as f64, self.inserts().await? - inserts);
        Ok(Drained {
            events_per_second: events / ended.duration_since(begun).as_secs_f64().max(f64::EPSILON),
            events_per_insert: events / inserts.max(1) as f64,
        })
    }

    /// Inserts that ClickHouse has begun since it started.
    async fn inserts(&self) -> Result<u64, ClickHouseError> {
        self.store.number("SELECT sum(value) FROM system.events WHERE event = 'InsertQuery'").await
    }

    /// Looks until what is counted, and what was sent, are as wanted.
    async fn until(&self, is_reached: impl Fn(u64, u64) -> bool) -> Result<(Instant, u64), BacklogError> {
        let deadline = Instant::now() + DRAINED_WITHIN;
        loop {
            let counted = counted(&self.store).await.unwrap_or_default();
            if is_reached(counted, self.sent) {
                return Ok((Instant::now(), counted));
            }
            if Instant::now() > deadline {
                return Err(BacklogError::NotStored { missing: self.sent.saturating_sub(counted) });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Events of this bench in the daily rollup.
async fn counted(store: &ClickHouse) -> Result<u64, ClickHouseError> {
    let sql = format!(
        "SELECT sum(events) FROM tallyhouse.rollup_1d WHERE project_id = '{PROJECT}' AND dim_set = '' \
         AND event_type NOT LIKE 'bench_%'"
    );
    store.number(&sql).await
}
