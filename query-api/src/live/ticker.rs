//! Queries one question at each interval, and publishes the outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::query::StreamQuery;
use super::update::{Answered, Failure, Update};
use crate::authorize::Scope;
use crate::cache::refusals::REFUSED_MS;
use crate::cache::{Entry, RedisTimeBudget, Rendered};
use crate::execute::{Moment, Recall};
use crate::plan::{Plan, one_series};
use crate::problem::of_refusal;
use crate::render::tagged;
use crate::serve::{App, Refusal};
use crate::store::Class;
use crate::warning::Warning;

/// A question that is too much is not asked at each tick.
const HOPELESS: Duration = Duration::from_millis(REFUSED_MS.unsigned_abs());

/// How old a chunk may be that another tick or a panel has read and that is not over yet: half of the shortest interval. So fifty streams
/// over the same events cost two statements a second, not fifty.
const SHARED_MS: i64 = 500;

/// A question and who may know the answer.
pub struct Upstream {
    /// Everything that answering needs.
    pub app: Arc<App>,
    /// Whose data it is.
    pub scope: Scope,
    pub query: StreamQuery,
}

/// Ticks until it is dropped. A question that takes longer than the interval delays the next: there is never more than one.
pub async fn run(upstream: Upstream, publish: watch::Sender<Update>) {
    let mut ticks = tokio::time::interval(upstream.query.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answered = upstream.answer().await;
        let is_hopeless = matches!(&answered, Err(Refusal::Read(error)) if error.is_of_the_question());
        let outcome = answered.map_err(|refusal| failure(&refusal));
        if let Err(failure) = &outcome {
            tracing::debug!(code = failure.code, "a stream's question failed");
        }
        publish.send_modify(|update| *update = update.after(outcome));
        if is_hopeless {
            tokio::time::sleep(HOPELESS).await;
        }
    }
}

impl Upstream {
    /// The answer now. Planned each time, because the window slides. Past the cache of answers, which are older than a tick; chunks are
    /// shared with other ticks.
    async fn answer(&self) -> Result<Answered, Refusal> {
        let app = &self.app;
        let computed_ms = (app.clock)();
        let series = self.query.as_defined(|name| app.registry.find(self.scope.project(), name));
        let catalogue = app.catalogue.of(self.scope.project());
        let plan = Plan::from(one_series(&series, &catalogue, computed_ms)?);
        let class = Class::Stream;
        let deadline = Instant::now() + app.sources.store.deadline(class);
        let moment = Moment { now_ms: computed_ms, recall: Recall::Since(computed_ms - SHARED_MS), class, deadline };
        let running = app.sources.execution(&self.scope, moment, RedisTimeBudget::default()).run(&plan);
        let asked = series.event_types();
        let project = self.scope.project();
        let (rendered, mut warnings, incomplete) = tokio::join!(
            running,
            app.event_types.warnings(project, &asked, deadline),
            app.coverage.warnings(project, &plan, &catalogue, deadline)
        );
        warnings.extend(Warning::of_numbers(series.numbers_as_texts()));
        warnings.extend(incomplete);
        let Rendered { head, etag, oldest_ms, is_partial, .. } = rendered?;
        let etag = tagged(&etag, &warnings);
        let oldest_ms = oldest_ms.unwrap_or(computed_ms);
        let entry = Entry { head, etag, computed_ms, oldest_ms, expires_ms: (app.clock)(), is_partial };
        Ok(Answered { entry, warnings })
    }
}

fn failure(refusal: &Refusal) -> Failure {
    let problem = of_refusal(refusal);
    Failure { code: problem.code, message: problem.message }
}
