//! The whole flow, in order: scope of the caller -> parameters -> query -> plan -> cache -> ClickHouse -> render.
//!
//! A request has one deadline: the time of its class from when it came. It travels with the request through every wait: for others who
//! compute the same, in this process or the fleet, for a slot, for ClickHouse, and for what is only said beside the answer.

use std::sync::Arc;

use axum::http::HeaderMap;
use tallyhouse_control::LiveCatalogue;
use tallyhouse_service::trace::{self, Kind};
use tokio::time::Instant;

use crate::asked::Asked;
use crate::authorize::Scope;
use crate::cache::cache_request::CacheOutcome;
use crate::cache::fresh::{self, Limiter};
use crate::cache::{Answers, CacheRequest, CacheStatus, Entry};
use crate::cached_query::CachedQuery;
use crate::clock::Clock;
use crate::coverage::Coverage;
use crate::event_types::EventTypes;
use crate::execute::{Recall, Sources};
use crate::metric_definitions::Metric;
use crate::plan::Unplannable;
use crate::registry::MetricRegistry;
use crate::request::anomalies::{ANOMALY_PARAMS, AnomalyQuery};
use crate::request::body::{self, JsonPart};
use crate::request::body_reading::UnreadBody;
use crate::request::event_types::{EVENT_TYPES_PARAMS, EventTypesQuery};
use crate::request::query::{DAILY_PARAMS, METRIC_PARAMS};
use crate::request::{BadRequest, DailyQuery, MetricQuery, Params, Query, SeriesQuery, StructuredQuery};
use crate::store::ReadError;
use crate::warning::Warning;

/// Everything that answering needs.
pub struct App {
    /// What is rolled up.
    pub catalogue: LiveCatalogue,
    /// Answers that are known.
    pub answers: Answers,
    /// Where others are computed from.
    pub sources: Arc<Sources>,
    /// Which types of event there are.
    pub event_types: EventTypes,
    /// What is rolled up of them.
    pub coverage: Coverage,
    /// Who may go past the cache.
    pub fresh: Limiter,
    /// What can be asked for by name.
    pub registry: MetricRegistry,
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
    /// What is unusual in a series of this metric.
    Anomalies(&'a str),
    /// Which types of event there are.
    EventTypes,
    /// A document: `POST /v1/query`.
    Document(&'a [u8]),
}

impl<'a> Question<'a> {
    /// As it can be written down, with its query string. What is asked all the time is not worth it.
    fn asked(self, raw: Option<&str>) -> Option<Asked> {
        let params = raw.unwrap_or_default().to_owned();
        Some(match self {
            Self::Metric(name) => Asked::Metric { name: name.to_owned(), params },
            Self::Realtime => return None,
            Self::Daily => Asked::Daily { params },
            Self::Anomalies(name) => Asked::Anomalies { name: name.to_owned(), params },
            Self::EventTypes => Asked::EventTypes { params },
            Self::Document(body) => Asked::Document { body: std::str::from_utf8(body).ok()?.to_owned() },
        })
    }

    /// What was written down, and its query string.
    pub fn again(asked: &'a Asked) -> (Self, Option<&'a str>) {
        let raw = |params: &'a String| Some(params.as_str()).filter(|params| !params.is_empty());
        match asked {
            Asked::Metric { name, params } => (Self::Metric(name), raw(params)),
            Asked::Daily { params } => (Self::Daily, raw(params)),
            Asked::Anomalies { name, params } => (Self::Anomalies(name), raw(params)),
            Asked::EventTypes { params } => (Self::EventTypes, raw(params)),
            Asked::Document { body } => (Self::Document(body.as_bytes()), None),
        }
    }
}

/// Who asks, and since when.
#[derive(Debug, Clone)]
pub struct Asking<'a> {
    pub scope: Scope,
    pub headers: &'a HeaderMap,
    /// The query string.
    pub raw: Option<&'a str>,
    /// When the request came: its deadline counts from here.
    pub came: Instant,
}

/// An answer and where it came from.
#[derive(Debug)]
pub struct Answer {
    pub entry: Entry,
    /// Where it came from.
    pub status: CacheStatus,
    /// What the caller should know of the question.
    pub warnings: Vec<Warning>,
    /// Whether a fresh answer was asked for and this one is remembered: the caller has just had one.
    pub from_cache: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The question did not arrive.
    #[error(transparent)]
    Unread(#[from] UnreadBody),
    /// The question is not understood.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// Nothing that is kept answers it.
    #[error(transparent)]
    Unplannable(#[from] Unplannable),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The question cannot be answered, and is probably not what was meant.
    #[error("{error}")]
    Warned {
        /// Why there is no answer.
        error: ReadError,
        /// What may explain it; at least one.
        warnings: Vec<Warning>,
    },
}

pub async fn serve(
    app: &App,
    question: Question<'_>,
    Asking { scope, raw, came, .. }: Asking<'_>,
) -> Result<Answer, Refusal> {
    let now_ms = (app.clock)();
    let (is_fresh, raw) = fresh::take(raw)?;
    let mut planning = trace::span("plan", Kind::Internal);
    let query = read(app, &scope, question, raw.as_deref(), now_ms)?;
    let (asked, numbers) = (query.event_types(), query.numbers_as_texts());
    let is_allowed = is_fresh && app.fresh.allows(&scope.unique_caller(), now_ms).await;
    let cached_query = CachedQuery {
        sources: Arc::clone(&app.sources),
        catalogue: app.catalogue.clone(),
        clock: Arc::clone(&app.clock),
        scope,
        query,
        asked: question.asked(raw.as_deref()).map(Arc::new),
        // Asked for fresh, it reads everything anew.
        recall: if is_allowed { Recall::Nothing } else { Recall::All },
    };
    let request = Arc::new(cached_query).cache_request(now_ms)?;
    planning.set("tallyhouse.class", request.plan.class().label());
    drop(planning);
    let request = CacheRequest { deadline: came + request.within, ..request };
    let given = async {
        let mut span = trace::span("cache", Kind::Internal);
        let answers = &app.answers;
        let given = async { if is_allowed { answers.fresh(&request).await } else { answers.get(&request).await } };
        let given = span.during(given).await;
        match &given {
            Ok((_, status)) => span.set("tallyhouse.cache", status.label()),
            Err(error) => span.fail(error.code()),
        }
        given
    };
    let project = request.scope.project();
    let catalogue = app.catalogue.of(project);
    let (given, mut warnings, incomplete) = tokio::join!(
        given,
        app.event_types.warnings(project, &asked, request.deadline),
        app.coverage.warnings(project, &request.plan, &catalogue, request.deadline)
    );
    warnings.extend(Warning::of_numbers(numbers));
    warnings.extend(incomplete);
    let (cached, status): CacheOutcome = match given {
        Err(error) if error.is_of_the_question() && !warnings.is_empty() => {
            return Err(Refusal::Warned { error, warnings });
        }
        given => given?,
    };
    let is_computed = status == CacheStatus::Miss || (is_allowed && status == CacheStatus::Coalesced);
    let from_cache = is_fresh && !is_computed;
    Ok(Answer { entry: cached.open().await.ok_or(ReadError::Failed)?, status, warnings, from_cache })
}

fn read(app: &App, scope: &Scope, question: Question<'_>, raw: Option<&str>, now_ms: i64) -> Result<Query, BadRequest> {
    match question {
        Question::Metric(name) => {
            series(app, scope, name, &Params::parse(raw, METRIC_PARAMS)?, now_ms).map(Query::from)
        }
        Question::Realtime => Params::parse(raw, &[]).map(|_| Query::Realtime),
        Question::Daily => DailyQuery::parse(&Params::parse(raw, DAILY_PARAMS)?, now_ms).map(Query::Daily),
        Question::Anomalies(name) => {
            let params = Params::parse(raw, ANOMALY_PARAMS)?;
            AnomalyQuery::of(series(app, scope, name, &params, now_ms)?, &params, now_ms).map(Query::Anomalies)
        }
        Question::EventTypes => {
            EventTypesQuery::parse(&Params::parse(raw, EVENT_TYPES_PARAMS)?, now_ms).map(Query::EventTypes)
        }
        Question::Document(body) => {
            Params::parse(raw, &[])?;
            document(app, scope, body, now_ms)
        }
    }
}

/// A series of the metric of that name, built in or registered.
pub(crate) fn series(
    app: &App,
    scope: &Scope,
    name: &str,
    params: &Params,
    now_ms: i64,
) -> Result<SeriesQuery, BadRequest> {
    match app.registry.find(scope.project(), name).filter(|_| Metric::named(name).is_none()) {
        Some(registered) => {
            StructuredQuery::series(registered, params, now_ms).map(|query| SeriesQuery::Registered(Box::new(query)))
        }
        None => {
            let names = || app.registry.names(scope.project());
            MetricQuery::parse(name, params, &names, now_ms).map(SeriesQuery::BuiltIn)
        }
    }
}

fn document(app: &App, scope: &Scope, body: &[u8], now_ms: i64) -> Result<Query, BadRequest> {
    let document = body::parse(body)?;
    let root = JsonPart::root(&document);
    if root.has("kind") {
        return Query::of_kind(&root, now_ms);
    }
    let metric = |name: &str| app.registry.find(scope.project(), name);
    let names = || app.registry.names(scope.project());
    StructuredQuery::parse(&root, &metric, &names, now_ms).map(Query::Structured)
}
