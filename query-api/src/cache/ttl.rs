//! How long an answer is remembered: the policy as one table, and pure functions over it.
//!
//! ```text
//! computed ---- fresh ---- soft ---- stale, one refresh ---- hard ---- only when ClickHouse fails ---- keep
//! ```
//!
//! Ends are set when an answer is computed and never moved by reading it: a popular answer does not grow old.

use std::time::Duration;

use super::stamp::DaysStamp;

/// What kind of answer it is, as far as its time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The last minutes.
    Realtime,
    /// The range holds the current UTC day, which changes all the time.
    Open,
    /// All days are over, and their versions are known: only an insert can make the answer wrong, and then its stamp
    /// is no longer asked for.
    Closed,
    /// All days are over, but nobody knows whether they were written to since.
    Unversioned,
}

/// How long a part of an answer lives; the caller knows whether its days are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its days are over.
    Closed,
    /// It touches the current day.
    Open,
}

/// A row of the table, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    soft: u32,
    hard: u32,
    keep: u32,
    jitter: f64,
}

/// A part of the time, up and down: 60 s become 50 to 70, an hour 50 to 70 minutes. Answers that were computed together
/// do not end together.
const SIXTH: f64 = 1.0 / 6.0;

const DAY: u32 = 86_400;

impl Kind {
    /// The table. `soft` bounds how wrong an open answer can be; `hard` how long a refresh may take until a reader
    /// waits for it; `keep` how old an answer may be that is given because ClickHouse is away.
    const fn row(self) -> Row {
        match self {
            // Asked for once a second by few, so there is nothing to spread. Ten minutes old it is worth nothing.
            Self::Realtime => Row { soft: 1, hard: 10, keep: 600, jitter: 0.0 },
            Self::Open => Row { soft: 60, hard: 600, keep: DAY, jitter: SIXTH },
            // Its stamp makes it right; the soft end only bounds the harm of a version that was lost. The hard end,
            // jitter included, is within a day.
            Self::Closed => Row { soft: 3_600, hard: 20 * 3_600, keep: DAY, jitter: SIXTH },
            Self::Unversioned => Row { soft: 60, hard: 600, keep: DAY, jitter: SIXTH },
        }
    }
}

impl Life {
    const fn row(self) -> Row {
        match self {
            Self::Closed => Row { soft: 3_600, hard: 3_600, keep: 3_600, jitter: SIXTH },
            // An answer that is stitched from it is as old as its oldest part: long enough for the panels of one
            // dashboard to share it, short against the 60 s of the answer.
            Self::Open => Row { soft: 10, hard: 10, keep: 10, jitter: SIXTH },
        }
    }

    /// How long a part lives. `random` is from 0 to 1.
    pub fn duration(self, random: f64) -> Duration {
        let row = self.row();
        Duration::from_secs(u64::from(row.soft)).mul_f64(spread(row.jitter, random))
    }
}

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The soft time of an open answer; hard and keep do not follow it.
    pub open: Duration,
}

/// When an answer ends, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// From here it is stale: given out, and refreshed.
    pub soft_ms: i64,
    /// From here a reader waits for another.
    pub hard_ms: i64,
    /// Until here it is better than nothing.
    pub keep_ms: i64,
}

/// How much longer than it is given out an answer is kept for other instances.
const SHARED_BEYOND_MS: i64 = 1_800_000;

impl Ends {
    /// Until when other instances may want it. Not as long as it is kept in the process: a window that slides has a new answer each
    /// minute, and a day of them would fill the Redis that also holds versions and locks.
    pub fn shared_ms(&self) -> i64 {
        self.keep_ms.min(self.hard_ms.saturating_add(SHARED_BEYOND_MS))
    }
}

impl Policy {
    /// The ends of an answer computed now. `random` is from 0 to 1.
    pub fn ends(&self, kind: Kind, computed_ms: i64, random: f64) -> Ends {
        let row = kind.row();
        let soft = match kind {
            Kind::Open | Kind::Unversioned => self.open,
            Kind::Realtime | Kind::Closed => Duration::from_secs(u64::from(row.soft)),
        };
        let factor = spread(row.jitter, random);
        let after = |time: Duration| computed_ms.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let soft_ms = after(soft.mul_f64(factor));
        let hard_ms = after(seconds(row.hard).mul_f64(factor)).max(soft_ms);
        Ends { soft_ms, hard_ms, keep_ms: after(seconds(row.keep)).max(hard_ms) }
    }

    /// The ends for a reader to whom nobody can say whether the days were written to since: no later than those of an
    /// answer without versions.
    pub fn unversioned(&self, ends: Ends, computed_ms: i64) -> Ends {
        let cap = self.ends(Kind::Unversioned, computed_ms, 0.5);
        Ends { soft_ms: ends.soft_ms.min(cap.soft_ms), hard_ms: ends.hard_ms.min(cap.hard_ms), keep_ms: ends.keep_ms }
    }
}

/// The kind of an answer to a plan that touches `now`, or does not.
pub fn kind(is_realtime: bool, touches_today: bool, days: DaysStamp) -> Kind {
    match (is_realtime, touches_today, days) {
        (true, _, _) => Kind::Realtime,
        (false, true, _) => Kind::Open,
        (false, false, DaysStamp::Known { .. }) => Kind::Closed,
        (false, false, DaysStamp::Unknown) => Kind::Unversioned,
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

fn spread(jitter: f64, random: f64) -> f64 {
    1.0 + jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { open: Duration::from_secs(60) };
    const KINDS: [Kind; 4] = [Kind::Realtime, Kind::Open, Kind::Closed, Kind::Unversioned];

    #[test]
    fn a_minute_is_50_to_70_seconds_and_realtime_one() {
        let soft = |kind, random| POLICY.ends(kind, 1_000, random).soft_ms - 1_000;
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(|random| soft(Kind::Open, random)), [50_000, 60_000, 70_000, 70_000]);
        assert_eq!([0.0, 1.0].map(|random| soft(Kind::Closed, random)), [3_000_000, 4_200_000]);
        assert_eq!(soft(Kind::Realtime, 0.9), 1_000);
        assert_eq!(POLICY.ends(Kind::Open, 0, 0.5).shared_ms(), 2_400_000);
    }

    #[test]
    fn ends_are_in_order_and_nothing_is_kept_longer_than_a_day() {
        for kind in KINDS {
            for random in [0.0, 0.5, 1.0] {
                let ends = POLICY.ends(kind, 0, random);
                assert!(ends.soft_ms <= ends.hard_ms && ends.hard_ms <= ends.keep_ms, "{kind:?} {ends:?}");
                assert!(ends.keep_ms <= i64::from(DAY) * 1_000, "{kind:?} {ends:?}");
                assert!((ends.hard_ms..=ends.keep_ms).contains(&ends.shared_ms()), "{kind:?} {ends:?}");
            }
        }
    }

    #[test]
    fn a_thousand_answers_of_one_second_end_over_twenty() {
        use rand::{RngExt, SeedableRng};
        for kind in [Kind::Open, Kind::Closed, Kind::Unversioned] {
            let mut random = rand::rngs::StdRng::seed_from_u64(7);
            let ends = (0..1_000).map(|computed_ms| POLICY.ends(kind, computed_ms, random.random::<f64>()));
            let (soft, hard): (Vec<_>, Vec<_>) = ends.map(|ends| (ends.soft_ms, ends.hard_ms)).unzip();
            for ends in [soft, hard] {
                let spread = ends.iter().max().unwrap() - ends.iter().min().unwrap();
                assert!(spread >= 20_000, "{kind:?}: {spread} ms");
                // No second of them holds a stampede.
                let first = ends.iter().min().unwrap();
                let mut per_second = std::collections::BTreeMap::<i64, u32>::new();
                ends.iter().for_each(|end| *per_second.entry((end - first) / 1_000).or_default() += 1);
                assert!(per_second.values().all(|count| *count < 100), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_reader_without_versions_trusts_no_answer_for_long() {
        let ends = POLICY.ends(Kind::Closed, 0, 0.5);
        let seen = POLICY.unversioned(ends, 0);
        assert_eq!((seen.soft_ms, seen.hard_ms, seen.keep_ms), (60_000, 600_000, ends.keep_ms));
        let short = POLICY.ends(Kind::Realtime, 0, 0.5);
        assert_eq!(POLICY.unversioned(short, 0), short);
    }

    #[test]
    fn kinds_follow_the_range_and_what_is_known() {
        let known = DaysStamp::Known { epoch: 0, sum: 1 };
        assert_eq!(kind(true, true, known), Kind::Realtime);
        assert_eq!(kind(false, true, DaysStamp::Unknown), Kind::Open);
        assert_eq!(kind(false, false, known), Kind::Closed);
        assert_eq!(kind(false, false, DaysStamp::Unknown), Kind::Unversioned);
    }
}
