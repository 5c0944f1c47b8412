//! Samples of raw events by hour, each with its time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clickhouse::{ClickHouse, ClickHouseConfig};
use crate::degrade::DegradeError;
use crate::development::PROJECT;

const EVERY: Duration = Duration::from_millis(100);

/// After the end samples are taken until answers can be compared with one that is later.
const BEYOND: Duration = Duration::from_secs(3);

/// Raw events were so between two moments.
struct Sample {
    asked: Instant,
    answered: Instant,
    /// By the first second of the hour.
    hours: BTreeMap<i64, u64>,
}

/// All samples, in order.
pub(super) struct Samples {
    all: Vec<Sample>,
}

impl Samples {
    /// Takes samples until `stop`, and a little longer.
    pub(super) async fn take(config: ClickHouseConfig, stop: watch::Receiver<bool>) -> Result<Self, DegradeError> {
        let (clickhouse, mut all, mut end) = (ClickHouse::new(&config)?, Vec::new(), None);
        let select = format!(
            "SELECT toInt64(toUnixTimestamp(toStartOfHour(ts))) AS hour, count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' GROUP BY hour"
        );
        while end.is_none_or(|end| Instant::now() < end) {
            let asked = Instant::now();
            let hours: Vec<(i64, u64)> = clickhouse.rows(&select).await?;
            all.push(Sample { asked, answered: Instant::now(), hours: hours.into_iter().collect() });
            if *stop.borrow() && end.is_none() {
                end = Some(Instant::now() + BEYOND);
            }
            sleep(EVERY).await;
        }
        Ok(Self { all })
    }

    /// What was there for certain at a moment, of the hours from one second to before the other; nothing before the first sample.
    pub(super) fn at_least(&self, at: Instant, from: i64, to: i64) -> u64 {
        let after = self.all.partition_point(|sample| sample.answered <= at);
        let sample = after.checked_sub(1).and_then(|place| self.all.get(place));
        sample.map_or(0, |sample| sample.count(from, to))
    }

    /// What can have been there at a moment; `None` when that was not looked at any more.
    pub(super) fn at_most(&self, at: Instant, from: i64, to: i64) -> Option<u64> {
        let place = self.all.partition_point(|sample| sample.asked < at);
        self.all.get(place).map(|sample| sample.count(from, to))
    }
}

impl Sample {
    fn count(&self, from: i64, to: i64) -> u64 {
        if from < to { self.hours.range(from..to).map(|(_, events)| events).sum() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_between_the_sample_before_and_the_one_after() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let sample = |asked: u64, answered: u64, events: u64| Sample {
            asked: at(asked),
            answered: at(answered),
            hours: BTreeMap::from([(0, 100), (3_600, events)]),
        };
        let samples = Samples { all: vec![sample(0, 10, 1), sample(100, 110, 2), sample(200, 210, 5)] };
        assert_eq!([5, 10, 109, 110, 900].map(|ms| samples.at_least(at(ms), 3_600, 7_200)), [0, 1, 1, 2, 5]);
        assert_eq!(
            [0, 1, 100, 200, 201].map(|ms| samples.at_most(at(ms), 3_600, 7_200)),
            [Some(1), Some(2), Some(2), Some(5), None]
        );
    }
}
