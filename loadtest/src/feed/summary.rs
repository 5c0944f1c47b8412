//! The summary of a feed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::client::Delivery;

/// Counts of a feed. `accepted + duplicates + rejected` is `sent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FeedSummary {
    /// Events sent, repeats counted.
    pub sent: u64,
    /// Events taken, as new ones.
    pub accepted: u64,
    /// Events that the server knew already.
    pub duplicates: u64,
    /// Events refused, by code.
    pub rejected: BTreeMap<String, u64>,
    /// Batches handed back with 429 or 503 before they were taken.
    pub handed_back: u64,
    /// Tries without an answer.
    pub unanswered: u64,
    /// How long it took.
    pub seconds: f64,
}

impl FeedSummary {
    /// Adds one delivered batch.
    pub fn add(&mut self, sent: usize, delivery: Delivery) {
        self.sent += sent as u64;
        self.accepted += delivery.accepted;
        self.duplicates += delivery.duplicates;
        self.handed_back += u64::from(delivery.handed_back);
        self.unanswered += u64::from(delivery.unanswered);
        for rejection in delivery.rejected {
            *self.rejected.entry(rejection.code).or_default() += 1;
        }
    }

    /// Both together; the time is that of the left.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.handed_back += other.handed_back;
        self.unanswered += other.unanswered;
        for (code, count) in other.rejected {
            *self.rejected.entry(code).or_default() += count;
        }
        self
    }

    /// Events refused, whatever the reason.
    pub fn refused(&self) -> u64 {
        self.rejected.values().sum()
    }
}

impl fmt::Display for FeedSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events sent in {:.1} s ({:.0} events/s): {} accepted, {} duplicates, {} rejected",
            self.sent,
            self.seconds,
            self.sent as f64 / self.seconds.max(f64::EPSILON),
            self.accepted,
            self.duplicates,
            self.refused(),
        )?;
        for (code, count) in &self.rejected {
            write!(f, "; {code}: {count}")?;
        }
        if self.handed_back + self.unanswered > 0 {
            write!(f, "; {} batches handed back and {} unanswered, sent again", self.handed_back, self.unanswered)?;
        }
        Ok(())
    }
}
