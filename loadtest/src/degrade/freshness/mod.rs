//! Whether any answer is older than promised: random questions to three instances under random late events, each answer compared with
//! raw events, while Redis is healthy, takes no writes, loses keys, is replaced by an empty one, and stands still.
//!
//! ```text
//! samples    raw events by hour, ten times a second, each with when it was asked and answered
//! senders    events of days that are over, of hours of today and of now, each stored before the next is sent
//! askers     one at each instance
//! then       an answer sent at t counts no less than raw events did at t - its class's bound, and no more than a second after it came
//! ```
//!
//! The bound of what is over is a second while Redis is healthy, and the time of an answer that nobody vouches for while it is not, or
//! has just been. What reaches until now has that time always.

mod checks;
mod raw;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::DegradeError;
use super::stage::{Programs, Stage};
use crate::development::{INGEST_KEY, PROJECT};
use crate::redis::Redis;
use checks::{Asked, Bounds, Judged, Question};
use raw::Samples;
use tallyhouse_service::http_client::Endpoint;

/// Instances of the query API that share one Redis.
const INSTANCES: usize = 3;
/// Between two questions of an asker.
const PACE: Duration = Duration::from_millis(40);
/// Between two late events, at most.
const EVENTS_MS: u64 = 300;
/// How long after a fault answers may still be those of the fault.
const RECOVERS: Duration = Duration::from_secs(5);
/// A part of a phase in which the fault is over.
const HEALTHY_PART: f64 = 0.4;
/// Days back that late events reach.
const DAYS: i64 = 8;

/// What to start, how long to look, and what to allow.
#[derive(Debug, Clone)]
pub struct FreshnessConfig {
    /// The binaries that are started.
    pub programs: Programs,
    /// How long events come and questions are asked.
    pub lasts: Duration,
    /// How long one state of Redis lasts.
    pub phase: Duration,
    /// `QUERY_CACHE_TTL_MS` of the instances.
    pub ttl: Duration,
    /// What a busy machine adds to every bound.
    pub slack: Duration,
    /// Decides what is asked and sent.
    pub seed: u64,
}

/// What Redis is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisState {
    /// As it should be.
    Healthy,
    /// `maxmemory` without eviction: it answers reads and refuses writes.
    Full,
    /// Keys are lost at random, those of versions and writers too.
    Evicting,
    /// It is killed, and an empty one takes its place.
    Replaced,
    /// It stands still, and then goes on.
    Frozen,
}

const REDIS_STATES: [RedisState; 5] =
    [RedisState::Healthy, RedisState::Full, RedisState::Evicting, RedisState::Replaced, RedisState::Frozen];

/// The answers of a run, judged.
#[derive(Debug, Clone)]
pub struct FreshnessReport {
    /// Late events that were stored.
    pub events: u64,
    /// By state of Redis.
    pub phases: Vec<(RedisState, Judged)>,
}

impl FreshnessReport {
    /// Whether no answer was older than promised, or counted what was not there.
    pub fn holds(&self) -> bool {
        self.phases.iter().all(|(_, judged)| judged.wrong.is_empty())
    }
}

impl fmt::Display for FreshnessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "late events {}", self.events)?;
        for state in REDIS_STATES {
            let mut all = Judged::default();
            self.phases.iter().filter(|(of, _)| *of == state).for_each(|(_, judged)| all.merge(judged));
            writeln!(f, "{state:?}: {all}")?;
        }
        Ok(())
    }
}

/// Runs for as long as configured; `progress` gets each step.
pub async fn run(config: &FreshnessConfig, progress: impl Fn(&str)) -> Result<FreshnessReport, DegradeError> {
    progress("starting a system of its own, and three instances");
    let mut stage = Stage::start(&config.programs).await?;
    let ttl = config.ttl.as_millis().to_string();
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(stage.instance(&[("QUERY_CACHE_TTL_MS", &ttl)]).await?);
    }
    let ingest = Endpoint::new(&format!("{}/v1/events?wait=stored", stage.ingest_url()), Duration::from_secs(30))?
        .api_key(INGEST_KEY)?;
    let (stop, stopped) = watch::channel(false);
    let sampling = tokio::spawn(Samples::take(stage.clickhouse_config(), stopped.clone()));
    let sending = tokio::spawn(send(ingest, config.seed, stopped.clone()));
    let asking: Vec<_> = (1_u64..)
        .zip(&instances)
        .map(|(number, instance)| {
            tokio::spawn(ask(Arc::clone(&instance.api), config.seed.wrapping_add(number), stopped.clone()))
        })
        .collect();
    let phases = breaks(&mut stage.redis, config, &progress).await;
    stop.send_replace(true);
    let ended = |error: tokio::task::JoinError| DegradeError::Worthless(error.to_string());
    let mut asked = Vec::new();
    for asker in asking {
        asked.extend(asker.await.map_err(ended)??);
    }
    let events = sending.await.map_err(ended)??;
    let samples = sampling.await.map_err(ended)??;
    let phases = phases?;
    drop(instances);
    stage.stop().await?;
    let bounds = Bounds { ttl: config.ttl.mul_f64(7.0 / 6.0), slack: config.slack };
    let judged = phases.iter().enumerate().map(|(place, phase)| {
        let until = phases.get(place + 1).map(|next| next.began);
        let of_it = asked.iter().filter(|asked| asked.sent >= phase.began && until.is_none_or(|end| asked.sent < end));
        (phase.state, bounds.judge(of_it, phase.healthy_from, &samples))
    });
    Ok(FreshnessReport { events, phases: judged.collect() })
}

/// A state of Redis, in time.
struct Phase {
    state: RedisState,
    began: Instant,
    /// From here on it counts as healthy, until the next phase.
    healthy_from: Instant,
}

async fn breaks(
    redis: &mut Redis,
    config: &FreshnessConfig,
    progress: &impl Fn(&str),
) -> Result<Vec<Phase>, DegradeError> {
    let (end, mut phases) = (Instant::now() + config.lasts, Vec::new());
    for state in REDIS_STATES.into_iter().cycle() {
        let began = Instant::now();
        if began >= end {
            break;
        }
        progress(&format!("Redis: {state:?}"));
        let broken = config.phase.mul_f64(1.0 - HEALTHY_PART);
        let healthy = config.phase.mul_f64(HEALTHY_PART);
        match state {
            RedisState::Healthy => sleep(broken).await,
            RedisState::Full => {
                redis.command("CONFIG SET maxmemory 1").await?;
                sleep(broken).await;
                redis.command("CONFIG SET maxmemory 0").await?;
            }
            RedisState::Evicting => {
                let until = Instant::now() + broken;
                while Instant::now() < until {
                    redis.command(EVICTS).await?;
                    sleep(Duration::from_millis(700)).await;
                }
            }
            RedisState::Replaced => {
                sleep(broken / 2).await;
                redis.kill();
                redis.start_again().await?;
                sleep(broken / 2).await;
            }
            RedisState::Frozen => {
                redis.freeze()?;
                sleep(broken).await;
                redis.thaw()?;
            }
        }
        let healed = Instant::now();
        sleep(healthy).await;
        let healthy_from = if state == RedisState::Healthy { began } else { healed + RECOVERS };
        phases.push(Phase { state, began, healthy_from });
    }
    Ok(phases)
}

/// Every second key goes.
const EVICTS: &str = "EVAL \"for _, key in ipairs(redis.call('KEYS', '*')) do if math.random() < 0.5 then redis.call('DEL', key) end end return 1\" 0";

/// Sends one event after the other until `stop`; gives how many were stored.
async fn send(ingest: Endpoint, seed: u64, stop: watch::Receiver<bool>) -> Result<u64, DegradeError> {
    let (mut random, mut stored) = (StdRng::seed_from_u64(seed), 0);
    while !*stop.borrow() {
        let now = Timestamp::now().as_second();
        let ago = match random.random_range(0..3) {
            0 => random.random_range(86_400..DAYS * 86_400),
            1 => random.random_range(3_600..86_400),
            _ => random.random_range(0..60),
        };
        let event = json!({"eventType": "late", "project": PROJECT, "timestamp": (now - ago) * 1_000});
        let reply = ingest.post(Bytes::from(event.to_string())).await?;
        if reply.status != hyper::StatusCode::OK {
            return Err(DegradeError::Worthless(format!("an event: {} {}", reply.status, reply.excerpt())));
        }
        stored += 1;
        let pause = Duration::from_millis(random.random_range(0..EVENTS_MS));
        sleep(pause).await;
    }
    Ok(stored)
}

/// Asks one question after the other until `stop`.
async fn ask(api: Arc<Endpoint>, seed: u64, stop: watch::Receiver<bool>) -> Result<Vec<Asked>, DegradeError> {
    let (mut random, mut asked) = (StdRng::seed_from_u64(seed), Vec::new());
    while !*stop.borrow() {
        let question = Question::any(&mut random, Timestamp::now().as_second());
        let sent = Instant::now();
        let reply = api.get(&question.path()).await?;
        asked.push(Asked::of(question, sent, &reply)?);
        sleep(PACE).await;
    }
    Ok(asked)
}
