//! Every metric of this service: names, labels and buckets. Labels come from types, so that their number is bounded.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::serve::CacheStatus;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/v1/metrics/{name}`
    Metric,
    /// `/v1/dashboards/realtime`
    Realtime,
    /// `/v1/reports/daily`
    Daily,
    /// `/v1/sql`
    Sql,
    /// `/v1/export`
    Export,
}

/// A layer of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// In this process.
    Memory,
    /// Redis.
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

/// How a ClickHouse query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer.
    Answered,
    /// With an error.
    Failed,
    /// Not in time.
    TimedOut,
    /// Nobody waited for it any more.
    Cancelled,
    /// It was not sent: too many were waiting.
    Refused,
}

/// Why an answer was broken off on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// ClickHouse failed half-way.
    Failed,
    /// ClickHouse sent nothing for too long.
    Silent,
    /// It grew longer than it may.
    TooLarge,
    /// The client read nothing for too long.
    Stalled,
    /// The client left.
    Left,
}

impl Cut {
    /// For logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Silent => "silent",
            Self::TooLarge => "too_large",
            Self::Stalled => "stalled",
            Self::Left => "left",
        }
    }
}

/// Seconds, from a hit in memory to the limit of a query.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// The metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGauge,
    lookups: IntCounterVec,
    coalesced: IntCounter,
    cache_bytes: IntGauge,
    redis_errors: IntCounterVec,
    queries: IntCounterVec,
    query_seconds: Histogram,
    queries_running: IntGauge,
    streams_cut: IntCounterVec,
}

impl Metrics {
    /// Makes the metrics and registers them; fails when they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("tallyhouse_query_requests_total", "Requests by route, status and part of the cache"),
                &["route", "status", "cache"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new("tallyhouse_query_request_seconds", "Time to answer by route and part of the cache")
                    .buckets(SECONDS.to_vec()),
                &["route", "cache"],
            )?,
            in_flight: IntGauge::new("tallyhouse_query_requests_in_flight", "Requests being answered")?,
            lookups: IntCounterVec::new(
                Opts::new("tallyhouse_query_cache_lookups_total", "Cache look-ups by layer and result"),
                &["layer", "result"],
            )?,
            coalesced: IntCounter::new(
                "tallyhouse_query_coalesced_total",
                "Requests that waited for another request's computation",
            )?,
            cache_bytes: IntGauge::new("tallyhouse_query_cache_bytes", "Bytes of answers held in this process")?,
            redis_errors: IntCounterVec::new(
                Opts::new("tallyhouse_query_redis_errors_total", "Times Redis was no help, by reason"),
                &["reason"],
            )?,
            queries: IntCounterVec::new(
                Opts::new("tallyhouse_query_clickhouse_queries_total", "ClickHouse queries by outcome"),
                &["outcome"],
            )?,
            query_seconds: Histogram::with_opts(
                HistogramOpts::new("tallyhouse_query_clickhouse_seconds", "Time of a ClickHouse query")
                    .buckets(SECONDS.to_vec()),
            )?,
            queries_running: IntGauge::new("tallyhouse_query_clickhouse_in_flight", "ClickHouse queries running")?,
            streams_cut: IntCounterVec::new(
                Opts::new("tallyhouse_query_streams_cut_total", "Answers broken off on their way, by reason"),
                &["reason"],
            )?,
        };
        metrics.all().into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    fn all(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.lookups.clone()),
            Box::new(self.coalesced.clone()),
            Box::new(self.cache_bytes.clone()),
            Box::new(self.redis_errors.clone()),
            Box::new(self.queries.clone()),
            Box::new(self.query_seconds.clone()),
            Box::new(self.queries_running.clone()),
            Box::new(self.streams_cut.clone()),
        ]
    }

    /// A request was answered.
    pub fn answered(&self, route: Route, status: StatusCode, cache: Option<CacheStatus>, took: Duration) {
        let cache = cache.map_or("none", CacheStatus::label);
        self.requests.with_label_values(&[route.label(), status.as_str(), cache]).inc();
        self.request_seconds.with_label_values(&[route.label(), cache]).observe(took.as_secs_f64());
    }

    /// A request began; it ends when the guard is dropped, also when its client goes away.
    pub fn request_began(&self) -> Running {
        Running::new(&self.in_flight)
    }

    /// A layer of the cache was asked.
    pub fn looked_up(&self, layer: Layer, hit: bool) {
        let layer = match layer {
            Layer::Memory => "memory",
            Layer::Redis => "redis",
        };
        self.lookups.with_label_values(&[layer, if hit { "hit" } else { "miss" }]).inc();
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

    /// A ClickHouse query began; the guard ends it.
    pub fn query_began(&self) -> Running {
        Running::new(&self.queries_running)
    }

    /// An answer was broken off on its way.
    pub fn stream_cut(&self, cut: Cut) {
        self.streams_cut.with_label_values(&[cut.label()]).inc();
    }

    /// A ClickHouse query ended.
    pub fn query_ended(&self, outcome: Outcome, took: Duration) {
        let label = match outcome {
            Outcome::Answered => "answered",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Cancelled => "cancelled",
            Outcome::Refused => "refused",
        };
        self.queries.with_label_values(&[label]).inc();
        if outcome != Outcome::Refused {
            self.query_seconds.observe(took.as_secs_f64());
        }
    }
}

impl Route {
    const fn label(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Realtime => "realtime",
            Self::Daily => "daily",
            Self::Sql => "sql",
            Self::Export => "export",
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
