//! The whole flow, forwards: authorize -> parameters -> query -> plan -> cache -> ClickHouse -> render.

use std::sync::Arc;

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use tallyhouse_schema::Catalogue;
use tallyhouse_service::keys::{self, KeyRing};

use crate::Clock;
use crate::authorize::{Denied, Scope, authorize};
use crate::cache::fresh::{self, Limiter};
use crate::cache::question::{Given, Recipe, StaleReason, Wanted};
use crate::cache::{Answers, Entry, Parts};
use crate::plan::{Plan, Unplannable, plan};
use crate::render::{self, Rendered};
use crate::request::query::{DAILY_PARAMS, METRIC_PARAMS};
use crate::request::{BadRequest, DailyQuery, MetricQuery, Params, Query};
use crate::sql;
use crate::store::{ReadError, Store};

/// Everything that answering needs.
pub struct App {
    /// Who may ask.
    pub keys: Arc<KeyRing>,
    /// What is rolled up.
    pub catalogue: Arc<Catalogue>,
    /// Answers that are known.
    pub answers: Answers,
    /// Parts of answers that are known.
    pub parts: Parts,
    /// Who may go past the cache.
    pub fresh: Limiter,
    /// ClickHouse.
    pub store: Store,
    /// The present.
    pub clock: Clock,
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
    pub entry: Entry,
    /// Where it came from.
    pub status: CacheStatus,
    /// Whether a fresh answer was asked for and this one is remembered: the caller has just had one.
    pub from_cache: bool,
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
    /// It was remembered and is no longer fresh.
    Stale(StaleReason),
}

impl CacheStatus {
    /// As in `X-Cache`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Coalesced => "COALESCED",
            Self::Stale(_) => "STALE",
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
    let (is_fresh, raw) = fresh::take(raw)?;
    let query = read(question, raw.as_deref(), now_ms)?;
    let plan = Arc::new(plan(&query, &app.catalogue, now_ms)?);
    let digest = digest(&scope, question, raw.as_deref());
    let wanted = Wanted { recipe: recipe(app, &scope, &plan), scope, plan, question: digest };
    let is_allowed = is_fresh && keys::presented(headers).is_some_and(|key| app.fresh.allows(key, now_ms));
    let (kept, status): Given =
        if is_allowed { app.answers.fresh(&wanted).await? } else { app.answers.get(&wanted).await? };
    let from_cache = is_fresh && status != CacheStatus::Miss;
    Ok(Answer { entry: kept.open().ok_or(ReadError::Failed)?, status, from_cache })
}

/// Computes the answer, now and when it is to be refreshed.
fn recipe(app: &App, scope: &Scope, plan: &Arc<Plan>) -> Recipe {
    let (store, clock, scope, plan) = (app.store.clone(), app.clock.clone(), scope.clone(), Arc::clone(plan));
    Arc::new(move || Box::pin(compute(store.clone(), clock.clone(), scope.clone(), Arc::clone(&plan))))
}

/// The question as it was put.
fn digest(scope: &Scope, question: Question<'_>, raw: Option<&str>) -> [u8; 32] {
    Sha256::digest(format!("{:?}", (scope.project(), question, raw))).into()
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

async fn compute(store: Store, clock: Clock, scope: Scope, plan: Arc<Plan>) -> Result<Rendered, ReadError> {
    let generated_s = clock().div_euclid(1_000);
    Ok(match &*plan {
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
