//! Metrics of rate limits.

use crate::metrics::Registry;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::rule::Kind;

/// What became of a request or of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Admitted,
    Refused,
    /// Would have been refused (`RATE_LIMITS=report`).
    Reported,
}

/// What became of an exchange with Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseOutcome {
    Granted,
    /// The bucket had fewer than were needed.
    Empty,
    Failed,
    /// Redis was not asked, after failures.
    Avoided,
}

/// Of one service. Clones share them.
#[derive(Debug, Clone)]
pub struct RateLimitMetrics {
    /// Its counters, by kind and outcome: looking them up would cost more than the decision.
    counters: [[IntCounter; 3]; 4],
    leases: IntCounterVec,
    buckets: IntGauge,
    forgotten: IntCounter,
    debts_dropped: IntCounter,
    local: IntGauge,
    stress: IntGauge,
}

impl RateLimitMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let decisions = registry.counters(
            "tallyhouse_rate_limit_decisions_total",
            "Requests and events by the limit that was asked (address, admin, queries, events) and outcome",
            &["limit", "outcome"],
        )?;
        let of = |kind: Kind| {
            ["admitted", "refused", "reported"].map(|outcome| decisions.with_label_values(&[kind.name(), outcome]))
        };
        Ok(Self {
            counters: Kind::ALL.map(of),
            leases: registry.counters(
                "tallyhouse_rate_limit_leases_total",
                "Exchanges with Redis for tokens, by outcome",
                &["outcome"],
            )?,
            buckets: registry.gauge("tallyhouse_rate_limit_buckets", "Callers that this process counts")?,
            forgotten: registry.counter(
                "tallyhouse_rate_limit_forgotten_total",
                "Callers that were forgotten before their buckets were full, because there were too many",
            )?,
            debts_dropped: registry.counter(
                "tallyhouse_rate_limit_debts_dropped_total",
                "Tokens owed to Redis that are not sent again: sent twice without an answer, or lost with the task that sent them",
            )?,
            local: registry.gauge(
                "tallyhouse_rate_limit_local",
                "1 while limits are counted by this instance alone, divided by the number of instances",
            )?,
            stress: registry.gauge(
                "tallyhouse_rate_limit_stress",
                "How much limits are tightened: 0 not at all, 1 for low priority, 2 for normal priority too",
            )?,
        })
    }

    /// Counted and shown nowhere.
    pub(super) fn unregistered() -> prometheus::Result<Self> {
        Self::register(&Registry::new())
    }

    pub(super) fn decided(&self, kind: Kind, outcome: Outcome, count: u64) {
        let [admitted, refused, reported] = match kind {
            Kind::Address => &self.counters[0],
            Kind::Admin => &self.counters[1],
            Kind::Queries => &self.counters[2],
            Kind::Events => &self.counters[3],
        };
        let counter = match outcome {
            Outcome::Admitted => admitted,
            Outcome::Refused => refused,
            Outcome::Reported => reported,
        };
        counter.inc_by(count);
    }

    pub(super) fn lease(&self, outcome: LeaseOutcome) {
        let outcome = match outcome {
            LeaseOutcome::Granted => "granted",
            LeaseOutcome::Empty => "empty",
            LeaseOutcome::Failed => "failed",
            LeaseOutcome::Avoided => "avoided",
        };
        self.leases.with_label_values(&[outcome]).inc();
    }

    pub(super) fn buckets(&self, buckets: usize) {
        self.buckets.set(i64::try_from(buckets).unwrap_or(i64::MAX));
    }

    pub(super) fn forgotten(&self, callers: usize) {
        if callers > 0 {
            self.forgotten.inc_by(callers as u64);
        }
    }

    pub(super) fn debt_dropped(&self, tokens: u64) {
        self.debts_dropped.inc_by(tokens);
    }

    pub(super) fn local(&self, is_local: bool) {
        self.local.set(i64::from(is_local));
    }

    pub(super) fn stress(&self, stress: i64) {
        self.stress.set(stress);
    }
}
