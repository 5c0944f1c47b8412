//! A browser tab is closed while its query runs: how long the query goes on in ClickHouse.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::DegradeError;
use super::connection::{Connection, Question};
use super::instance::Instance;
use super::questions::Questions;
use super::stage::{Stage, until};
use crate::bench::quantiles::{Latencies, Quantiles};
use crate::clickhouse::ClickHouse;

const TIMES: usize = 20;
/// How long a query has run when its tab is closed.
const RUNS_FOR_SECONDS: f64 = 0.1;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClosedTabs {
    /// `/v1/query`: funnels.
    pub funnels: Closed,
    /// `/v1/sql`.
    pub sql: Closed,
}

/// Closed tabs of one kind of question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Closed {
    /// From the close to when the query is gone.
    pub gone: Quantiles,
    /// Of these stopped, by what the instance says; the others ended by themselves.
    pub stopped: u64,
}

pub(super) async fn measure(stage: &mut Stage, questions: &Questions) -> Result<ClosedTabs, DegradeError> {
    let instance = stage.instance(&[]).await?;
    let clickhouse = &stage.clickhouse;
    let funnels = closed(&instance, clickhouse, || questions.funnel()).await?;
    let sql = closed(&instance, clickhouse, || questions.sql()).await?;
    Ok(ClosedTabs { funnels, sql })
}

async fn closed(
    instance: &Instance,
    clickhouse: &ClickHouse,
    question: impl Fn() -> (Question, String),
) -> Result<Closed, DegradeError> {
    let stopped = async || instance.counted("tallyhouse_query_clickhouse_queries_total", "outcome=\"cancelled\"").await;
    let (mut gone, before) = (Latencies::new(), stopped().await?);
    for _ in 0..TIMES {
        let (question, mark) = question();
        let mut connection = Connection::open(&instance.address).await?;
        let asking = connection.ask(&question);
        let runs = until("the query runs", async || running(clickhouse, &mark, RUNS_FOR_SECONDS).await > 0);
        tokio::select! {
            answer = asking => return Err(DegradeError::Worthless(format!("it was to run for longer: {:?}", answer?))),
            runs = runs => runs?,
        }
        drop(connection);
        let left = Instant::now();
        while running(clickhouse, &mark, 0.0).await > 0 {}
        gone.add(left.elapsed());
    }
    // What was stopped is counted once ClickHouse was told.
    sleep(Duration::from_millis(500)).await;
    Ok(Closed { gone: gone.quantiles(), stopped: stopped().await? - before })
}

/// Queries with this mark that have run for so long. One that cannot be asked about counts as running.
async fn running(clickhouse: &ClickHouse, mark: &str, seconds: f64) -> u64 {
    let count = format!(
        "SELECT count() FROM system.processes WHERE position(query, '{mark}') > 0 AND elapsed >= {seconds} \
         AND query NOT LIKE '%system.processes%'"
    );
    clickhouse.number(&count).await.unwrap_or(1)
}
