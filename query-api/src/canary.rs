//! The canary: an event a minute, sent to an ingester as a client sends it, and looked for in the rollups as a question reads them.
//!
//! ```text
//! newest canary in the rollups? -> from a moment ago: another instance's -> nothing more
//!                               -> older -> POST /v1/events -> acknowledged -> look again and again -> seen: freshness
//!                                                                                               120 s -> not seen
//! ```
//!
//! It is a project of its own ([`CANARY_PROJECT`]) with a key of its own (`CANARY_KEY`), so it counts in nobody's numbers. Its value is when it was
//! sent, so the newest one is the largest: nobody has to know ids.
//!
//! Instances take turns without knowing each other: each begins at an instant by chance, pauses a little longer or shorter, and who sees a young
//! canary sends none. While none gets through, each tries: once a minute, or every two where it is acknowledged and not counted.
//!
//! The newest one is told from the first look on: one that is missing is seen also of a process that is restarted again and again.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tallyhouse_control::kind::CANARY_PROJECT;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::http_client::{Endpoint, HttpError};
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::ClientTls;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::sql::{NewestCanary, newest_canary};
use crate::store::{AdmissionRequest, Class, ReadError, Store};
use crate::telemetry::{CanaryMetrics, CanaryOutcome};

const EVENT_TYPE: &str = "canary";

/// How long an ingester may take.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take until it is counted.
const SEEN_WITHIN: Duration = Duration::from_secs(120);

/// Between two looks: the first, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How far back it is looked, in seconds.
const BACK: i64 = 900;

/// Where it goes, and how often.
#[derive(Debug, Clone)]
pub struct CanarySettings {
    /// `CANARY_INGEST_URL`: of an ingester, without a path.
    pub url: String,
    /// `CANARY_KEY`
    pub key: Secret,
    /// Whom it believes; `None`: whom the system believes.
    pub tls: Option<ClientTls>,
    /// `CANARY_EVERY_MS`
    pub every: Duration,
}

/// Sends it and looks for it.
pub struct Canary {
    ingester: Endpoint,
    every: Duration,
    store: Store,
    metrics: CanaryMetrics,
}

impl Canary {
    pub fn new(settings: &CanarySettings, store: Store, metrics: CanaryMetrics) -> Result<Self, HttpError> {
        let url = format!("{}/v1/events", settings.url.trim_end_matches('/'));
        let ingester = match &settings.tls {
            Some(tls) => Endpoint::over(tls, &url, SENT_WITHIN)?,
            None => Endpoint::new(&url, SENT_WITHIN)?,
        };
        let ingester = ingester.max_reply_bytes(1 << 16).api_key(settings.key.expose())?;
        Ok(Self { ingester, every: settings.every, store, metrics })
    }

    /// Until `stopped`.
    pub async fn run(self, stopped: CancellationToken) {
        if let Some(Err(error)) = stopped.run_until_cancelled(self.newest()).await {
            tracing::warn!(%error, "the canary is not looked for");
        }
        let mut due = Instant::now() + self.every.mul_f64(rand::random::<f64>());
        while stopped.run_until_cancelled(tokio::time::sleep_until(due)).await.is_some() {
            // Never in step with another instance for long.
            due = Instant::now() + self.every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            match stopped.run_until_cancelled(self.turn()).await {
                Some(outcome) => self.metrics.ended(outcome),
                None => return,
            }
        }
    }

    async fn turn(&self) -> CanaryOutcome {
        let now = now_ms();
        let young = now - i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX) / 2;
        match self.newest().await {
            Ok(Some(sent_ms)) if sent_ms > young => return CanaryOutcome::LeftToAnother,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the canary is not looked for"),
        }
        let (sent_ms, began) = (now_ms(), Instant::now());
        if let Err(problem) = self.send(sent_ms).await {
            tracing::warn!(problem, "the canary was not taken");
            return CanaryOutcome::NotSent;
        }
        let mut pause = LOOK_AGAIN.0;
        let mut is_answered = false;
        while began.elapsed() < SEEN_WITHIN {
            match self.newest().await {
                Ok(Some(newest)) if newest >= sent_ms => {
                    self.metrics.fresh_after(began.elapsed());
                    return CanaryOutcome::Seen;
                }
                Ok(_) => is_answered = true,
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
        tracing::warn!(within = ?SEEN_WITHIN, "the canary was taken, and is not counted");
        if is_answered { CanaryOutcome::NotSeen } else { CanaryOutcome::NotAsked }
    }

    /// `Err`: why it was not taken.
    async fn send(&self, sent_ms: i64) -> Result<(), String> {
        let id = format!("canary-{}", Ulid::generate());
        let event = json!({"eventId": id, "eventType": EVENT_TYPE, "anonymousId": "canary", "value": sent_ms});
        let reply = self.ingester.post(Bytes::from(event.to_string())).await.map_err(|error| error.to_string())?;
        if reply.status.is_success() { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.excerpt())) }
    }

    /// When the newest one that is counted was sent, in milliseconds since 1970.
    async fn newest(&self) -> Result<Option<i64>, ReadError> {
        let since = now_ms().div_euclid(1_000) - BACK;
        let statement = newest_canary(CANARY_PROJECT, EVENT_TYPE, since);
        let ask = AdmissionRequest { class: Class::Realtime, project: CANARY_PROJECT.to_owned(), deadline: None };
        let rows = self.store.rows::<NewestCanary>(&statement, &ask).await?;
        let newest =
            rows.first().map(|newest| newest.sent_ms).filter(|sent_ms| *sent_ms >= 1.0).map(|sent_ms| sent_ms as i64);
        // Whoever sent it, and however late: a slow one is told by its age, not as missing.
        match newest {
            Some(sent_ms) => self.metrics.newest_sent_at(sent_ms),
            None => self.metrics.none_sent_since(since.saturating_mul(1_000)),
        }
        Ok(newest)
    }
}
