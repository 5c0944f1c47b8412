//! Sends spans to a collector of OpenTelemetry: OTLP over HTTP, in Protocol Buffers.
//!
//! ```text
//! ended spans -> queue (2,048) -> 512 of them, or what came within a second -> POST /v1/traces, at most 5 s -> taken | dropped, counted
//! stop -> what waits for company or is queued, at most 2 s -> the rest is counted
//! ```
//!
//! One call at a time, and none is repeated: a collector that is away costs the spans of that time and nothing else. The messages are those of
//! `opentelemetry-proto`; the client is ours, because the exporter of `opentelemetry-otlp` reads variables by itself, and between two tries sleeps on
//! a thread of the runtime.
//!
//! Failure cases: no answer, an answer other than 2xx, one that says that some spans were not taken (`partial_success`): counted, and logged.

mod message;
pub mod telemetry;

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::message::TracedService;
use self::telemetry::TraceMetrics;
use crate::http_client::{Endpoint, HttpError};
use crate::metrics::Registry;
use crate::secret::Secret;
use crate::trace::{DropReason, EndedSpan, Sampling, Tracer};

/// Spans that may wait.
const QUEUED: usize = 2_048;

/// Spans of one call.
const AT_ONCE: usize = 512;

/// How long spans wait for company.
const LINGER: Duration = Duration::from_secs(1);

/// How long a collector may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long all of a stop may take.
pub const STOP_WITHIN: Duration = Duration::from_secs(2);

const REPLY_BYTES: usize = 1 << 20;

/// Where spans go, and which.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The URL of the collector, without `/v1/traces`.
    pub endpoint: Uri,
    /// Sent with each call: names, and values that are secrets.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Of requests that neither fail nor are slow, from 0 to 1.
    pub share: f64,
}

/// Why there is no collector to send to.
#[derive(Debug, thiserror::Error)]
pub enum TraceSetupError {
    #[error(transparent)]
    Client(#[from] HttpError),
    #[error("a header's value is none")]
    Header,
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Takes spans from the queue to the collector, while [`TraceExport::run`] runs.
pub struct TraceExport {
    queue: Receiver<EndedSpan>,
    endpoint: Endpoint,
    path: String,
    headers: HeaderMap,
    service: TracedService,
    metrics: TraceMetrics,
}

impl TraceExport {
    /// A tracer, and who sends its spans.
    pub fn new(
        settings: &TraceSettings,
        service: TracedService,
        registry: &Registry,
    ) -> Result<(Tracer, Self), TraceSetupError> {
        let metrics = TraceMetrics::register(registry)?;
        let (sender, queue) = channel(QUEUED);
        let tracer = Tracer::new(Sampling::new(settings.share), sender, metrics.dropped.clone());
        let endpoint = Endpoint::new(&settings.endpoint.to_string(), ANSWER_WITHIN)?.max_reply_bytes(REPLY_BYTES);
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))]);
        for (name, value) in &settings.headers {
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| TraceSetupError::Header)?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        let path = format!("{}/v1/traces", settings.endpoint.path().trim_end_matches('/'));
        Ok((tracer, Self { queue, endpoint, path, headers, service, metrics }))
    }

    /// Sends until `stop`, then what is queued.
    pub async fn run(mut self, stop: CancellationToken) {
        // Outlives what is cancelled, with the spans that waited for company.
        let mut next = Vec::new();
        while stop.run_until_cancelled(fill(&mut next, &mut self.queue)).await == Some(true) {
            let spans = std::mem::take(&mut next);
            let count = spans.len();
            // A collector that hangs does not hold up the end.
            if stop.run_until_cancelled(self.send(spans)).await.is_none() {
                self.metrics.dropped.add(DropReason::Shutdown, count as u64);
            }
        }
        self.queue.close();
        let until = Instant::now() + STOP_WITHIN;
        while !next.is_empty() || self.queue.recv_many(&mut next, AT_ONCE).await > 0 {
            let spans = std::mem::take(&mut next);
            let count = spans.len();
            if tokio::time::timeout_at(until, self.send(spans)).await.is_err() {
                self.metrics.dropped.add(DropReason::Shutdown, count as u64);
            }
        }
    }

    async fn send(&self, spans: Vec<EndedSpan>) {
        let count = spans.len() as u64;
        let body = message::request(&self.service, spans).encode_to_vec();
        let reply = self.endpoint.send_with(Method::POST, &self.path, self.headers.clone(), body.into()).await;
        let not_taken = match reply {
            Ok(reply) if reply.status.is_success() => rejected(&reply.body).min(count),
            Ok(reply) => {
                tracing::warn!(status = reply.status.as_u16(), "the collector of traces takes no spans");
                count
            }
            Err(error) => {
                tracing::warn!(%error, "the collector of traces does not answer");
                count
            }
        };
        self.metrics.exported.inc_by(count - not_taken);
        self.metrics.dropped.add(DropReason::NotTaken, not_taken);
    }
}

/// Takes spans for one call. `false`: there are none, and nobody sends any more.
async fn fill(spans: &mut Vec<EndedSpan>, queue: &mut Receiver<EndedSpan>) -> bool {
    let Some(first) = queue.recv().await else { return false };
    spans.push(first);
    let until = Instant::now() + LINGER;
    while spans.len() < AT_ONCE {
        let room = AT_ONCE - spans.len();
        match tokio::time::timeout_at(until, queue.recv_many(spans, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

/// Spans that an answer says were not taken.
fn rejected(body: &[u8]) -> u64 {
    let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
    let rejected = partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0));
    if rejected > 0 {
        tracing::warn!(rejected, "the collector of traces did not take all spans");
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_loses_no_span_that_waits_for_company_without_counting_it() {
        // Nothing answers there.
        let settings =
            TraceSettings { endpoint: Uri::from_static("http://127.0.0.1:1"), headers: Vec::new(), share: 1.0 };
        let service = TracedService { name: "test", version: "0" };
        let (tracer, export) = TraceExport::new(&settings, service, &Registry::new()).unwrap();
        let (metrics, stop) = (export.metrics.clone(), CancellationToken::new());
        (0..3).for_each(|_| drop(tracer.request(None)));
        let running = tokio::spawn(export.run(stop.clone()));
        // It has taken them, and waits for more.
        tokio::task::yield_now().await;
        stop.cancel();
        running.await.unwrap();
        let dropped = metrics.dropped.not_taken.get() + metrics.dropped.shutdown.get();
        assert_eq!(metrics.exported.get() + dropped, 3);
    }
}
