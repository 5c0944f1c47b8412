//! Dashboards beside two hundred ad hoc queries: analysts' SQL and funnels over raw events, always as many outstanding.
//!
//! Alone and beside them by turns, so that what else the machine does hits both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::DegradeError;
use super::connection::Connection;
use super::open_loop::{Answered, Pace, Tally};
use super::questions::Questions;
use super::redis::panels;
use super::stage::{Pair, Stage, until};

/// Ad hoc questions under way, over both instances.
const OUTSTANDING: usize = 200;
const ROUNDS: usize = 4;
/// Panels in each round.
const PACE: Pace = Pace { per_second: 20, lasts: Duration::from_secs(5) };
/// Before a refused question is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Dashboards alone and beside ad hoc questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Isolation {
    pub rounds: usize,
    /// Ad hoc questions that were outstanding.
    pub outstanding: usize,
    pub alone: Answered,
    /// Beside them.
    pub beside: Answered,
    /// How ad hoc questions ended, those that were left at the end of a round not among them.
    pub ad_hoc: BTreeMap<String, u64>,
}

/// Measures by turns.
pub(super) async fn measure(stage: &mut Stage, questions: &Arc<Questions>) -> Result<Isolation, DegradeError> {
    let pair = stage.pair(&[]).await?;
    panels(&pair, questions, Pace { lasts: Duration::from_secs(2), ..PACE }).await?;
    let (mut alone, mut beside, mut ad_hoc) = (Tally::default(), Tally::default(), BTreeMap::new());
    for _ in 0..ROUNDS {
        alone.merge(panels(&pair, questions, PACE).await?);
        let crowd = Crowd::start(&pair, questions);
        busy(&pair).await?;
        beside.merge(panels(&pair, questions, PACE).await?);
        crowd.end().await.into_iter().for_each(|(end, count)| *ad_hoc.entry(end).or_default() += count);
        idle(&pair).await?;
    }
    let (alone, beside) = (alone.answered(), beside.answered());
    Ok(Isolation { rounds: ROUNDS, outstanding: OUTSTANDING, alone, beside, ad_hoc })
}

/// Readers that ask for something heavy, again and again.
struct Crowd {
    readers: JoinSet<()>,
    ends: Ends,
}

/// How many questions ended how.
type Ends = Arc<Mutex<BTreeMap<String, u64>>>;

impl Crowd {
    fn start(pair: &Pair, questions: &Arc<Questions>) -> Self {
        let (mut readers, ends) = (JoinSet::new(), Ends::default());
        for (number, instance) in (0..OUTSTANDING).zip(pair.iter().cycle()) {
            let (address, questions, ends) = (instance.address.clone(), Arc::clone(questions), Arc::clone(&ends));
            readers.spawn(async move {
                loop {
                    // Each instance has as many of one as of the other.
                    let (question, _) = if number % 4 < 2 { questions.sql() } else { questions.funnel() };
                    let answer = async { Connection::open(&address).await?.ask(&question).await };
                    let end =
                        answer.await.map_or_else(|_| "no answer".to_owned(), |(status, _)| status.as_str().to_owned());
                    let is_answered = end == "200";
                    *ends.lock().unwrap_or_else(PoisonError::into_inner).entry(end).or_default() += 1;
                    if !is_answered {
                        sleep(AGAIN_AFTER).await;
                    }
                }
            });
        }
        Self { readers, ends }
    }

    /// Closes all connections; how questions had ended until then.
    async fn end(mut self) -> BTreeMap<String, u64> {
        self.readers.shutdown().await;
        std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const WAITING: &str = "tallyhouse_query_waiting";
const AD_HOC: &str = "class=\"ad_hoc\"";

/// Until most of the crowd waits for its turn.
async fn busy(pair: &Pair) -> Result<(), DegradeError> {
    let [one, other] = pair;
    let waits = async || {
        let (one, other) = (one.counted(WAITING, AD_HOC).await, other.counted(WAITING, AD_HOC).await);
        one.unwrap_or_default() + other.unwrap_or_default() > (OUTSTANDING * 3 / 4) as u64
    };
    until("ad hoc questions wait", waits).await
}

/// Until nothing of it is left.
async fn idle(pair: &Pair) -> Result<(), DegradeError> {
    for instance in pair {
        for gauge in [WAITING, "tallyhouse_query_clickhouse_in_flight"] {
            until("the ad hoc questions are gone", async || instance.counted(gauge, "").await.is_ok_and(|n| n == 0))
                .await?;
        }
    }
    Ok(())
}
