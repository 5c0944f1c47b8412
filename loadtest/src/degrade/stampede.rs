//! Ten thousand readers of one answer that has expired: what they cost, and how long they wait.
//!
//! ```text
//! ask once (what a reader alone costs) -> absent: forget it everywhere | stale: wait until it is
//!   -> all connections open -> all at once -> ClickHouse queries, latencies
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep};

use super::DegradeError;
use super::connection::{Connection, Question};
use super::instance::Instance;
use super::questions::Questions;
use super::stage::{Pair, Stage};
use crate::bench::quantiles::{Latencies, Quantiles};

/// Requests of a crowd.
const REQUESTS: usize = 10_000;

/// Connections that they come over, each with one request under way.
const CONNECTIONS: [usize; 3] = [100, 1_000, REQUESTS];

/// Connections being opened at once: less than a listener keeps waiting.
const OPENING: usize = 128;

/// Files that a process needs beside its connections.
const OTHER_FILES: usize = 200;

/// Longer than a part of an answer lives, so that a refresh costs a query.
const TTL: Duration = Duration::from_secs(12);

/// How the answer was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expired {
    /// Nobody remembers it.
    Absent,
    /// It is remembered, and too old.
    Stale,
}

/// What a crowd came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crowd {
    /// How the answer was gone.
    pub expired: Expired,
    /// Connections, over both instances.
    pub connections: usize,
    pub requests: usize,
    /// Queries that ClickHouse got from both instances.
    pub queries: u64,
    /// What a reader alone had cost.
    pub alone: u64,
    /// Times Redis was no help to an instance, which then computes without the fleet's lock.
    pub redis_errors: u64,
    /// From the first request to the last answer, in milliseconds.
    pub took_ms: u64,
    /// Answers that say `HIT`, `MISS`, `STALE`, `COALESCED`, and all others.
    pub answers: [usize; 5],
    /// From sending to the whole answer.
    pub latency: Quantiles,
}

impl Crowd {
    /// The most queries that it may cost: the answer may expire again under a crowd that takes that long.
    pub fn allowed(&self) -> u64 {
        self.alone * (1 + self.took_ms / u64::try_from((TTL * 5 / 6).as_millis()).unwrap_or(u64::MAX))
    }
}

/// Lets this process, and those it starts, have as many connections as it may.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Not possible is not wrong: fewer connections are opened then.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

pub(super) async fn measure(stage: &mut Stage, questions: &Questions) -> Result<Vec<Crowd>, DegradeError> {
    let ttl = TTL.as_millis().to_string();
    // Warming would refresh the answer before it expires.
    let pair = stage.pair(&[("QUERY_CACHE_TTL_MS", &ttl), ("QUERY_CACHE_WARM", "off")]).await?;
    let mut crowds = Vec::new();
    for connections in CONNECTIONS.map(possible) {
        let (question, alone) = prime(&pair, questions).await?;
        let [one, _] = &pair;
        one.clear_cache().await?;
        // The other instance has heard of it by then.
        sleep(Duration::from_millis(300)).await;
        crowds.push(crowd(&pair, &question, Size { expired: Expired::Absent, connections, alone }).await?);
    }
    let mut primed = Vec::new();
    for connections in CONNECTIONS.map(possible) {
        primed.push((connections, prime(&pair, questions).await?));
    }
    sleep(TTL.mul_f64(7.0 / 6.0) + Duration::from_millis(500)).await;
    for (connections, (question, alone)) in primed {
        crowds.push(crowd(&pair, &question, Size { expired: Expired::Stale, connections, alone }).await?);
    }
    Ok(crowds)
}

fn possible(connections: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
    connections.min(files.saturating_sub(OTHER_FILES))
}

/// Makes both instances remember a new answer; what it cost.
async fn prime(pair: &Pair, questions: &Questions) -> Result<(Question, u64), DegradeError> {
    let question = Question::Get(questions.hot_panel());
    let before = queries(pair).await?;
    for Instance { address, .. } in pair {
        Connection::open(address).await?.ask(&question).await?;
    }
    Ok((question, queries(pair).await? - before))
}

async fn redis_errors(pair: &Pair) -> Result<u64, DegradeError> {
    const ERRORS: &str = "tallyhouse_query_redis_errors_total";
    let [one, other] = pair;
    Ok(one.counted(ERRORS, "").await? + other.counted(ERRORS, "").await?)
}

async fn queries(pair: &Pair) -> Result<u64, DegradeError> {
    let [one, other] = pair;
    Ok(one.queries().await? + other.queries().await?)
}

#[derive(Clone, Copy)]
struct Size {
    expired: Expired,
    connections: usize,
    alone: u64,
}

async fn crowd(pair: &Pair, question: &Question, size: Size) -> Result<Crowd, DegradeError> {
    let Size { expired, connections, alone } = size;
    let addresses = (0..connections).zip(pair.iter().cycle()).map(|(_, instance)| Connection::open(&instance.address));
    let opened: Vec<Connection> = stream::iter(addresses).buffer_unordered(OPENING).try_collect().await?;
    let (before, errors, each) = (queries(pair).await?, redis_errors(pair).await?, REQUESTS / connections);
    let (ready, began) = (Arc::new(Barrier::new(connections)), Instant::now());
    let readers =
        opened.into_iter().map(|connection| tokio::spawn(read(connection, question.clone(), each, Arc::clone(&ready))));
    let (mut latencies, mut answers) = (Latencies::new(), [0; 5]);
    for reader in try_join_all(readers).await.map_err(|error| DegradeError::Worthless(error.to_string()))? {
        let (took, seen) = reader?;
        latencies.merge(&took);
        answers.iter_mut().zip(seen).for_each(|(sum, count)| *sum += count);
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    // A refresh beside the answers may still be under way.
    sleep(Duration::from_millis(500)).await;
    let (queries, redis_errors) = (queries(pair).await? - before, redis_errors(pair).await? - errors);
    let requests = each * connections;
    let latency = latencies.quantiles();
    Ok(Crowd { expired, connections, requests, queries, alone, redis_errors, took_ms, answers, latency })
}

async fn read(
    mut connection: Connection,
    question: Question,
    times: usize,
    ready: Arc<Barrier>,
) -> Result<(Latencies, [usize; 5]), DegradeError> {
    let (mut latencies, mut seen) = (Latencies::new(), [0; 5]);
    ready.wait().await;
    for _ in 0..times {
        let sent = Instant::now();
        let (status, cache) = connection.ask(&question).await?;
        latencies.add(sent.elapsed());
        let place = ["HIT", "MISS", "STALE", "COALESCED"].iter().position(|kind| *kind == cache);
        let place = place.filter(|_| status.is_success()).unwrap_or(4);
        seen.iter_mut().skip(place).take(1).for_each(|count| *count += 1);
    }
    Ok((latencies, seen))
}
