//! How long an answer is remembered: a pure function of the kind of plan and a random number.

use std::time::Duration;

use crate::plan::Plan;

/// The jitter, as a part of the time: 60 s become 50 to 70 s, so answers that were computed together do not end together.
const JITTER: f64 = 1.0 / 6.0;

/// How long the real-time dashboard is remembered. Not jittered: it is asked for once a second, and by few.
pub const REALTIME: Duration = Duration::from_secs(1);

/// The time for an answer to `plan`; `base` for all but the real-time dashboard. `random` is from 0 to 1.
pub fn of(plan: &Plan, base: Duration, random: f64) -> Duration {
    match plan {
        Plan::Realtime(_) => REALTIME,
        Plan::Series(_) | Plan::Daily(_) | Plan::Structured(_) => {
            base.mul_f64(1.0 + JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{DailyPlan, RealtimePlan};
    use crate::time::Zone;

    #[test]
    fn a_minute_is_50_to_70_seconds_and_realtime_one() {
        let daily = Plan::Daily(DailyPlan {
            date: String::new(),
            zone: Zone::utc(),
            rollup: tallyhouse_schema::Rollup::Hour,
            previous_from: 0,
            from: 0,
            to: 0,
            complete: true,
        });
        let seconds = |random| of(&daily, Duration::from_secs(60), random).as_secs_f64().round();
        assert_eq!([seconds(0.0), seconds(0.5), seconds(1.0), seconds(7.0)], [50.0, 60.0, 70.0, 70.0]);
        let realtime = Plan::Realtime(RealtimePlan { short_from: 0, long_from: 0, to: 0 });
        assert_eq!(of(&realtime, Duration::from_secs(60), 0.9), Duration::from_secs(1));
    }
}
