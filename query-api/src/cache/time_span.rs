//! The time span that a plan reads. The version stamp and the lifetime of its answer depend on it.

use tallyhouse_service::day_versions::{Day, Span};

use super::stamp::DaysStamp;
use super::ttl::{self, Kind};
use crate::plan::Plan;

const DAY_S: i64 = 86_400;
const HOUR_S: i64 = 3_600;

/// The time span that a plan reads, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    from: i64,
    to: i64,
    is_realtime: bool,
}

impl TimeSpan {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        match plan {
            Plan::Series(plan) => Self { from: plan.frame.from, to: plan.frame.to, is_realtime: false },
            Plan::Anomalies(plan) => Self::between(plan.frame.from, plan.frame.to),
            Plan::Funnel(plan) => Self::between(plan.scan().from, plan.scan().to),
            Plan::Retention(plan) => Self::between(plan.scan().from, plan.scan().to),
            Plan::Realtime(plan) => Self { from: plan.long_from, to: plan.to, is_realtime: true },
            Plan::EventTypes(plan) => Self::between(plan.from, plan.to),
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

    /// Whether all UTC hours that it reads are over.
    pub const fn is_over(&self, now_ms: i64) -> bool {
        self.to <= hour(now_ms) * HOUR_S
    }

    /// What of it has a version that its answer depends on: all of a range that is over, and of one that is not, the UTC days that
    /// are. An answer that reaches until now lives for a minute; late events of today's hours, of which some are always coming, do not
    /// make it another each half second.
    pub fn span(&self, now_ms: i64) -> Span {
        // The last minutes live for a second: whether yesterday changed does not matter to them.
        if self.is_realtime {
            return Span::none();
        }
        let to = if self.is_over(now_ms) { self.to } else { self.to.min(today(now_ms) * DAY_S) };
        Span::between(self.from, to, Day::try_from(today(now_ms)).unwrap_or(Day::MAX))
    }

    /// The kind of the answer.
    pub fn kind(&self, days: DaysStamp, now_ms: i64) -> Kind {
        ttl::kind(self.is_realtime, !self.is_over(now_ms), days)
    }
}

const fn today(now_ms: i64) -> i64 {
    now_ms.div_euclid(DAY_S * 1_000)
}

const fn hour(now_ms: i64) -> i64 {
    now_ms.div_euclid(HOUR_S * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: DaysStamp = DaysStamp::Known { epoch: 0, sum: 0 };

    fn time_span(from: i64, to: i64) -> TimeSpan {
        TimeSpan { from, to, is_realtime: false }
    }

    #[test]
    fn a_range_that_reaches_until_now_depends_on_the_days_that_are_over() {
        let week = time_span(13 * DAY_S + 60, 21 * DAY_S);
        let noon = (20 * DAY_S + DAY_S / 2) * 1_000;
        assert_eq!(week.span(noon), Span::between(13 * DAY_S, 20 * DAY_S, 20));
        assert_eq!(week.kind(KNOWN, noon), Kind::Open);
        // At midnight it no longer grows.
        let midnight = 21 * DAY_S * 1_000;
        assert_eq!(
            (week.span(midnight), week.kind(KNOWN, midnight)),
            (Span::between(13 * DAY_S, 21 * DAY_S, 21), Kind::Closed)
        );
        assert_eq!(week.kind(DaysStamp::Unknown, midnight), Kind::Unversioned);
    }

    #[test]
    fn hours_of_today_that_are_over_have_versions() {
        let (today, now_ms) = (20 * DAY_S, (20 * DAY_S + 14 * HOUR_S + 1_800) * 1_000);
        // Yesterday in Kiritimati ended at 10:00 UTC.
        for over in
            [time_span(today - 14 * HOUR_S, today + 10 * HOUR_S), time_span(today + 8 * HOUR_S, today + 14 * HOUR_S)]
        {
            assert_eq!(
                (over.kind(KNOWN, now_ms), over.span(now_ms)),
                (Kind::Closed, Span::between(over.from, over.to, 20))
            );
        }
        // Five minutes that are over, in the hour that is not.
        let open = time_span(today + 14 * HOUR_S, today + 14 * HOUR_S + 300);
        assert_eq!((open.kind(KNOWN, now_ms), open.span(now_ms)), (Kind::Open, Span::none()));
    }

    #[test]
    fn the_last_minutes_depend_on_no_version() {
        let time_span = TimeSpan { from: 3 * DAY_S - 60, to: 3 * DAY_S + 60, is_realtime: true };
        assert!(time_span.span(3 * DAY_S * 1_000 + 30_000).is_empty());
        assert_eq!(time_span.kind(DaysStamp::Unknown, 3 * DAY_S * 1_000), Kind::Realtime);
    }
}
