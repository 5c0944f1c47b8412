//! Measures the cost of little traffic: single requests at a few rates, none at all, and 2,000 events/s beside dashboards.
//!
//! Each rate runs twice. First without polling: the processor time of both processes is read before and after. Then the ingester's
//! counter of stored events is polled a hundred times a second, which costs ClickHouse nothing and the services something.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::try_join;
use hyper::Method;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::bench::BenchError;
use crate::bench::bodies::Bodies;
use crate::bench::load::{OpenLoop, open_loop, until_stored};
use crate::bench::machine::{self, Machine};
use crate::bench::quantiles::{Latencies, Quantiles};
use crate::development::QUERY_KEY;
use crate::process;
use crate::reads::panels::{QUARTER, WEEK, dashboard};
use crate::system::System;
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

/// Events per second, each a request.
const RATES: [u32; 4] = [1, 5, 20, 100];

/// Events per second beside dashboards, in batches of [`BATCH`].
const STEADY: u32 = 2_000;
const BATCH: usize = 100;

/// Two dashboards of eight panels are asked for so often.
const DASHBOARDS_EVERY: Duration = Duration::from_secs(5);

const CONNECTIONS: usize = 4;

/// After a start, and after another rate: merges and caches come to rest.
const REST: Duration = Duration::from_secs(10);

/// Between two looks at the counter.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The last event of a rate is to be stored within.
const STORED_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct TrickleConfig {
    /// The `tallyhouse` program.
    pub binary: PathBuf,
    /// How long each rate is kept, twice.
    pub each: Duration,
    /// How long 2,000 events/s are kept beside dashboards; not at all when zero.
    pub steady: Duration,
}

/// Processor time in per cent of one core.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// ClickHouse.
    pub clickhouse: f64,
    /// Ingester and query API.
    pub services: f64,
}

/// What a rate came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    pub events_per_second: u32,
    /// What they cost.
    pub share: Share,
    /// From the instant a request was due until it was acknowledged.
    pub acks: Quantiles,
    /// From the same instant until the rollups had its event.
    pub counted: Quantiles,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Nothing is sent or asked.
    pub idle: Share,
    /// Single requests.
    pub rates: Vec<Rate>,
    /// 2,000 events/s in batches of 100 beside two dashboards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steady: Option<Share>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        writeln!(f, "{:>24} {:>12} {:>10}   acknowledged, counted", "events/s", "ClickHouse", "services")?;
        let cost = |f: &mut fmt::Formatter<'_>, what: &str, share: Share| {
            write!(f, "{what:>24} {:>10.1} % {:>8.1} %", share.clickhouse, share.services)
        };
        cost(f, "none", self.idle)?;
        writeln!(f)?;
        for Rate { events_per_second, share, acks, counted } in &self.rates {
            cost(f, &events_per_second.to_string(), *share)?;
            writeln!(f, "   {acks}\n{:>51}{counted}", "")?;
        }
        if let Some(share) = self.steady {
            cost(f, &format!("{STEADY} beside dashboards"), share)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Measures a system of its own; `progress` gets each step.
pub async fn run(config: &TrickleConfig, progress: impl Fn(&str)) -> Result<Report, BenchError> {
    progress("starting a system of its own");
    let system = System::start(&config.binary).await?;
    sleep(REST).await;
    progress("idle");
    let ((), idle) = costs(&system, async { sleep_for(config.each).await }).await?;
    let mut rates = Vec::new();
    for events_per_second in RATES {
        progress(&format!("{events_per_second} events/s"));
        rates.push(rate(&system, events_per_second, config.each).await?);
        sleep(REST).await;
    }
    let steady = if config.steady.is_zero() {
        None
    } else {
        progress("2,000 events/s beside dashboards");
        Some(steady(&system, config.steady).await?)
    };
    system.stop().await?;
    Ok(Report { machine: machine::describe(), idle, rates, steady })
}

async fn sleep_for(lasts: Duration) -> Result<(), BenchError> {
    sleep(lasts).await;
    Ok(())
}

async fn rate(system: &System, events_per_second: u32, each: Duration) -> Result<Rate, BenchError> {
    let bodies = Bodies::render_single();
    let load = OpenLoop {
        url: system.ingest_url(),
        connections: CONNECTIONS,
        requests_per_second: f64::from(events_per_second),
        lasts: each,
    };
    let (acks, share) = costs(system, open_loop(&load, &bodies)).await?;
    until_stored(&load.url).await?;
    let counted = counted(system, events_per_second, each, &bodies).await?;
    Ok(Rate { events_per_second, share, acks, counted })
}

/// What both processes cost while something is done.
async fn costs<T>(
    system: &System,
    work: impl Future<Output = Result<T, BenchError>>,
) -> Result<(T, Share), BenchError> {
    let clickhouse =
        system.clickhouse_pid().ok_or_else(|| BenchError::Worthless("ClickHouse is not running".to_owned()))?;
    let services = system.pid()?;
    let (before, started) =
        ((process::processor_time(clickhouse)?, process::processor_time(services)?), Instant::now());
    let done = work.await?;
    let took = started.elapsed().as_secs_f64();
    let percent = |after: Duration, before: Duration| 100.0 * after.saturating_sub(before).as_secs_f64() / took;
    let share = Share {
        clickhouse: percent(process::processor_time(clickhouse)?, before.0),
        services: percent(process::processor_time(services)?, before.1),
    };
    Ok((done, share))
}

/// From sending until stored. The log keeps the order of events, so the nth that is stored is the nth that was sent, but for requests
/// that overtake each other within milliseconds.
async fn counted(
    system: &System,
    events_per_second: u32,
    lasts: Duration,
    bodies: &Bodies,
) -> Result<Quantiles, BenchError> {
    let ingest = Endpoint::new(&format!("{}/v1/events", system.ingest_url()), Duration::from_secs(30))?
        .api_key(crate::development::INGEST_KEY)?;
    let admin = Endpoint::new(&system.ingest_admin_url(), Duration::from_secs(5))?;
    let count = (lasts.as_secs_f64() * f64::from(events_per_second)).max(1.0) as usize;
    let before = stored(&admin.get("/metrics").await?);
    let due: Mutex<Vec<Instant>> = Mutex::default();
    let send = async {
        let mut ticks = interval(Duration::from_secs(1) / events_per_second.max(1));
        for _ in 0..count {
            let tick = ticks.tick().await;
            due.lock().unwrap_or_else(PoisonError::into_inner).push(tick);
            let reply = ingest.post(bodies.next()).await?;
            if !reply.status.is_success() {
                return Err(BenchError::Worthless(format!(
                    "an event was answered {}: {}",
                    reply.status,
                    reply.excerpt()
                )));
            }
        }
        Ok(())
    };
    let look = async {
        let mut latencies = Latencies::new();
        let mut seen = 0;
        let deadline = Instant::now() + lasts + STORED_WITHIN;
        while seen < count {
            let now_stored = stored(&admin.get("/metrics").await?).saturating_sub(before);
            let due = due.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for due in due.iter().take(now_stored).skip(seen) {
                latencies.add(due.elapsed());
            }
            seen = seen.max(now_stored.min(due.len()));
            if Instant::now() > deadline {
                return Err(BenchError::Worthless(format!("{seen} of {count} events were stored in time")));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(latencies.quantiles())
    };
    try_join(send, look).await.map(|((), counted)| counted)
}

/// Events that the ingester has stored, as its metrics say.
fn stored(metrics: &Reply) -> usize {
    let text = String::from_utf8_lossy(&metrics.body);
    let value = text.lines().find_map(|line| line.strip_prefix("tallyhouse_ingest_events_total{fate=\"stored\"} "));
    value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default() as usize
}

async fn steady(system: &System, lasts: Duration) -> Result<Share, BenchError> {
    let bodies = Bodies::render(BATCH);
    let load = OpenLoop {
        url: system.ingest_url(),
        connections: CONNECTIONS,
        requests_per_second: f64::from(STEADY) / BATCH as f64,
        lasts,
    };
    let query_url = system.query_url();
    let both = try_join(open_loop(&load, &bodies), look_at_dashboards(&query_url, lasts));
    Ok(costs(system, both).await?.1)
}

/// A week by hours and a quarter by days, eight panels each.
async fn look_at_dashboards(query_url: &str, lasts: Duration) -> Result<(), BenchError> {
    let query = Endpoint::new(query_url, Duration::from_secs(30))?.api_key(QUERY_KEY)?;
    let until = Instant::now() + lasts;
    let mut ticks = interval(DASHBOARDS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while Instant::now() < until {
        ticks.tick().await;
        for panel in [WEEK, QUARTER].into_iter().flat_map(|range| dashboard(range, Timestamp::now())) {
            let method = if panel.body.is_some() { Method::POST } else { Method::GET };
            let reply: Result<Reply, HttpError> = query.send(method, &panel.path, panel.body.unwrap_or_default()).await;
            let reply = reply?;
            if !reply.status.is_success() {
                return Err(BenchError::Worthless(format!(
                    "{} answered {}: {}",
                    panel.path,
                    reply.status,
                    reply.excerpt()
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn stored_events_are_read_from_the_metrics() {
        let page =
            "tallyhouse_ingest_events_total{fate=\"logged\"} 9\ntallyhouse_ingest_events_total{fate=\"stored\"} 7\n";
        let reply = |page: &'static str| Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(page.as_bytes()),
        };
        assert_eq!(stored(&reply(page)), 7);
        assert_eq!(stored(&reply("")), 0);
    }
}
