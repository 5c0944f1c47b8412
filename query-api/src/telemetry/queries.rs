//! Metrics of queries to ClickHouse: admission, outcomes and kills.

use std::time::Duration;

use tallyhouse_service::breaker::BreakerState;

use super::{Metrics, Running};

/// How a ClickHouse query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryOutcome {
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

/// Why a query was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionRefusal {
    /// ClickHouse is left alone.
    Breaker,
    /// Under stress, for more important classes.
    Shed,
    /// The queue of its class was full.
    QueueFull,
    /// Its project's share of the queue was.
    TenantShare,
    /// It waited too long.
    WaitedTooLong,
    /// Nothing was left of the request's time.
    OutOfTime,
}

/// What became of a query that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// It was stopped.
    Stopped,
    /// ClickHouse did not have it (any more).
    NotFound,
    /// ClickHouse did not stop it in time, or cannot be reached.
    Failed,
    /// Too many waited to be stopped; it was left to ClickHouse.
    Lost,
}

/// Why an answer was broken off on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCut {
    /// ClickHouse failed half-way.
    Failed,
    /// ClickHouse sent nothing for too long.
    Silent,
    /// It grew longer than it may.
    TooLarge,
    /// The client read nothing for too long.
    Stalled,
    /// The client read too little over all the time that was waited for it.
    TooSlow,
    /// The client left.
    Left,
}

impl StreamCut {
    /// For logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Silent => "silent",
            Self::TooLarge => "too_large",
            Self::Stalled => "stalled",
            Self::TooSlow => "too_slow",
            Self::Left => "left",
        }
    }
}

impl Metrics {
    /// A ClickHouse query began; the guard ends it.
    pub fn query_began(&self) -> Running {
        Running::new(&self.queries_running)
    }

    /// A query waits for its permit until the guard is dropped.
    pub fn waiting(&self, class: &'static str) -> Running {
        Running::new(&self.waiting.with_label_values(&[class]))
    }

    /// A query was admitted.
    pub fn waited(&self, class: &'static str, time: Duration) {
        self.wait_seconds.with_label_values(&[class]).observe(time.as_secs_f64());
    }

    /// A query was not admitted.
    pub fn refused(&self, class: &'static str, reason: AdmissionRefusal) {
        let reason = match reason {
            AdmissionRefusal::Breaker => "breaker",
            AdmissionRefusal::Shed => "shed",
            AdmissionRefusal::QueueFull => "queue_full",
            AdmissionRefusal::TenantShare => "tenant_share",
            AdmissionRefusal::WaitedTooLong => "waited_too_long",
            AdmissionRefusal::OutOfTime => "out_of_time",
        };
        self.refused.with_label_values(&[class, reason]).inc();
    }

    /// The state of the breaker to ClickHouse.
    pub fn breaker(&self, state: BreakerState) {
        self.breaker.set(match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
    }

    /// A query that nobody waits for is being stopped, and holds its slot until the guard is dropped.
    pub fn stopping(&self) -> Running {
        Running::new(&self.stopping)
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
    pub fn stream_cut(&self, cut: StreamCut) {
        self.streams_cut.with_label_values(&[cut.label()]).inc();
    }

    /// A ClickHouse query looked up what is said beside an answer.
    pub fn looked_beside(&self) {
        self.look_ups.inc();
    }

    /// A ClickHouse query ended.
    pub fn query_ended(&self, outcome: QueryOutcome, took: Duration) {
        let label = match outcome {
            QueryOutcome::Answered => "answered",
            QueryOutcome::Failed => "failed",
            QueryOutcome::TimedOut => "timed_out",
            QueryOutcome::Cancelled => "cancelled",
            QueryOutcome::Refused => "refused",
        };
        self.queries.with_label_values(&[label]).inc();
        if outcome != QueryOutcome::Refused {
            self.query_seconds.observe(took.as_secs_f64());
        }
    }
}
