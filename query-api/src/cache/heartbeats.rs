//! Heartbeats of the ingesters: whether the versions that were read are current. Pure.
//!
//! ```text
//! four times a second: one reading of the list of writers and of the identity of Redis
//! current while        the last reading is young, the list exists, and the beat of every writer has risen lately
//! else                 unknown, and answers live by their short time to live
//! ```
//!
//! An unchanged version proves "nothing was stored" only if the writer could have raised it. A writer sends a heartbeat after
//! publishing every change (`tallyhouse_service::changed_days`, which lists the failure cases). The clock is this process's own: the age
//! of a beat counts from when the first reading that saw it was sent. A change that cannot be published therefore makes versions
//! unknown within `LEASE` and one pause between readings, whatever the reason.
//!
//! * A writer that is seen for the first time is alive for one lease: this process has only just started.
//! * A silent writer stays a writer until it beats or is removed from the list: only its connection to Redis may be broken, and it may go on storing.
//! * A writer that is missing from the list of another Redis than before (`Reading::data`) did not sign off: versions stay unknown
//!   until it beats there, for `MOVES_WITHIN` at most.
//! * A writer that is silent for `OUTLIVES` is removed from the list: no answer from before its silence is left.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between two readings.
pub(super) const READ_EVERY: Duration = Duration::from_millis(250);

/// How long a beat proves that its writer is alive. Beats and readings come four times a second each; a pause of half a second in one
/// of them does no harm.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// How long writers may take to find a Redis that took the place of another.
const MOVES_WITHIN: Duration = Duration::from_secs(30);

/// Longer than two answers live, one made of parts of the other.
const OUTLIVES: Duration = Duration::from_secs(3 * 3_600);

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// Which data of which process of Redis it is of; part of every generation.
    pub(super) data: u64,
    /// The beats by writer; `None` when there is no list.
    pub(super) writers: Option<HashMap<String, u64>>,
}

/// Why versions are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownReason {
    /// Redis does not answer, or was never asked.
    NoAnswer,
    /// It has no list of writers: it is new, lost it, or knows older ingesters only.
    NoWriters,
    /// A writer sends no heartbeat.
    Silent,
}

impl UnknownReason {
    /// As in metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoWriters => "no_writers",
            Self::Silent => "silent_writer",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    number: u64,
    /// When the reading was sent that saw it first.
    at: Instant,
    place: Place,
}

/// Where a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On the list.
    Listed,
    /// Not on it: it left in order, or its Redis was replaced by another.
    Gone { moves: bool },
}

const MOVING: Place = Place::Gone { moves: true };

/// What is known of who writes.
#[derive(Debug, Default)]
pub(super) struct WriterHeartbeats {
    /// When the last reading was sent, and what it brought.
    last: Option<(Instant, u64)>,
    has_list: bool,
    beats: HashMap<String, Beat>,
}

impl WriterHeartbeats {
    /// Takes a reading; returns whether it is of another Redis than the one before.
    pub(super) fn took(&mut self, sent: Instant, reading: Reading) -> bool {
        let is_other = self.last.is_some_and(|(_, data)| data != reading.data);
        self.last = Some((sent, reading.data));
        self.has_list = reading.writers.is_some();
        self.beats.values_mut().for_each(|beat| beat.place = Place::Gone { moves: is_other || beat.place == MOVING });
        for (id, number) in reading.writers.unwrap_or_default() {
            let beat = self.beats.entry(id).or_insert(Beat { number, at: sent, place: Place::Listed });
            beat.place = Place::Listed;
            if number > beat.number {
                (beat.number, beat.at) = (number, sent);
            }
        }
        self.beats.retain(|_, beat| match beat.place {
            Place::Listed => true,
            Place::Gone { moves } => moves && sent.saturating_duration_since(beat.at) < MOVES_WITHIN,
        });
        is_other
    }

    /// Why versions are unknown now; `None` when they are current.
    pub(super) fn unknown_reason(&self, now: Instant) -> Option<UnknownReason> {
        let is_young = |at: Instant| now.saturating_duration_since(at) < LEASE;
        if !self.last.is_some_and(|(sent, _)| is_young(sent)) {
            return Some(UnknownReason::NoAnswer);
        }
        if !self.has_list {
            return Some(UnknownReason::NoWriters);
        }
        self.beats.values().any(|beat| !is_young(beat.at)).then_some(UnknownReason::Silent)
    }

    /// Whether anything was ever read.
    pub(super) fn is_known(&self) -> bool {
        self.last.is_some()
    }

    /// Writers that are silent.
    pub(super) fn silent(&self, now: Instant) -> Vec<String> {
        self.silent_for(now, LEASE)
    }

    /// Writers that are to be taken off the list.
    pub(super) fn outlived(&self, now: Instant) -> Vec<String> {
        self.silent_for(now, OUTLIVES)
    }

    fn silent_for(&self, now: Instant, time: Duration) -> Vec<String> {
        let is_silent = |beat: &Beat| now.saturating_duration_since(beat.at) >= time;
        self.beats.iter().filter(|(_, beat)| is_silent(beat)).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clocked {
        heartbeats: WriterHeartbeats,
        began: Instant,
    }

    impl Clocked {
        fn new() -> Self {
            Self { heartbeats: WriterHeartbeats::default(), began: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.began + Duration::from_millis(ms)
        }

        fn read(&mut self, ms: u64, data: u64, writers: &[(&str, u64)]) -> Option<UnknownReason> {
            let writers = Some(writers.iter().map(|(id, beat)| ((*id).to_owned(), *beat)).collect());
            self.heartbeats.took(self.at(ms), Reading { data, writers });
            self.unknown_reason(ms)
        }

        fn unknown_reason(&self, ms: u64) -> Option<UnknownReason> {
            self.heartbeats.unknown_reason(self.at(ms))
        }
    }

    #[test]
    fn versions_are_current_while_every_writer_beats() {
        let mut all = Clocked::new();
        assert_eq!(all.unknown_reason(0), Some(UnknownReason::NoAnswer));
        assert_eq!(all.read(0, 1, &[("a", 1), ("b", 7)]), None, "both have just been seen");
        assert_eq!(all.read(250, 1, &[("a", 2), ("b", 8)]), None);
        // One can no longer write.
        assert_eq!(all.read(1_000, 1, &[("a", 5), ("b", 8)]), None);
        assert_eq!(all.read(1_250, 1, &[("a", 6), ("b", 8)]), Some(UnknownReason::Silent));
        assert_eq!(all.heartbeats.silent(all.at(1_250)), ["b"]);
        assert_eq!(all.read(9_000, 1, &[("a", 6), ("b", 8)]), Some(UnknownReason::Silent));
        assert_eq!(all.read(9_250, 1, &[("a", 37), ("b", 9)]), None);
        assert_eq!(all.unknown_reason(10_250), Some(UnknownReason::NoAnswer), "Redis hangs");
        // It goes on, with what it held.
        assert_eq!(all.read(20_000, 1, &[("a", 37), ("b", 9)]), Some(UnknownReason::Silent));
        assert_eq!(all.read(20_250, 1, &[("a", 38), ("b", 10)]), None);
    }

    #[test]
    fn who_leaves_in_order_is_not_waited_for_and_nobody_at_all_is_no_doubt() {
        let mut all = Clocked::new();
        assert_eq!(all.read(0, 1, &[("a", 1)]), None);
        assert_eq!(all.read(900, 1, &[]), None);
        assert_eq!(all.read(5_000, 1, &[]), None, "everybody stopped in order");
        all.heartbeats.took(all.at(5_250), Reading { data: 1, writers: None });
        assert_eq!(all.unknown_reason(5_250), Some(UnknownReason::NoWriters));
    }

    #[test]
    fn another_redis_waits_for_the_writers_of_the_one_before_and_old_beats_are_none() {
        let mut all = Clocked::new();
        assert_eq!(all.read(0, 1, &[("a", 100), ("b", 100)]), None);
        assert_eq!(all.read(250, 1, &[("a", 101), ("b", 101)]), None);
        // An old snapshot.
        assert_eq!(all.read(2_000, 2, &[("a", 50), ("b", 50)]), Some(UnknownReason::Silent));
        assert_eq!(all.read(2_250, 2, &[("a", 109), ("b", 109)]), None);
        // An empty one, which one of them has found.
        assert_eq!(all.read(4_000, 3, &[("a", 117)]), Some(UnknownReason::Silent));
        assert_eq!(all.read(4_250, 3, &[("a", 118), ("b", 118)]), None);
    }

    #[test]
    fn who_is_silent_for_longer_than_answers_live_is_taken_off_the_list() {
        let mut all = Clocked::new();
        all.read(0, 1, &[("a", 1)]);
        let hours = 3_600_000;
        assert!(all.heartbeats.outlived(all.at(3 * hours - 1)).is_empty());
        assert_eq!(all.heartbeats.outlived(all.at(3 * hours)), ["a"]);
    }
}
