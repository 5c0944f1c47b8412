//! How long an answer is cached: the policy as one table, and pure functions over it.
//!
//! ```text
//! read ---- given ---- ahead ---- given, and one refresh ---- end ---- only while ClickHouse cannot answer ---- keep
//! ```
//!
//! Times count from when the data was read, not from when the answer was ready. Reading an answer, or passing it on through Redis,
//! never moves them: a popular answer does not grow old. After its end an answer is computed again, and a crowd waits for that one query.

use std::time::Duration;

use super::stamp::DaysStamp;

/// What kind of answer it is, as far as its time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The last minutes.
    Realtime,
    /// The range holds the current UTC hour, which changes all the time.
    Open,
    /// All hours are over, and their versions are known: only an insert can make the answer wrong, and then its stamp
    /// is no longer asked for.
    Closed,
    /// All hours are over, but nobody knows whether they were written to since.
    Unversioned,
}

/// How long a part of an answer lives; the caller knows whether its hours are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its hours are over.
    Closed,
    /// It touches the current hour.
    Open,
}

/// A row of the table, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    ttl: u32,
    keep: u32,
    jitter: f64,
}

/// A part of the time, up and down: 60 s become 50 to 70, an hour 50 to 70 minutes. Answers that were computed together
/// do not end together.
const SIXTH: f64 = 1.0 / 6.0;

const DAY: u32 = 86_400;

impl Kind {
    /// The table. `ttl` bounds how old an answer can be; `keep` how old one may be that is given because ClickHouse is away.
    const fn row(self) -> Row {
        match self {
            // Asked for once a second by few, so there is nothing to spread. After ten minutes it is not given any more.
            Self::Realtime => Row { ttl: 1, keep: 600, jitter: 0.0 },
            Self::Open | Self::Unversioned => Row { ttl: 60, keep: DAY, jitter: SIXTH },
            // Its stamp makes it right; the end only bounds the harm of a version that was lost.
            Self::Closed => Row { ttl: 3_600, keep: DAY, jitter: SIXTH },
        }
    }
}

/// The last part of its time, in which whoever asks for an answer has it refreshed: long enough that somebody asks who looks four
/// times a minute.
const LAST_PART: f64 = 0.25;

impl Life {
    const fn row(self) -> Row {
        match self {
            Self::Closed => Row { ttl: 3_600, keep: 3_600, jitter: SIXTH },
            // An answer that is stitched from it ends as if it had been read as a whole when this part was: long enough for the panels
            // of one dashboard to share it, short against the 60 s of the answer.
            Self::Open => Row { ttl: 10, keep: 10, jitter: SIXTH },
        }
    }

    /// How long a part lives, of answers of this policy. `random` is from 0 to 1. One that may still change is never so old that an
    /// answer made of it has hardly any time left.
    pub fn duration(self, policy: &Policy, random: f64) -> Duration {
        let row = self.row();
        let most = match self {
            Self::Closed => Duration::MAX,
            Self::Open => policy.open.mul_f64(SIXTH),
        };
        seconds(row.ttl).min(most).mul_f64(spread(row.jitter, random))
    }
}

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The time of an answer that reaches until now, or that nobody vouches for.
    pub open: Duration,
}

/// When an answer ends, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// From here whoever asks has it refreshed.
    pub ahead_ms: i64,
    /// From here it is computed anew.
    pub end_ms: i64,
    /// Until here it is better than nothing.
    pub keep_ms: i64,
}

/// How much longer than it is given out an answer is kept for other instances.
const SHARED_BEYOND_MS: i64 = 1_800_000;

impl Ends {
    /// Until when other instances may want it. Not as long as it is kept in the process: it would fill the Redis that also holds
    /// versions and locks.
    pub fn shared_ms(&self) -> i64 {
        self.keep_ms.min(self.end_ms.saturating_add(SHARED_BEYOND_MS))
    }
}

impl Policy {
    /// The ends of an answer whose data was read then. `random` is from 0 to 1.
    pub fn ends(&self, kind: Kind, read_ms: i64, random: f64) -> Ends {
        let row = kind.row();
        let ttl = match kind {
            Kind::Open | Kind::Unversioned => self.open,
            Kind::Realtime | Kind::Closed => seconds(row.ttl),
        };
        let ttl = ttl.mul_f64(spread(row.jitter, random));
        let after = |time: Duration| read_ms.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let end_ms = after(ttl);
        Ends { ahead_ms: after(ttl.mul_f64(1.0 - LAST_PART)), end_ms, keep_ms: after(seconds(row.keep)).max(end_ms) }
    }

    /// The ends for a reader to whom nobody can say whether the days were written to since: no later than those of an
    /// answer without versions.
    pub fn unversioned(&self, ends: Ends, computed_ms: i64) -> Ends {
        let cap = self.ends(Kind::Unversioned, computed_ms, 0.5);
        Ends { ahead_ms: ends.ahead_ms.min(cap.ahead_ms), end_ms: ends.end_ms.min(cap.end_ms), keep_ms: ends.keep_ms }
    }
}

/// The kind of an answer to a plan that touches `now`, or does not.
pub fn kind(is_realtime: bool, touches_now: bool, days: DaysStamp) -> Kind {
    match (is_realtime, touches_now, days) {
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
        let ttl = |kind, random| POLICY.ends(kind, 1_000, random).end_ms - 1_000;
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(|random| ttl(Kind::Open, random)), [50_000, 60_000, 70_000, 70_000]);
        assert_eq!([0.0, 0.5, 1.0].map(|random| ttl(Kind::Unversioned, random)), [50_000, 60_000, 70_000]);
        assert_eq!([0.0, 1.0].map(|random| ttl(Kind::Closed, random)), [3_000_000, 4_200_000]);
        assert_eq!(ttl(Kind::Realtime, 0.9), 1_000);
        assert_eq!(POLICY.ends(Kind::Open, 0, 0.5).shared_ms(), 60_000 + SHARED_BEYOND_MS);
    }

    #[test]
    fn ends_are_in_order_and_nothing_is_kept_longer_than_a_day() {
        for kind in KINDS {
            for random in [0.0, 0.5, 1.0] {
                let ends = POLICY.ends(kind, 0, random);
                assert!(ends.ahead_ms < ends.end_ms && ends.end_ms <= ends.keep_ms, "{kind:?} {ends:?}");
                assert!(ends.keep_ms <= i64::from(DAY) * 1_000, "{kind:?} {ends:?}");
                assert!((ends.end_ms..=ends.keep_ms).contains(&ends.shared_ms()), "{kind:?} {ends:?}");
            }
        }
    }

    #[test]
    fn a_thousand_answers_of_one_second_end_over_twenty() {
        use rand::{RngExt, SeedableRng};
        for kind in [Kind::Open, Kind::Closed, Kind::Unversioned] {
            let mut random = rand::rngs::StdRng::seed_from_u64(7);
            let ends = (0..1_000).map(|read_ms| POLICY.ends(kind, read_ms, random.random::<f64>()));
            let (ahead, end): (Vec<_>, Vec<_>) = ends.map(|ends| (ends.ahead_ms, ends.end_ms)).unzip();
            for (ends, least) in [(ahead, 15_000), (end, 20_000)] {
                let spread = ends.iter().max().unwrap() - ends.iter().min().unwrap();
                assert!(spread >= least, "{kind:?}: {spread} ms");
                // No second of them holds a stampede.
                let first = ends.iter().min().unwrap();
                let mut per_second = std::collections::BTreeMap::<i64, u32>::new();
                ends.iter().for_each(|end| *per_second.entry((end - first) / 1_000).or_default() += 1);
                assert!(per_second.values().all(|count| *count < 120), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_reader_without_versions_trusts_no_answer_for_long() {
        let ends = POLICY.ends(Kind::Closed, 0, 0.5);
        let seen = POLICY.unversioned(ends, 0);
        assert_eq!((seen.ahead_ms, seen.end_ms, seen.keep_ms), (45_000, 60_000, ends.keep_ms));
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
