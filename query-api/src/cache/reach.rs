//! Which days a plan reads: what its answer's stamp and time depend on.

use std::ops::RangeInclusive;

use tallyhouse_service::day_versions::Day;

use super::stamp::DaysStamp;
use super::ttl::{self, Kind};
use crate::plan::Plan;

const DAY_S: i64 = 86_400;

/// The part of time that a plan reads, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    from: i64,
    to: i64,
    is_realtime: bool,
}

impl Reach {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        match plan {
            Plan::Series(plan) => Self { from: plan.frame.from, to: plan.frame.to, is_realtime: false },
            Plan::Anomalies(plan) => Self::between(plan.frame.from, plan.frame.to),
            Plan::Journey(plan) => Self::between(plan.scan().from, plan.scan().to),
            Plan::Realtime(plan) => Self { from: plan.long_from, to: plan.to, is_realtime: true },
            Plan::Daily(plan) => Self { from: plan.previous_from, to: plan.to, is_realtime: false },
            Plan::Structured(plan) => {
                let from = plan.previous.as_ref().map_or(plan.period.from, |previous| previous.from);
                Self { from, to: plan.period.to, is_realtime: false }
            }
        }
    }

    /// Of a range, from the first second to the one after the last.
    pub const fn between(from: i64, to: i64) -> Self {
        Self { from, to, is_realtime: false }
    }

    /// The UTC days that it reads and that are over; none when the range is empty.
    #[allow(clippy::reversed_empty_ranges, reason = "an empty range of days is what is meant")]
    pub fn closed_days(&self, now_ms: i64) -> RangeInclusive<Day> {
        let last = (self.to - 1).div_euclid(DAY_S).min(today(now_ms) - 1);
        // The last minutes live for a second: whether yesterday changed does not matter to them.
        if self.is_realtime {
            return 1..=0;
        }
        match (Day::try_from(self.from.div_euclid(DAY_S)), Day::try_from(last)) {
            (Ok(first), Ok(last)) => first..=last,
            _ => 1..=0,
        }
    }

    /// The kind of the answer.
    pub fn kind(&self, days: DaysStamp, now_ms: i64) -> Kind {
        ttl::kind(self.is_realtime, self.to > today(now_ms) * DAY_S, days)
    }
}

fn today(now_ms: i64) -> i64 {
    now_ms.div_euclid(DAY_S * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: DaysStamp = DaysStamp::Known { epoch: 0, sum: 0 };

    #[test]
    fn only_days_that_are_over_are_in_the_stamp() {
        let reach = Reach { from: DAY_S + 60, to: 4 * DAY_S, is_realtime: false };
        // At noon of day 3 the range still grows; at midnight it no longer does.
        assert_eq!(reach.closed_days(3 * DAY_S * 1_000 + 1), 1..=2);
        assert_eq!(reach.kind(KNOWN, 3 * DAY_S * 1_000 + 1), Kind::Open);
        assert_eq!(reach.closed_days(4 * DAY_S * 1_000), 1..=3);
        assert_eq!(reach.kind(KNOWN, 4 * DAY_S * 1_000), Kind::Closed);
        assert_eq!(reach.kind(DaysStamp::Unknown, 4 * DAY_S * 1_000), Kind::Unversioned);
    }

    #[test]
    fn the_last_minutes_depend_on_no_version() {
        let reach = Reach { from: 3 * DAY_S - 60, to: 3 * DAY_S + 60, is_realtime: true };
        assert!(reach.closed_days(3 * DAY_S * 1_000 + 30_000).is_empty());
        assert_eq!(reach.kind(DaysStamp::Unknown, 3 * DAY_S * 1_000), Kind::Realtime);
    }
}
