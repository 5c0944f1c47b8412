//! Paces inserts; their duration is the measure of cost.
//!
//! An insert of one row costs ClickHouse almost as much as one of a thousand, so the number of inserts is bounded. The pause after an
//! insert is proportional to its duration: inserts run for a share of the time, until freshness asks for more. Full batches and
//! requests that wait for an insert (`?wait=stored`) are not delayed. ClickHouse does not report what an insert cost when it answers,
//! hence the duration. It writes its four tables in parallel, so one insert takes more than one core while it lasts.

use std::time::Duration;

/// Bounds of the time between the starts of two inserts of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Never shorter, whoever waits.
    pub least: Duration,
    /// Never longer: events are to be counted in time.
    pub most: Duration,
    /// The part of the time that an insert may be under way, between 0 and 1, while they keep to [`Self::most`].
    pub share: f64,
}

impl Pace {
    /// Between the starts of two inserts of one of so many workers, when the last one took so long.
    pub fn between(self, took: Duration, workers: u32, is_urgent: bool) -> Duration {
        let workers = workers.max(1);
        let least = self.least * workers;
        if is_urgent {
            return least;
        }
        let fair = took.mul_f64(1.0 / self.share.clamp(0.001, 1.0)) * workers;
        fair.min(self.most).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn inserts_get_their_share_until_freshness_asks_for_more() {
        let pace = Pace { least: ms(25), most: ms(700), share: 0.1 };
        assert_eq!(pace.between(ms(40), 1, false), ms(400));
        assert_eq!(pace.between(ms(100), 1, false), ms(700));
        assert_eq!(pace.between(ms(1), 1, false), ms(25));
        assert_eq!(pace.between(ms(100), 1, true), ms(25));
        assert_eq!(pace.between(ms(10), 4, false), ms(400));
        assert_eq!(pace.between(ms(100), 40, false), ms(1_000), "no shorter than what they may insert at all");
    }
}
