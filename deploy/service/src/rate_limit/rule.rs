//! How much may be done, and who may how much.

use std::fmt;
use std::time::Duration;

/// A bucket that holds `burst` and fills with `amount` in `period`: within any period at most `amount + burst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub amount: u64,
    pub period: Duration,
    pub burst: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

impl Rule {
    /// All of a minute may come at once.
    pub const fn per_minute(amount: u64) -> Self {
        Self { amount, period: MINUTE, burst: amount }
    }

    /// All of a day may come at once.
    pub const fn per_day(amount: u64) -> Self {
        Self { amount, period: DAY, burst: amount }
    }

    /// The same with another burst.
    #[must_use]
    pub const fn with_burst(self, burst: u64) -> Self {
        Self { burst, ..self }
    }

    /// The share of one of so many instances, at least one in a period.
    #[must_use]
    pub fn divided(self, instances: u64) -> Self {
        let share = |of: u64| (of / instances.max(1)).max(1).min(of);
        Self { amount: share(self.amount), burst: share(self.burst), ..self }
    }

    /// What comes in a millisecond.
    pub(super) fn per_ms(&self) -> f64 {
        self.amount as f64 / (self.period.as_millis() as f64).max(1.0)
    }

    /// The time in which so much comes.
    pub(super) fn time_of(&self, amount: f64) -> Duration {
        if amount <= 0.0 {
            return Duration::ZERO;
        }
        // Nothing comes: as long as anybody would wait.
        let most = DAY.as_millis() as f64 * 365.0;
        Duration::from_millis((amount / self.per_ms()).min(most).ceil() as u64)
    }
}

/// What is counted. Each kind has buckets of its own, so that events do not starve dashboards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests of an address, before anybody is authenticated.
    Address,
    /// Requests of an address to administrative routes, besides.
    Admin,
    /// Questions of a key or a person.
    Queries,
    /// Events of a key.
    Events,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Address, Self::Admin, Self::Queries, Self::Events];

    /// In `X-RateLimit-Scope`, metrics and names of keys in Redis.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Admin => "admin",
            Self::Queries => "queries",
            Self::Events => "events",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a project is entitled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    Free,
    #[default]
    Standard,
    /// No limit but the address's.
    Enterprise,
}

impl Tier {
    /// Events of each key.
    pub const fn events(self) -> Option<Rule> {
        match self {
            Self::Free => Some(Rule::per_day(10_000)),
            Self::Standard => Some(Rule::per_day(1_000_000)),
            Self::Enterprise => None,
        }
    }

    /// Questions of each key or person.
    pub const fn queries(self) -> Option<Rule> {
        match self {
            Self::Free => Some(Rule::per_minute(120)),
            Self::Standard => Some(Rule::per_minute(1_200)),
            Self::Enterprise => None,
        }
    }
}

/// Who is refused first when the service is under stress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// The limits of a project: those of its tier, or what its settings say instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsOf {
    pub events: Option<Rule>,
    pub queries: Option<Rule>,
    pub priority: Priority,
}

impl Default for LimitsOf {
    fn default() -> Self {
        Self::tier(Tier::Standard)
    }
}

impl LimitsOf {
    pub const fn tier(tier: Tier) -> Self {
        Self { events: tier.events(), queries: tier.queries(), priority: Priority::Normal }
    }

    /// Of the keys of development.
    pub const NONE: Self = Self { events: None, queries: None, priority: Priority::Normal };

    /// Events a day and at once, where the settings say so.
    #[must_use]
    pub fn with_events(self, per_day: Option<u64>, burst: Option<u64>) -> Self {
        let events = per_day.map(Rule::per_day).or(self.events);
        Self { events: events.map(|rule| rule.with_burst(burst.unwrap_or(rule.burst))), ..self }
    }

    /// Questions a minute, where the settings say so.
    #[must_use]
    pub fn with_queries(self, per_minute: Option<u64>) -> Self {
        Self { queries: per_minute.map(Rule::per_minute).or(self.queries), ..self }
    }

    #[must_use]
    pub const fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }
}

/// How much of what the service can take is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stress {
    #[default]
    Calm,
    /// Three quarters.
    High,
    /// Nine tenths.
    Severe,
}

impl Stress {
    /// Of a share in use, 0 to 1.
    pub fn of(share: f64) -> Self {
        match share {
            share if share >= 0.9 => Self::Severe,
            share if share >= 0.75 => Self::High,
            _ => Self::Calm,
        }
    }

    /// What an event takes of a bucket; `None`: it is refused, whoever has how much left. Costs are of the instance that is under stress: others
    /// that share the bucket go on as they are.
    pub(super) const fn cost(self, priority: Priority) -> Option<u64> {
        match (self, priority) {
            (Self::Calm, _) | (_, Priority::High) | (Self::High, Priority::Normal) => Some(1),
            (Self::High, Priority::Low) | (Self::Severe, Priority::Normal) => Some(4),
            (Self::Severe, Priority::Low) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_its_share_and_never_nothing() {
        let rule = Rule::per_minute(1_000).with_burst(10);
        assert_eq!(rule.divided(3), Rule { amount: 333, burst: 3, period: MINUTE });
        assert_eq!(rule.divided(5_000), Rule { amount: 1, burst: 1, period: MINUTE });
        assert_eq!(Rule::per_day(0).divided(2).amount, 0, "nothing is nothing");
    }

    #[test]
    fn settings_of_a_project_are_before_its_tier() {
        let free = LimitsOf::tier(Tier::Free);
        assert_eq!(free.with_events(None, None), free);
        assert_eq!(free.with_events(None, Some(5)).events, Some(Rule::per_day(10_000).with_burst(5)));
        assert_eq!(LimitsOf::NONE.with_events(Some(7), None).events, Some(Rule::per_day(7)));
        assert_eq!(free.with_queries(Some(3)).queries, Some(Rule::per_minute(3)));
    }

    #[test]
    fn the_lower_the_priority_the_sooner_limits_tighten() {
        let costs = |stress: Stress| [Priority::Low, Priority::Normal, Priority::High].map(|of| stress.cost(of));
        assert_eq!(costs(Stress::of(0.74)), [Some(1), Some(1), Some(1)]);
        assert_eq!(costs(Stress::of(0.75)), [Some(4), Some(1), Some(1)]);
        assert_eq!(costs(Stress::of(0.9)), [None, Some(4), Some(1)]);
    }

    #[test]
    fn what_never_comes_is_waited_for_no_longer_than_a_year() {
        assert_eq!(Rule::per_minute(0).time_of(1.0), DAY * 365);
        assert_eq!(Rule::per_minute(60).time_of(2.0), Duration::from_secs(2));
        assert_eq!(Rule::per_minute(60).time_of(-1.0), Duration::ZERO);
    }
}
