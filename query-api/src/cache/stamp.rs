//! The version stamp: the state of the data that an answer was computed from. Two equal stamps of a plan mean equal answers.

/// What an answer was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionStamp {
    /// Raised by who clears the cache, an operator or an ingester that cannot say what changed; part of every key.
    pub generation: Generation,
    /// The versions of the days that were read.
    pub days: DaysStamp,
}

/// How often the cache was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Generation {
    /// As all instances see it.
    Fleet {
        /// Of the Redis that counts: one that came back empty, or with what it held a while ago, counts again what it has
        /// counted before, and must not be believed to be the one before.
        incarnation: u64,
        /// Times that everything was cleared.
        all: u64,
        /// Times that the project was cleared.
        project: u64,
    },
    /// As this process alone counts. Nothing under it is shared.
    Process {
        /// Times that everything was cleared.
        all: u64,
        /// Times that the project was cleared.
        project: u64,
    },
}

impl Generation {
    /// Whether other instances mean the same by it.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Fleet { .. })
    }
}

/// The versions of closed days, as one figure. Days that are still open are not in it: answers about them live by their
/// short time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DaysStamp {
    /// Another whenever one of the days was written to.
    Known {
        /// Of the process that counts; in a fleet, of the project's hash.
        epoch: u64,
        /// The sum of the versions. Each only rises, so the sum changes with each.
        sum: u64,
    },
    /// Nobody could say. Such an answer has a short time only.
    Unknown,
}

/// What the data was when somebody could last say, while nobody can. An answer from it was right then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// The versions of the days that the answer reads.
    pub days: DaysStamp,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
}
