//! The whole flow, forwards: authorize -> parameters -> query -> plan -> cache -> ClickHouse -> render.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use tallyhouse_schema::Catalogue;
use tallyhouse_service::keys::KeyRing;

use crate::authorize::{Denied, Scope, authorize};
use crate::cache::{Answers, Entry, Key, ttl};
use crate::live::Full;
use crate::plan::{Plan, Unplannable, plan};
use crate::render::{self, Rendered};
use crate::request::query::{DAILY_PARAMS, METRIC_PARAMS};
use crate::request::{BadRequest, DailyQuery, MetricQuery, Params, Query};
use crate::sql;
use crate::store::{ReadError, Store};
use crate::{Clock, Random};

/// Everything that answering needs.
pub struct App {
    /// Who may ask.
    pub keys: Arc<KeyRing>,
    /// What is rolled up.
    pub catalogue: Arc<Catalogue>,
    /// Answers that are known.
    pub answers: Answers,
    /// ClickHouse.
    pub store: Store,
    /// How long an answer is remembered, before jitter.
    pub ttl: Duration,
    /// The present.
    pub clock: Clock,
    /// Jitter.
    pub random: Random,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// A series of this metric.
    Metric(&'a str),
    /// The real-time dashboard.
    Realtime,
    /// A day's report.
    Daily,
}

/// An answer and where it came from.
#[derive(Debug)]
pub struct Answer {
    /// The answer itself.
    pub entry: Arc<Entry>,
    /// Where it came from.
    pub status: CacheStatus,
}

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// The answer was remembered.
    Hit,
    /// It was computed for this request.
    Miss,
    /// It was computed for another request that came first.
    Coalesced,
}

impl CacheStatus {
    /// As in `X-Cache`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Coalesced => "COALESCED",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The caller may not ask.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The question is not understood.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// Nothing that is kept answers it.
    #[error(transparent)]
    Unplannable(#[from] Unplannable),
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Too many streams are open.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Answers a question.
pub async fn serve(
    app: &App,
    question: Question<'_>,
    headers: &HeaderMap,
    raw: Option<&str>,
) -> Result<Answer, Refusal> {
    let scope = authorize(&app.keys, headers)?;
    let now_ms = (app.clock)();
    let query = read(question, raw, now_ms)?;
    let plan = plan(&query, &app.catalogue, now_ms)?;
    let key = Key::of(&scope, &plan).ok_or(ReadError::Failed)?;
    let ttl = ttl::of(&plan, app.ttl, (app.random)());
    let (entry, status) =
        app.answers.get(key, ttl, || compute(app.store.clone(), app.clock.clone(), scope, plan)).await?;
    Ok(Answer { entry, status })
}

fn read(question: Question<'_>, raw: Option<&str>, now_ms: i64) -> Result<Query, BadRequest> {
    match question {
        Question::Metric(name) => {
            MetricQuery::parse(name, &Params::parse(raw, METRIC_PARAMS)?, now_ms).map(Query::Metric)
        }
        Question::Realtime => Params::parse(raw, &[]).map(|_| Query::Realtime),
        Question::Daily => DailyQuery::parse(&Params::parse(raw, DAILY_PARAMS)?, now_ms).map(Query::Daily),
    }
}

pub(crate) async fn compute(store: Store, clock: Clock, scope: Scope, plan: Plan) -> Result<Rendered, ReadError> {
    let generated_s = clock().div_euclid(1_000);
    Ok(match &plan {
        Plan::Series(plan) => {
            let points = store.read(&sql::series(plan, scope.project())).await?;
            let places = match sql::overflowed(plan, scope.project()) {
                Some(statement) => store.read::<sql::Place>(&statement).await?,
                None => Vec::new(),
            };
            render::series::render(plan, &points, &plan.named(&places), generated_s)
        }
        Plan::Realtime(plan) => {
            let lines = store.read(&sql::realtime(plan, scope.project())).await?;
            render::report::realtime(plan, &lines, generated_s)
        }
        Plan::Daily(plan) => {
            let lines = store.read(&sql::daily(plan, scope.project())).await?;
            render::report::daily(plan, &lines, generated_s)
        }
    })
}
