//! Uncached dashboards with Redis and without: it hangs, and it refuses connections.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::DegradeError;
use super::open_loop::{Answered, Pace, Tally, either, run};
use super::questions::Questions;
use super::stage::{Pair, Stage};

/// Panels in each part.
const PACE: Pace = Pace { per_second: 25, lasts: Duration::from_secs(8) };

/// The same questions with and without.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WithoutRedis {
    /// With Redis, in between.
    pub with: Answered,
    /// From the moment on in which it stands still.
    pub hangs: Answered,
    /// From the moment on in which it is killed.
    pub refuses: Answered,
}

/// Takes Redis away twice; afterwards it is there, empty.
pub(super) async fn measure(stage: &mut Stage, questions: &Questions) -> Result<WithoutRedis, DegradeError> {
    let pair = stage.pair(&[]).await?;
    // What is only slow the first time is not Redis's doing.
    panels(&pair, questions, Pace { lasts: Duration::from_secs(2), ..PACE }).await?;
    let mut with = panels(&pair, questions, PACE).await?;
    stage.redis.freeze()?;
    let hangs = panels(&pair, questions, PACE).await;
    stage.redis.thaw()?;
    // As long as it takes until Redis is tried again.
    panels(&pair, questions, Pace { lasts: Duration::from_secs(4), ..PACE }).await?;
    with.merge(panels(&pair, questions, PACE).await?);
    stage.redis.kill();
    let refuses = panels(&pair, questions, PACE).await;
    stage.redis.start_again().await?;
    Ok(WithoutRedis { with: with.answered(), hangs: hangs?.answered(), refuses: refuses?.answered() })
}

/// Panels that nobody asked before, of both instances by turns.
pub(super) async fn panels(pair: &Pair, questions: &Questions, pace: Pace) -> Result<Tally, DegradeError> {
    let [one, other] = pair;
    let both = [Arc::clone(&one.api), Arc::clone(&other.api)];
    run(pace, |number| {
        let (api, path) = (either(&both, number), questions.panel());
        async move { api.get(&path).await }
    })
    .await
}
