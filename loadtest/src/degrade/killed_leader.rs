//! The instance that computes for all dies in the middle of its query: what the others then cost, and how long they wait.
//!
//! ```text
//! leader: ask -> ClickHouse's answer is held back        kill -9 -.
//! other:  a crowd asks -> waits for the leader's lock -----------'---> the lock ends -> one query -> all have the answer
//! ```

use std::sync::Arc;

use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::Instant;

use super::DegradeError;
use super::connection::{Connection, Question};
use super::questions::Questions;
use super::stage::{Stage, until};
use crate::bench::quantiles::{Latencies, Quantiles};
use crate::relay::{Mode, Relay};

/// How often.
const ROUNDS: usize = 5;
/// Readers that wait on the other instance.
const FOLLOWERS: usize = 200;

const LOCKS: &str = "tallyhouse_query_cache_locks_total";

/// What became of those who waited.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Orphans {
    /// Leaders killed.
    pub rounds: usize,
    /// Readers that waited, in each round.
    pub followers: usize,
    /// Queries of both instances, the killed one's included: the most of a round.
    pub most_queries: u64,
    /// Readers without an answer.
    pub unanswered: usize,
    /// From the kill to the answer.
    pub waited: Quantiles,
}

pub(super) async fn measure(stage: &mut Stage, questions: &Questions) -> Result<Orphans, DegradeError> {
    let relay = Relay::start(&stage.clickhouse_config().url).await?;
    let (mut waited, mut most_queries, mut unanswered) = (Latencies::new(), 0, 0);
    for _ in 0..ROUNDS {
        let (queries, without) = round(stage, questions, &relay, &mut waited).await?;
        most_queries = most_queries.max(queries);
        unanswered += without;
    }
    Ok(Orphans { rounds: ROUNDS, followers: FOLLOWERS, most_queries, unanswered, waited: waited.quantiles() })
}

async fn round(
    stage: &mut Stage,
    questions: &Questions,
    relay: &Relay,
    waited: &mut Latencies,
) -> Result<(u64, usize), DegradeError> {
    relay.set(Mode::Pass);
    let mut leader = stage.instance(&[("CLICKHOUSE_URL", &relay.url)]).await?;
    let other = stage.instance(&[]).await?;
    let question = Question::Get(questions.hot_panel());
    relay.set(Mode::HoldAnswers);
    let mut leading = Connection::open(&leader.address).await?;
    let asked = question.clone();
    let leads = tokio::spawn(async move { leading.ask(&asked).await.is_ok() });
    let sent = async || leader.counted("tallyhouse_query_clickhouse_in_flight", "").await.is_ok_and(|n| n > 0);
    until("the leader's query is sent", sent).await?;
    let readers = try_join_all((0..FOLLOWERS).map(|_| Connection::open(&other.address))).await?;
    let question = Arc::new(question);
    let reading: Vec<_> =
        readers.into_iter().map(|connection| tokio::spawn(follow(connection, Arc::clone(&question)))).collect();
    let waits = async || other.counted(LOCKS, "event=\"waited\"").await.is_ok_and(|n| n > 0);
    until("the followers wait", waits).await?;
    let of_leader = leader.queries().await? + leader.counted("tallyhouse_query_clickhouse_in_flight", "").await?;
    leader.kill();
    let killed = Instant::now();
    let mut unanswered = 0;
    for reader in reading {
        match reader.await.map_err(|error| DegradeError::Worthless(error.to_string()))? {
            Some(answered) => waited.add(answered.saturating_duration_since(killed)),
            None => unanswered += 1,
        }
    }
    if leads.await.is_ok_and(|is_answered| is_answered) {
        return Err(DegradeError::Worthless("the leader had its answer before it was killed".to_owned()));
    }
    Ok((of_leader + other.queries().await?, unanswered))
}

/// When it had its answer.
async fn follow(mut connection: Connection, question: Arc<Question>) -> Option<Instant> {
    let (status, _) = connection.ask(&question).await.ok()?;
    status.is_success().then(Instant::now)
}
