//! Every metric of this service: names, labels and buckets. Label values are enums of this module, or the `label()` of the
//! measured type, so that their number is bounded.

mod cache;
mod canary;
mod drift;
mod queries;
mod streams;

use std::time::Duration;

use axum::http::StatusCode;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tallyhouse_service::metrics::Registry;

pub use cache::{CacheMetrics, Dropped, LockEvent, Lookup, RedisMemory, Refresh};
pub use canary::{CanaryMetrics, CanaryOutcome};
pub use drift::{DriftMetrics, DriftOutcome};
pub use queries::{AdmissionRefusal, Kill, QueryOutcome, StreamCut};
pub use streams::Sent;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/v1/metrics/{name}`
    Metric,
    /// `/v1/dashboards/realtime`
    Realtime,
    /// `/v1/reports/daily`
    Daily,
    /// `/v1/event-types`
    EventTypes,
    /// `/v1/query`
    Structured,
    /// `/v1/metrics`
    Metrics,
    /// `/v1/metrics/{name}/stream`: until it is open
    Stream,
    /// `/v1/metrics/{name}/anomalies`
    Anomalies,
    /// `/v1/sql`
    Sql,
    /// `/v1/export`
    Export,
    /// `/v1/admin/schemas`, `/v1/schemas/{type}` and what was observed of it
    Schemas,
}

/// A layer of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// In this process.
    Memory,
    /// In flight in this process, for another query.
    InFlight,
    Redis,
}

/// Why Redis was no help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisTrouble {
    /// Refused, broken or answering nonsense.
    Failed,
    /// Too slow.
    TimedOut,
    /// Left alone after failures.
    Avoided,
    /// It held something that is not an answer.
    Corrupt,
}

/// Seconds, from a hit in memory to the limit of a query.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// The metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Of the cache.
    pub cache: CacheMetrics,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGauge,
    lookups: IntCounterVec,
    coalesced: IntCounter,
    cache_bytes: IntGauge,
    redis_errors: IntCounterVec,
    queries: IntCounterVec,
    query_seconds: Histogram,
    look_ups: IntCounter,
    queries_running: IntGauge,
    waiting: IntGaugeVec,
    wait_seconds: HistogramVec,
    refused: IntCounterVec,
    breaker: IntGauge,
    kills: IntCounterVec,
    stopping: IntGauge,
    stream_listeners: IntGauge,
    stream_questions: IntGauge,
    stream_events: IntCounterVec,
    stream_skipped: IntCounter,
    stream_refused: IntCounterVec,
    streams_cut: IntCounterVec,
}

impl Metrics {
    /// Makes the metrics and registers them; fails when they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            cache: CacheMetrics::register(registry)?,
            requests: registry.counters(
                "tallyhouse_query_requests_total",
                "Requests by route, status and part of the cache",
                &["route", "status", "cache"],
            )?,
            request_seconds: registry.histograms(
                "tallyhouse_query_request_seconds",
                "Time to answer by route and part of the cache",
                SECONDS.to_vec(),
                &["route", "cache"],
            )?,
            in_flight: registry.gauge("tallyhouse_query_requests_in_flight", "Requests being answered")?,
            lookups: registry.counters(
                "tallyhouse_query_cache_lookups_total",
                "Cache look-ups by layer and result",
                &["layer", "result"],
            )?,
            coalesced: registry.counter(
                "tallyhouse_query_coalesced_total",
                "Requests that waited for another request's computation",
            )?,
            cache_bytes: registry.gauge("tallyhouse_query_cache_bytes", "Bytes of answers held in this process")?,
            redis_errors: registry.counters(
                "tallyhouse_query_redis_errors_total",
                "Times Redis was no help, by reason",
                &["reason"],
            )?,
            queries: registry.counters(
                "tallyhouse_query_clickhouse_queries_total",
                "ClickHouse queries by outcome",
                &["outcome"],
            )?,
            query_seconds: registry.histogram(
                "tallyhouse_query_clickhouse_seconds",
                "Time of a ClickHouse query",
                SECONDS.to_vec(),
            )?,
            look_ups: registry.counter(
                "tallyhouse_query_clickhouse_look_ups_total",
                "Answered ClickHouse queries about the newest event, beside those that answers need",
            )?,
            queries_running: registry.gauge("tallyhouse_query_clickhouse_in_flight", "ClickHouse queries running")?,
            waiting: registry.gauges(
                "tallyhouse_query_waiting",
                "Questions that wait for a slot, by class",
                &["class"],
            )?,
            wait_seconds: registry.histograms(
                "tallyhouse_query_wait_seconds",
                "Time until a question had a slot, by class",
                SECONDS.to_vec(),
                &["class"],
            )?,
            refused: registry.counters(
                "tallyhouse_query_refused_total",
                "Questions that got no slot, by class and reason",
                &["class", "reason"],
            )?,
            breaker: registry.gauge(
                "tallyhouse_query_clickhouse_breaker",
                "The breaker to ClickHouse: 0 closed, 1 half-open, 2 open",
            )?,
            kills: registry.counters(
                "tallyhouse_query_kills_total",
                "Queries nobody waited for, by what became of them",
                &["result"],
            )?,
            stopping: registry.gauge(
                "tallyhouse_query_stopping",
                "Queries nobody waits for that ClickHouse has not stopped yet; each holds its slot",
            )?,
            stream_listeners: registry.gauge("tallyhouse_query_stream_listeners", "Open streams")?,
            stream_questions: registry.gauge(
                "tallyhouse_query_stream_questions",
                "Different questions that are streamed: each asks ClickHouse once per interval",
            )?,
            stream_events: registry.counters(
                "tallyhouse_query_stream_events_total",
                "What listeners were sent, by kind",
                &["kind"],
            )?,
            stream_skipped: registry
                .counter("tallyhouse_query_stream_skipped_total", "Values that listeners were too slow for")?,
            stream_refused: registry.counters(
                "tallyhouse_query_stream_refused_total",
                "Streams that were not opened, by reason",
                &["reason"],
            )?,
            streams_cut: registry.counters(
                "tallyhouse_query_streams_cut_total",
                "Answers broken off on their way, by reason",
                &["reason"],
            )?,
        })
    }

    /// A request was answered; `cache` is the `X-Cache` of the answer.
    pub fn answered(&self, route: Route, status: StatusCode, cache: Option<&'static str>, took: Duration) {
        let cache = cache.unwrap_or("none");
        self.requests.with_label_values(&[route.label(), status.as_str(), cache]).inc();
        self.request_seconds.with_label_values(&[route.label(), cache]).observe(took.as_secs_f64());
    }

    /// A request began; it ends when the guard is dropped, also when its client goes away.
    pub fn request_began(&self) -> Running {
        Running::new(&self.in_flight)
    }

    /// A layer of the cache was asked.
    pub fn looked_up(&self, layer: Layer, lookup: Lookup) {
        let result = match lookup {
            Lookup::Hit => "hit",
            Lookup::Ageing => "ageing",
            Lookup::Outdated => "outdated",
            Lookup::Miss => "miss",
        };
        self.lookups.with_label_values(&[layer.label(), result]).inc();
    }

    /// A request waited for another's computation.
    pub fn coalesced(&self) {
        self.coalesced.inc();
    }

    /// How much the process remembers.
    pub fn cache_holds(&self, bytes: u64) {
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Redis was no help.
    pub fn redis_trouble(&self, trouble: RedisTrouble) {
        let reason = match trouble {
            RedisTrouble::Failed => "failed",
            RedisTrouble::TimedOut => "timed_out",
            RedisTrouble::Avoided => "avoided",
            RedisTrouble::Corrupt => "corrupt",
        };
        self.redis_errors.with_label_values(&[reason]).inc();
    }
}

impl Route {
    const fn label(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Realtime => "realtime",
            Self::Daily => "daily",
            Self::EventTypes => "event_types",
            Self::Structured => "query",
            Self::Metrics => "metrics",
            Self::Stream => "stream",
            Self::Anomalies => "anomalies",
            Self::Sql => "sql",
            Self::Export => "export",
            Self::Schemas => "schemas",
        }
    }
}

/// Counts itself while it lives.
#[derive(Debug)]
pub struct Running(IntGauge);

impl Running {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
