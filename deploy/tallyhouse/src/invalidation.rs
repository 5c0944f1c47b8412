//! Invalidates the days that a command has changed in the query API's caches.
//!
//! ```text
//! days -> Redis, when REDIS_URL is set          as the ingester does: every query API gets them within a second
//!      -> else, or when it fails, the query API at QUERY_ADMIN_ADDR
//!      -> else they are pending until the next call, and at the end the operator is shown what is left to do
//! ```
//!
//! A command never fails for it: its work is done. Invalidating a day twice does no harm.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use tallyhouse_service::changed_days;
use tallyhouse_service::day_versions::{Day, DayChange};
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_service::http_client::{Endpoint, HttpError};
use tallyhouse_service::redis::Pool;
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::ClientTls;
use tokio::net::TcpStream;

use crate::config;

/// A call of the query API.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The reply says nothing but its status.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// Where to send invalidations, and those that are pending.
pub struct Invalidator {
    redis: Option<Pool>,
    query: String,
    query_at: SocketAddr,
    /// What the query API asks for.
    token: Option<Secret>,
    /// When it speaks TLS.
    tls: Option<ClientTls>,
    /// Sent to nobody yet.
    pending: BTreeSet<DayChange>,
    /// Why the last call failed.
    trouble: String,
    /// There is no Redis, and nothing listens where the query API would: nobody remembers answers.
    is_nobody_there: bool,
}

/// Days whose invalidation nobody took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingDays {
    days: BTreeSet<DayChange>,
    trouble: String,
    /// Clears the cache of the query API by hand.
    clear: String,
}

/// Why nobody took days.
struct NotTaken {
    trouble: String,
    is_nobody_there: bool,
}

impl From<String> for NotTaken {
    fn from(trouble: String) -> Self {
        Self { trouble, is_nobody_there: false }
    }
}

impl Invalidator {
    /// As `REDIS_URL` and `QUERY_ADMIN_ADDR` say.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let config::InvalidationTargets { redis_url, query_admin, admin_token, tls } =
            config::InvalidationTargets::from_env(env)?;
        let pool = redis_url.map(|url| Pool::new(&url, changed_days::CONNECTIONS)).transpose();
        Ok(Self {
            redis: pool.map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?,
            query: format!("{}://{}", if tls.is_some() { "https" } else { "http" }, reachable(query_admin)),
            query_at: reachable(query_admin),
            tls,
            token: admin_token,
            pending: BTreeSet::new(),
            trouble: String::new(),
            is_nobody_there: false,
        })
    }

    /// Invalidates days of a project. What cannot be sent within a few seconds is sent again with the next.
    pub async fn invalidate(&mut self, project: &str, days: impl IntoIterator<Item = Day>) {
        self.invalidate_all(days.into_iter().map(|day| DayChange::day(project, day))).await;
    }

    /// As [`Invalidator::invalidate`], of several projects.
    pub async fn invalidate_all(&mut self, days: impl IntoIterator<Item = DayChange>) {
        self.pending.extend(days);
        self.flush().await;
    }

    /// Sends what is pending once more, and returns what nobody took.
    pub async fn finish(mut self) -> Option<PendingDays> {
        self.flush().await;
        let Self { pending: days, trouble, query, token, .. } = self;
        let header = if token.is_some() { "-H \"Authorization: Bearer $ADMIN_TOKEN\" " } else { "" };
        let clear = format!("curl -X DELETE {header}{query}/v1/cache");
        (!days.is_empty()).then_some(PendingDays { days, trouble, clear })
    }

    /// Whether answers about days that nobody took may be remembered.
    pub fn may_be_remembered(&self) -> bool {
        !self.pending.is_empty() && !self.is_nobody_there
    }

    async fn flush(&mut self) {
        while !self.pending.is_empty() {
            let some = changed_days::next(&self.pending, None);
            if let Err(NotTaken { trouble, is_nobody_there }) = self.send(&some).await {
                (self.trouble, self.is_nobody_there) = (trouble, is_nobody_there);
                return;
            }
            self.pending.retain(|day| !some.contains(day));
        }
    }

    async fn send(&self, days: &BTreeSet<DayChange>) -> Result<(), NotTaken> {
        let redis = match &self.redis {
            Some(pool) => match changed_days::invalidate(pool, days).await {
                Ok(()) => return Ok(()),
                Err(error) => format!("Redis (REDIS_URL): {error}"),
            },
            None => "there is no Redis (REDIS_URL is not set)".to_owned(),
        };
        self.post(days).await.map_err(|NotTaken { trouble, is_nobody_there }| NotTaken {
            trouble: format!("{redis}; {} (QUERY_ADMIN_ADDR): {trouble}", self.query),
            is_nobody_there: is_nobody_there && self.redis.is_none(),
        })
    }

    /// Whether nothing listens where the query API would; one may listen and not understand.
    async fn is_refused(&self) -> bool {
        let connecting = tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(self.query_at)).await;
        matches!(connecting, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
    }

    async fn post(&self, days: &BTreeSet<DayChange>) -> Result<(), NotTaken> {
        let body = serde_json::to_vec(days).map_err(|error| NotTaken::from(error.to_string()))?;
        let sent = async {
            let url = format!("{}/v1/touched", self.query);
            let endpoint = match &self.tls {
                Some(tls) => Endpoint::over(tls, &url, ANSWER_WITHIN)?,
                None => Endpoint::new(&url, ANSWER_WITHIN)?,
            };
            let endpoint = endpoint.header(CONTENT_TYPE, "application/json")?.max_reply_bytes(MAX_REPLY_BYTES);
            let endpoint = match &self.token {
                Some(token) => endpoint.bearer(token.expose())?,
                None => endpoint,
            };
            endpoint.post(body.into()).await
        };
        let status = match sent.await {
            Ok(reply) => reply.status,
            Err(HttpError::TimedOut(_)) => return Err("no answer in time".to_owned().into()),
            Err(HttpError::Broken(_)) => {
                return Err(NotTaken {
                    trouble: "cannot be reached".to_owned(),
                    is_nobody_there: self.is_refused().await,
                });
            }
            Err(error @ (HttpError::Malformed(_) | HttpError::Tls(_))) => return Err(error.to_string().into()),
        };
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED => Err(format!("answers {status}: ADMIN_TOKEN is not the one that it has").into()),
            status => Err(format!("answers {status}").into()),
        }
    }
}

/// Where a port is reached that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    if address.ip().is_unspecified() { SocketAddr::new(loopback, address.port()) } else { address }
}

impl fmt::Display for PendingDays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, trouble, clear } = self;
        let projects: BTreeSet<&str> = days.iter().map(|changed| changed.project.as_str()).collect();
        write!(
            f,
            "no query API was told that {} days of {} projects were changed: {trouble}. One that runs may give answers from \
             before for up to 140 minutes: set REDIS_URL or QUERY_ADMIN_ADDR as it has them and run this again with --all, or \
             clear each with `{clear}`. If none runs, nothing is remembered and nothing is to be done",
            days.len(),
            projects.len()
        )
    }
}
