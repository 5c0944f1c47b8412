//! ClickHouse is away, under cached dashboards and uncached ad hoc queries: it refuses connections, and it
//! hangs.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use tokio::time::sleep;

use super::DegradeError;
use super::connection::Question;
use super::open_loop::{Answered, Pace, either, run};
use super::questions::Questions;
use super::stage::{Pair, Stage};
use tallyhouse_service::http_client::HttpError;

/// Cached panels.
const DASHBOARDS: u32 = 40;
/// Ad hoc questions.
const AD_HOC: u32 = 4;
/// Connections are refused.
const REFUSES: Duration = Duration::from_secs(6);
/// Questions are taken and not answered: longer than a dashboard's query may take, after which nobody asks any more.
const HANGS: Duration = Duration::from_secs(15);
/// Longer than an answer, and a part of one that may still change, is fresh.
const EXPIRES: Duration = Duration::from_secs(12);
/// How long an ad hoc reader waits.
const TIMEOUT: Duration = Duration::from_secs(20);

/// ClickHouse away, in both ways.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Away {
    /// Connections are refused.
    pub refuses: Given,
    /// Connections stand still.
    pub hangs: Given,
}

/// What readers were given meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Given {
    pub dashboards: Answered,
    pub ad_hoc: Answered,
}

/// Takes ClickHouse away twice; afterwards it is there.
pub(super) async fn measure(stage: &mut Stage, questions: &Questions) -> Result<Away, DegradeError> {
    let pair = primed(stage, questions).await?;
    stage.remove_clickhouse()?;
    let refuses = given(&pair, questions, REFUSES).await;
    stage.bring_clickhouse_back().await?;
    // Instances that have not yet learnt that ClickHouse fails.
    let pair = primed(stage, questions).await?;
    stage.freeze_clickhouse()?;
    let hangs = given(&pair, questions, HANGS).await;
    stage.thaw_clickhouse()?;
    Ok(Away { refuses: refuses?, hangs: hangs? })
}

/// Instances that remember a dashboard, which is stale.
async fn primed(stage: &mut Stage, questions: &Questions) -> Result<Pair, DegradeError> {
    let pair = stage.pair(&[("QUERY_CACHE_TTL_MS", "1000"), ("QUERY_CACHE_WARM", "off")]).await?;
    for instance in &pair {
        for path in questions.dashboard() {
            let reply = instance.api.get(&path).await?;
            if !reply.status.is_success() {
                return Err(DegradeError::Worthless(format!("{path}: {} {}", reply.status, reply.excerpt())));
            }
        }
    }
    sleep(EXPIRES).await;
    Ok(pair)
}

async fn given(pair: &Pair, questions: &Questions, lasts: Duration) -> Result<Given, DegradeError> {
    let [one, other] = pair;
    let both = [Arc::clone(&one.api), Arc::clone(&other.api)];
    let paths = questions.dashboard();
    let dashboards = run(Pace { per_second: DASHBOARDS, lasts }, |number| {
        let path = paths.get(number as usize / 2 % paths.len()).cloned().unwrap_or_default();
        let api = either(&both, number);
        async move { api.get(&path).await }
    });
    let ad_hoc = run(Pace { per_second: AD_HOC, lasts }, |number| {
        let (question, _) = if number % 4 < 2 { questions.sql() } else { questions.funnel() };
        let api = either(&both, number);
        async move {
            let answer = async {
                match question {
                    Question::Get(path) => api.get(&path).await,
                    Question::Post { path, body } => api.send(Method::POST, path, body).await,
                }
            };
            tokio::time::timeout(TIMEOUT, answer).await.unwrap_or(Err(HttpError::TimedOut(TIMEOUT)))
        }
    });
    let (dashboards, ad_hoc) = tokio::try_join!(dashboards, ad_hoc)?;
    Ok(Given { dashboards: dashboards.answered(), ad_hoc: ad_hoc.answered() })
}
