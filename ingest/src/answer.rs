//! The answer to a request whose events were accepted, wholly or in part.

use tallyhouse_schema::limits::MAX_ANSWER_WARNINGS;
use tallyhouse_schema::{Rejection, Warning, Warnings};
use tallyhouse_service::rate_limit::{Refused, Standing};

use crate::request::Wait;

/// What became of a request's events; every one is durable by now (stored, for `?wait=stored`), a
/// duplicate, or rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the request waited for.
    pub wait: Wait,
    /// The body was one event.
    pub is_single: bool,
    /// The id of that event.
    pub event_id: String,
    /// New events.
    pub accepted: usize,
    /// Events that were counted before.
    pub duplicates: usize,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
    /// Events of people who refused consent.
    pub dropped: Vec<Dropped>,
    /// What was changed or not understood in the others.
    pub warned: Warned,
    /// How the key stands with its limit.
    pub standing: Option<Standing>,
    /// Why events are refused that came beyond it.
    pub refused: Option<Refused>,
}

/// A refused event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its place in the body, from 0.
    pub index: usize,
    /// Its id, when it had a readable one.
    pub event_id: Option<String>,
    pub rejection: Rejection,
}

/// An event of which nothing is kept, because its person refused consent. No error: its sender has nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its place in the body, from 0.
    pub index: usize,
    /// Its id, when it had a readable one.
    pub event_id: Option<String>,
}

/// The warnings of an answer. Duplicates have theirs too: a retry gets the warnings of the first attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warned {
    /// At most [`MAX_ANSWER_WARNINGS`].
    pub listed: Vec<EventWarning>,
    /// How many more there were.
    pub omitted: usize,
}

/// A warning about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventWarning {
    /// Its place in the body, from 0.
    pub index: usize,
    /// Its id.
    pub event_id: String,
    /// What was changed or not understood.
    pub warning: Warning,
}

impl Warned {
    /// Adds those of the event at `index`; an answer lists [`MAX_ANSWER_WARNINGS`].
    pub fn add(&mut self, index: usize, event_id: &str, warnings: Warnings) {
        let (mut kept, omitted) = warnings.into_parts();
        let room = MAX_ANSWER_WARNINGS.saturating_sub(self.listed.len());
        self.omitted += omitted + kept.len().saturating_sub(room);
        kept.truncate(room);
        let warned = |warning| EventWarning { index, event_id: event_id.to_owned(), warning };
        self.listed.extend(kept.into_iter().map(warned));
    }

    /// Takes back those of an event that was refused after all.
    pub fn forget(&mut self, index: usize) {
        self.listed.retain(|warned| warned.index != index);
    }
}

impl Reply {
    /// Whether nothing of the request is durable: its sender must not read a 2xx. Duplicates are, by their first copies.
    pub fn is_all_rejected(&self) -> bool {
        !self.rejected.is_empty() && self.accepted + self.duplicates == 0
    }
}
