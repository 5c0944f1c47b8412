//! Metrics of the cache, except for look-ups of answers, which `telemetry/mod.rs` counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tallyhouse_service::metrics::Registry;

use super::Layer;

/// What a layer of the cache had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// An answer that is given as it is.
    Hit,
    /// One that is given and refreshed.
    Ageing,
    /// One that is given only when ClickHouse cannot answer, or not at all.
    Outdated,
    Miss,
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
    /// It was asked for in the last part of its time.
    Ahead,
    /// It was hot, and its time about to end.
    Warm,
    /// The caller asked for it.
    Fresh,
    /// It was hot before the process started.
    Start,
}

/// Why something was not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Too large for Redis.
    TooLarge,
    /// Redis was no help.
    RedisAway,
    /// Too many writes to Redis were in flight.
    TooManyWrites,
}

/// How much of its memory Redis uses, and how much it may, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisMemory {
    pub used: u64,
    pub limit: Option<u64>,
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
    unknown: IntCounterVec,
    silent_writers: IntGauge,
    redis_memory: IntGaugeVec,
    redis_memory_limit: IntGaugeVec,
}

impl CacheMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            stale: registry.counters(
                "tallyhouse_query_cache_stale_total",
                "Stale answers given, by reason",
                &["reason"],
            )?,
            refreshes: registry.counters(
                "tallyhouse_query_cache_refreshes_total",
                "Answers computed though there was one, or asked for at the start, by cause and outcome",
                &["cause", "outcome"],
            )?,
            locks: registry.counters(
                "tallyhouse_query_cache_locks_total",
                "What became of locks over the fleet, by event",
                &["event"],
            )?,
            parts: registry.counters(
                "tallyhouse_query_cache_parts_total",
                "Look-ups of parts of answers by layer and result",
                &["layer", "result"],
            )?,
            part_bytes: registry.gauge("tallyhouse_query_cache_part_bytes", "Bytes of parts held in this process")?,
            dropped: registry.counters(
                "tallyhouse_query_cache_dropped_total",
                "Answers and batches of parts that Redis does not hold, by reason",
                &["reason"],
            )?,
            cleared: registry.counter("tallyhouse_query_cache_cleared_total", "Times the cache was cleared by hand")?,
            unknown: registry.counters(
                "tallyhouse_query_cache_unknown_versions_total",
                "Times nobody could say whether days were written to, so that answers have short times, by reason",
                &["reason"],
            )?,
            redis_memory: registry.gauges("tallyhouse_redis_memory_bytes", "Memory that Redis uses", &[])?,
            redis_memory_limit: registry.gauges(
                "tallyhouse_redis_memory_limit_bytes",
                "Memory that Redis may use (`maxmemory`)",
                &[],
            )?,
            silent_writers: registry.gauge(
                "tallyhouse_query_cache_silent_writers",
                "Ingesters that do not vouch for what they stored: cut off from Redis, or killed and not started again",
            )?,
        })
    }

    /// A stale answer was given.
    pub fn stale(&self, reason: &'static str) {
        self.stale.with_label_values(&[reason]).inc();
    }

    /// An answer was computed though there was one, or was to be, or asked for before anybody wants it.
    pub fn refreshed(&self, refresh: Refresh, is_done: bool) {
        let cause = match refresh {
            Refresh::Ahead => "ahead",
            Refresh::Warm => "warm",
            Refresh::Fresh => "fresh",
            Refresh::Start => "start",
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

    /// Nobody could say whether days were written to.
    pub fn unknown(&self, reason: &'static str) {
        self.unknown.with_label_values(&[reason]).inc();
    }

    /// How many writers are silent.
    pub fn silent_writers(&self, count: usize) {
        self.silent_writers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What Redis said of its memory; what it did not say has no series.
    pub fn redis_memory(&self, memory: Option<RedisMemory>) {
        let told = [
            (&self.redis_memory, memory.map(|memory| memory.used)),
            (&self.redis_memory_limit, memory.and_then(|memory| memory.limit)),
        ];
        for (gauge, bytes) in told {
            match bytes {
                Some(bytes) => gauge.with_label_values::<&str>(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX)),
                None => gauge.reset(),
            }
        }
    }

    /// An operator cleared the cache.
    pub fn cleared(&self) {
        self.cleared.inc();
    }
}

impl Layer {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::InFlight => "in_flight",
            Self::Redis => "redis",
        }
    }
}
