//! Every metric of this service: names, labels and buckets. Labels come from types, so that their number is bounded.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use tallyhouse_service::breaker::BreakerState;

use crate::admission::Class;
use crate::cache::entry::Worth;
use crate::cache::question::StaleReason;
use crate::live::Full;
use crate::live::frame::Bye;
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

/// Why a question got no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// ClickHouse is left alone.
    Breaker,
    /// Under stress, for more important classes.
    Shed,
    /// The queue of its class was full.
    QueueFull,
    /// Its project's share of the queue was.
    TenantShare,
    /// Its turn did not come in time.
    WaitedTooLong,
}

/// What became of a query that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// It was stopped.
    Stopped,
    /// ClickHouse did not have it (any more).
    NotFound,
    /// ClickHouse did not stop it.
    Failed,
    /// Too many waited to be stopped; it was left to ClickHouse.
    Lost,
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
    queries_running: IntGauge,
    waiting: IntGaugeVec,
    wait_seconds: HistogramVec,
    refused: IntCounterVec,
    breaker: IntGauge,
    kills: IntCounterVec,
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
        let metrics = Self {
            cache: CacheMetrics::register(registry)?,
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
            waiting: IntGaugeVec::new(
                Opts::new("tallyhouse_query_waiting", "Questions that wait for their turn, by class"),
                &["class"],
            )?,
            wait_seconds: HistogramVec::new(
                HistogramOpts::new("tallyhouse_query_wait_seconds", "Time until a question had its turn, by class")
                    .buckets(SECONDS.to_vec()),
                &["class"],
            )?,
            refused: IntCounterVec::new(
                Opts::new("tallyhouse_query_refused_total", "Questions that got no turn, by class and reason"),
                &["class", "reason"],
            )?,
            breaker: IntGauge::new(
                "tallyhouse_query_clickhouse_breaker",
                "The breaker to ClickHouse: 0 closed, 1 half-open, 2 open",
            )?,
            kills: IntCounterVec::new(
                Opts::new("tallyhouse_query_kills_total", "Queries nobody waited for, by what became of them"),
                &["result"],
            )?,
            stream_listeners: IntGauge::new("tallyhouse_query_stream_listeners", "Open streams")?,
            stream_questions: IntGauge::new(
                "tallyhouse_query_stream_questions",
                "Different questions that are streamed: each asks ClickHouse once per interval",
            )?,
            stream_events: IntCounterVec::new(
                Opts::new("tallyhouse_query_stream_events_total", "What listeners were sent, by kind"),
                &["kind"],
            )?,
            stream_skipped: IntCounter::new(
                "tallyhouse_query_stream_skipped_total",
                "Values that listeners were too slow for",
            )?,
            stream_refused: IntCounterVec::new(
                Opts::new("tallyhouse_query_stream_refused_total", "Streams that were not opened, by reason"),
                &["reason"],
            )?,
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
            Box::new(self.waiting.clone()),
            Box::new(self.wait_seconds.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.breaker.clone()),
            Box::new(self.kills.clone()),
            Box::new(self.stream_listeners.clone()),
            Box::new(self.stream_questions.clone()),
            Box::new(self.stream_events.clone()),
            Box::new(self.stream_skipped.clone()),
            Box::new(self.stream_refused.clone()),
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
    pub fn looked_up(&self, layer: Layer, found: Option<Worth>) {
        let result = match found {
            Some(Worth::Fresh) => "hit",
            Some(Worth::Stale) => "stale",
            Some(Worth::Excuse | Worth::Nothing) => "outdated",
            None => "miss",
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

    /// A ClickHouse query began; the guard ends it.
    pub fn query_began(&self) -> Running {
        Running::new(&self.queries_running)
    }

    /// A question waits for its turn until the guard is dropped.
    pub fn waiting(&self, class: Class) -> Running {
        Running::new(&self.waiting.with_label_values(&[class.label()]))
    }

    /// A question had its turn.
    pub fn waited(&self, class: Class, time: Duration) {
        self.wait_seconds.with_label_values(&[class.label()]).observe(time.as_secs_f64());
    }

    /// A question got no turn.
    pub fn refused(&self, class: Class, reason: Refused) {
        let reason = match reason {
            Refused::Breaker => "breaker",
            Refused::Shed => "shed",
            Refused::QueueFull => "queue_full",
            Refused::TenantShare => "tenant_share",
            Refused::WaitedTooLong => "waited_too_long",
        };
        self.refused.with_label_values(&[class.label(), reason]).inc();
    }

    /// The state of the breaker to ClickHouse.
    pub fn breaker(&self, state: BreakerState) {
        self.breaker.set(match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
    }

    /// A query nobody waited for was dealt with.
    pub fn killed(&self, kill: Kill) {
        let result = match kill {
            Kill::Stopped => "stopped",
            Kill::NotFound => "not_found",
            Kill::Failed => "failed",
            Kill::Lost => "lost",
        };
        self.kills.with_label_values(&[result]).inc();
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

/// What became of a lock of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockEvent {
    /// This instance computed, the others waited.
    Led,
    /// This instance waited for another.
    Waited,
    /// It computed after all, because the other did not publish.
    TookOver,
    /// It stopped waiting, and computed without the lock.
    GaveUp,
    /// Its answer was not published: another instance had begun later.
    FencedOut,
}

/// Why an answer was computed though there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// It was stale.
    Stale,
    /// It was hot, and about to be stale.
    Warm,
    /// The caller asked for it.
    Fresh,
}

/// Why something was not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Too large for Redis.
    TooLarge,
    /// Redis was no help.
    RedisAway,
    /// Too many writes to Redis were under way.
    TooManyWrites,
}

/// The metrics of the cache; clones share them.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    stale: IntCounterVec,
    refreshes: IntCounterVec,
    locks: IntCounterVec,
    parts: IntCounterVec,
    part_bytes: IntGauge,
    dropped: IntCounterVec,
    cleared: IntCounter,
}

impl CacheMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, label: &[&str]| IntCounterVec::new(Opts::new(name, help), label);
        let metrics = Self {
            stale: counter("tallyhouse_query_cache_stale_total", "Stale answers given, by reason", &["reason"])?,
            refreshes: counter(
                "tallyhouse_query_cache_refreshes_total",
                "Answers computed though there was one, by cause and outcome",
                &["cause", "outcome"],
            )?,
            locks: counter(
                "tallyhouse_query_cache_locks_total",
                "What became of locks over the fleet, by event",
                &["event"],
            )?,
            parts: counter(
                "tallyhouse_query_cache_parts_total",
                "Look-ups of parts of answers by layer and result",
                &["layer", "result"],
            )?,
            part_bytes: IntGauge::new("tallyhouse_query_cache_part_bytes", "Bytes of parts held in this process")?,
            dropped: counter(
                "tallyhouse_query_cache_dropped_total",
                "Answers and batches of parts that Redis does not hold, by reason",
                &["reason"],
            )?,
            cleared: IntCounter::new("tallyhouse_query_cache_cleared_total", "Times the cache was cleared by hand")?,
        };
        for vec in [&metrics.stale, &metrics.refreshes, &metrics.locks, &metrics.parts, &metrics.dropped] {
            registry.register(Box::new(vec.clone()))?;
        }
        registry.register(Box::new(metrics.part_bytes.clone()))?;
        registry.register(Box::new(metrics.cleared.clone()))?;
        Ok(metrics)
    }

    /// A stale answer was given.
    pub fn stale(&self, reason: StaleReason) {
        self.stale.with_label_values(&[reason.label()]).inc();
    }

    /// An answer was computed though there was one, or was to be.
    pub fn refreshed(&self, refresh: Refresh, is_done: bool) {
        let cause = match refresh {
            Refresh::Stale => "stale",
            Refresh::Warm => "warm",
            Refresh::Fresh => "fresh",
        };
        self.refreshes.with_label_values(&[cause, if is_done { "done" } else { "failed" }]).inc();
    }

    /// Something became of a lock.
    pub fn lock(&self, event: LockEvent) {
        let event = match event {
            LockEvent::Led => "led",
            LockEvent::Waited => "waited",
            LockEvent::TookOver => "took_over",
            LockEvent::GaveUp => "gave_up",
            LockEvent::FencedOut => "fenced_out",
        };
        self.locks.with_label_values(&[event]).inc();
    }

    /// A part was asked for.
    pub fn part(&self, layer: Layer, is_hit: bool) {
        self.parts.with_label_values(&[layer.label(), if is_hit { "hit" } else { "miss" }]).inc();
    }

    /// How many bytes of parts the process holds.
    pub fn parts_hold(&self, bytes: u64) {
        self.part_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Something was not remembered.
    pub fn dropped(&self, dropped: Dropped) {
        let reason = match dropped {
            Dropped::TooLarge => "too_large",
            Dropped::RedisAway => "redis_away",
            Dropped::TooManyWrites => "too_many_writes",
        };
        self.dropped.with_label_values(&[reason]).inc();
    }

    /// An operator cleared the cache.
    pub fn cleared(&self) {
        self.cleared.inc();
    }
}

impl Layer {
    const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// What a listener of a stream was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A value.
    Value,
    /// A comment.
    Heartbeat,
    /// A failure.
    Failure,
    /// The end.
    Bye(Bye),
}

/// Streams.
impl Metrics {
    /// Somebody listens, until the guard is dropped.
    pub fn stream_listener(&self) -> Running {
        Running::new(&self.stream_listeners)
    }

    /// A question is streamed, until the guard is dropped.
    pub fn stream_question(&self) -> Running {
        Running::new(&self.stream_questions)
    }

    /// A listener was sent something.
    pub fn stream_sent(&self, sent: Sent) {
        let kind = match sent {
            Sent::Value => "value",
            Sent::Heartbeat => "heartbeat",
            Sent::Failure => "error",
            Sent::Bye(Bye::Shutdown) => "bye_shutdown",
            Sent::Bye(Bye::Expired) => "bye_expired",
            Sent::Bye(Bye::Lost) => "bye_lost",
        };
        self.stream_events.with_label_values(&[kind]).inc();
    }

    /// A listener was too slow for so many values.
    pub fn stream_skipped(&self, values: u64) {
        self.stream_skipped.inc_by(values);
    }

    /// A stream was not opened.
    pub fn stream_refused(&self, full: Full) {
        let reason = match full {
            Full::ProjectListeners { .. } => "project_listeners",
            Full::ProjectQuestions { .. } => "project_questions",
            Full::Listeners => "listeners",
            Full::Questions => "questions",
        };
        self.stream_refused.with_label_values(&[reason]).inc();
    }
}

impl Route {
    const fn label(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Realtime => "realtime",
            Self::Daily => "daily",
            Self::Structured => "query",
            Self::Metrics => "metrics",
            Self::Stream => "stream",
            Self::Anomalies => "anomalies",
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
