//! Tells whoever remembers answers which days a command has changed.
//!
//! ```text
//! days -> Redis, when REDIS_URL is set          as the ingester does: every query API hears within a second
//!      -> else, or when it fails, the query API at QUERY_ADMIN_ADDR
//!      -> else they wait for the next call, and for the last word: what nobody heard, and what to do
//! ```
//!
//! A command never fails for it: what it did is done. Days are told as often as it takes; twice does no harm.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::Pool;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tallyhouse_service::changed_days;
use tallyhouse_service::day_versions::{Day, DayChange};
use tallyhouse_service::env::{ConfigError, Env};

use crate::config;

/// A call of the query API.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Where to tell.
pub struct Teller {
    redis: Option<Pool>,
    query: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Told to nobody yet.
    waiting: BTreeSet<DayChange>,
    /// What the last call came to, when it failed.
    trouble: String,
}

/// Days that nobody was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingDays {
    days: BTreeSet<DayChange>,
    trouble: String,
    query: String,
}

impl Teller {
    /// As `REDIS_URL` and `QUERY_ADMIN_ADDR` say.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let config::Telling { redis_url, query_admin } = config::Telling::from_env(env)?;
        let pool = redis_url.map(|url| changed_days::pool(url.expose(), changed_days::CONNECTIONS)).transpose();
        Ok(Self {
            redis: pool.map_err(|problem| ConfigError::new("REDIS_URL", problem))?,
            query: format!("http://{query_admin}"),
            client: Client::builder(TokioExecutor::new()).build_http(),
            waiting: BTreeSet::new(),
            trouble: String::new(),
        })
    }

    /// These days of a project were changed. What nobody hears within a few seconds is told again with the next.
    pub async fn tell(&mut self, project: &str, days: impl IntoIterator<Item = Day>) {
        self.tell_all(days.into_iter().map(|day| DayChange::day(project, day))).await;
    }

    /// As [`Teller::tell`], of several projects.
    pub async fn tell_all(&mut self, days: impl IntoIterator<Item = DayChange>) {
        self.waiting.extend(days);
        self.flush().await;
    }

    /// The last word: tells what still waits, and gives what nobody heard.
    pub async fn finish(mut self) -> Option<PendingDays> {
        self.flush().await;
        let Self { waiting: days, trouble, query, .. } = self;
        (!days.is_empty()).then_some(PendingDays { days, trouble, query })
    }

    async fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let some = changed_days::next(&self.waiting, None);
            if let Err(trouble) = self.send(&some).await {
                self.trouble = trouble;
                return;
            }
            self.waiting.retain(|day| !some.contains(day));
        }
    }

    async fn send(&self, days: &BTreeSet<DayChange>) -> Result<(), String> {
        let redis = match &self.redis {
            Some(pool) => match changed_days::invalidate(pool, days).await {
                Ok(()) => return Ok(()),
                Err(error) => format!("Redis (REDIS_URL): {error}"),
            },
            None => "there is no Redis (REDIS_URL is not set)".to_owned(),
        };
        self.post(days).await.map_err(|error| format!("{redis}; {} (QUERY_ADMIN_ADDR): {error}", self.query))
    }

    async fn post(&self, days: &BTreeSet<DayChange>) -> Result<(), String> {
        let body = serde_json::to_vec(days).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/touched", self.query))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let sent = tokio::time::timeout(ANSWER_WITHIN, self.client.request(request)).await;
        let status =
            sent.map_err(|_| "no answer in time".to_owned())?.map_err(|_| "cannot be reached".to_owned())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("answers {status}")) }
    }
}

impl fmt::Display for PendingDays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, trouble, query } = self;
        let projects: BTreeSet<&str> = days.iter().map(|touched| touched.project.as_str()).collect();
        write!(
            f,
            "no query API was told that {} days of {} projects were changed: {trouble}. One that runs may give answers from \
             before for up to 140 minutes: set REDIS_URL or QUERY_ADMIN_ADDR as it has them and run this again with --all, or \
             clear each with `curl -X DELETE {query}/v1/cache`. If none runs, nothing is remembered and nothing is to be done",
            days.len(),
            projects.len()
        )
    }
}
