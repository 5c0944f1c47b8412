//! Plans the faults, their kinds and times: a pure function of the seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Pauses last from here …
const SHORTEST: Duration = Duration::from_millis(500);
/// … to here, or to a third of a short run.
const LONGEST: Duration = Duration::from_secs(8);
/// Calm between a fault and the next, on average; they may overlap all the same.
const MEAN_CALM: Duration = Duration::from_millis(1_200);
/// A broker must be back and have caught up before the next one may go: two of three away is an outage, not a fault.
const BROKER_RECOVERS: Duration = Duration::from_secs(8);
/// Anything else runs this long before it is struck again.
const RECOVERS: Duration = Duration::from_secs(1);

/// What the fleet consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// Gateway, three brokers, two consumers.
    Kafka,
    /// One process without Kafka.
    Embedded,
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// What takes events over HTTP, from 0.
    Gateway(usize),
    /// A consumer, from 0.
    Consumer(usize),
    /// What answers questions, from 0.
    QueryApi(usize),
    /// A broker, from 0.
    Broker(usize),
    /// The ClickHouse process; its supervisor starts it again.
    ClickHouse,
    /// That supervisor, and ClickHouse with it.
    Store,
    /// Redis, whose data is only in memory.
    Redis,
}

impl Target {
    fn all(deployment: Deployment) -> Vec<Self> {
        let kafka = [Self::Consumer(0), Self::Consumer(1), Self::Broker(0), Self::Broker(1), Self::Broker(2)];
        let common = [Self::Gateway(0), Self::ClickHouse, Self::Store, Self::Redis];
        if deployment == Deployment::Kafka { common.into_iter().chain(kafka).collect() } else { common.into() }
    }

    fn is_broker(self) -> bool {
        matches!(self, Self::Broker(_))
    }

    /// Whether one of the two must run while the other does not.
    fn excludes(self, other: Self) -> bool {
        let store = [Self::ClickHouse, Self::Store];
        self == other || self.is_broker() && other.is_broker() || store.contains(&self) && store.contains(&other)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(0) => f.pad("gateway"),
            Self::Gateway(index) => f.pad(&format!("gateway {}", index + 1)),
            Self::Consumer(index) => f.pad(&format!("consumer {}", index + 1)),
            Self::QueryApi(index) => f.pad(&format!("query-api {}", index + 1)),
            Self::Broker(index) => f.pad(&format!("broker {}", index + 1)),
            Self::ClickHouse => f.pad("clickhouse"),
            Self::Store => f.pad("store"),
            Self::Redis => f.pad("redis"),
        }
    }
}

/// How it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and started again.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// SIGTERM, and started again.
    Restart,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill -9",
            Self::Pause => "pause",
            Self::Restart => "restart",
        })
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// When, from the start of the run.
    pub at: Duration,
    /// When it is undone.
    pub until: Duration,
    pub target: Target,
    pub fault: Fault,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), (self.until - self.at).as_secs_f64());
        write!(f, "{at:8.2} s  {:<10}  {:<7}  for {lasts:.2} s", self.target, self.fault)
    }
}

/// All faults of a run, in order of time; all are undone before it ends.
pub fn plan(seed: u64, lasts: Duration, deployment: Deployment) -> Vec<Strike> {
    let mut rng = StdRng::seed_from_u64(seed);
    let targets = Target::all(deployment);
    let longest = LONGEST.min(lasts / 3).max(SHORTEST);
    let mut strikes: Vec<Strike> = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += MEAN_CALM.mul_f64(2.0 * rng.random::<f64>());
        if at + SHORTEST > lasts {
            return strikes;
        }
        // Drawn whether they are used or not, so that one strike more or less does not change all that follow.
        let (choice, kind, share) = (rng.random_range(0..targets.len()), rng.random_range(0..3), rng.random::<f64>());
        let Some(&target) = targets.get(choice) else { return strikes };
        let fault = match kind {
            0 => Fault::Kill,
            1 => Fault::Pause,
            _ => Fault::Restart,
        };
        let until = (at + SHORTEST + (longest - SHORTEST).mul_f64(share * share)).min(lasts);
        let recovers = |other: Target| if other.is_broker() { BROKER_RECOVERS } else { RECOVERS };
        if strikes.iter().all(|s| !s.target.excludes(target) || s.until + recovers(s.target) <= at) {
            strikes.push(Strike { at, until, target, fault });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[test]
    fn a_seed_is_a_plan_and_another_seed_another() {
        assert_eq!(plan(1, TEN_MINUTES, Deployment::Kafka), plan(1, TEN_MINUTES, Deployment::Kafka));
        assert_ne!(plan(1, TEN_MINUTES, Deployment::Kafka), plan(2, TEN_MINUTES, Deployment::Kafka));
    }

    #[test]
    fn never_two_brokers_at_a_time_and_everything_runs_in_the_end() {
        for seed in 0..200 {
            let strikes = plan(seed, TEN_MINUTES, Deployment::Kafka);
            let brokers: Vec<&Strike> = strikes.iter().filter(|strike| strike.target.is_broker()).collect();
            assert!(brokers.windows(2).all(|pair| pair[0].until + BROKER_RECOVERS <= pair[1].at), "seed {seed}");
            assert!(strikes.iter().all(|strike| strike.at < strike.until && strike.until <= TEN_MINUTES));
        }
    }

    #[test]
    fn an_hour_breaks_everything_in_every_way() {
        let strikes: Vec<Strike> = (1..=6).flat_map(|seed| plan(seed, TEN_MINUTES, Deployment::Kafka)).collect();
        for target in Target::all(Deployment::Kafka) {
            for fault in [Fault::Kill, Fault::Pause, Fault::Restart] {
                assert!(strikes.iter().any(|s| s.target == target && s.fault == fault), "{target}, {fault}");
            }
        }
    }

    #[test]
    fn short_runs_break_something_too() {
        let empty = (0..100).filter(|&seed| plan(seed, Duration::from_secs(8), Deployment::Kafka).is_empty()).count();
        assert_eq!(empty, 0);
    }
}
