//! Answers while a shard of a cluster is away: refused, or given of the shards that answer, and marked.
//!
//! ```text
//! all shards -> answered
//!            '-> one does not answer -> `refuse`: as when ClickHouse is away (stale answers, 503)
//!                                    '-> `answer`: those that answer -> marked `partial`, cached nowhere
//! ```
//!
//! ClickHouse does not say whether an answer is of all shards, so nothing is asked leniently before an answer of all has failed: what is not marked is
//! whole. For [`REMEMBERED`] after that, questions begin with those that answer, and are marked also when the shard has come back meanwhile.
//!
//! Failure cases: a server that hangs is like one that is away, when it does not greet within a second or says nothing about a question for some
//! ([`CLUSTER`]; one that works says ten times a second how far it is); the server that was asked goes away or hangs itself: the next attempt is on
//! another one, and one that it was asked on a connection that was open already ends with its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tallyhouse_service::clock::steady_ms;
use tallyhouse_sql::StoreError;

/// What is done while a shard is away: `QUERY_PARTIAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partial {
    /// Nothing is answered that is not whole.
    #[default]
    Refuse,
    /// Of the shards that answer, and marked.
    Answer,
}

impl std::str::FromStr for Partial {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "answer" => Ok(Self::Answer),
            _ => Err(()),
        }
    }
}

/// How long a shard counts as away.
const REMEMBERED: Duration = Duration::from_secs(2);

/// Settings of every question to a cluster. A subquery of a Distributed table is answered once, and sent to the shards.
const CLUSTER: [(&str, &str); 5] = [
    ("distributed_product_mode", "global"),
    ("handshake_timeout_ms", "1000"),
    ("receive_timeout", "4"),
    ("connections_with_failover_max_tries", "2"),
    ("skip_unavailable_shards_mode", "unavailable"),
];

/// And of one to those that answer.
const LENIENT: [(&str, &str); 6] =
    [CLUSTER[0], CLUSTER[1], CLUSTER[2], CLUSTER[3], CLUSTER[4], ("skip_unavailable_shards", "1")];

/// Which shards one attempt asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    ThoseThatAnswer,
}

impl Extent {
    /// The name of an attempt: ClickHouse may not have forgotten the one before.
    pub(super) fn query_id(self, id: &str) -> String {
        match self {
            Self::All => id.to_owned(),
            Self::ThoseThatAnswer => format!("{id}-partial"),
        }
    }
}

/// What whoever asks can do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// A part, when the whole cannot be had.
    PartIfNeeded,
    /// A part: the whole could not be had a moment ago.
    Part,
}

impl Wanted {
    pub(super) fn first(self) -> Extent {
        match self {
            Self::Whole | Self::PartIfNeeded => Extent::All,
            Self::Part => Extent::ThoseThatAnswer,
        }
    }
}

/// What is known of the shards. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Shards {
    is_cluster: bool,
    partial: Partial,
    /// When one was away last, by the steady clock.
    away_ms: Arc<AtomicI64>,
}

impl Shards {
    pub(super) fn one() -> Self {
        Self { is_cluster: false, partial: Partial::Refuse, away_ms: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    pub(super) fn of_cluster(partial: Partial) -> Self {
        Self { is_cluster: true, partial, ..Self::one() }
    }

    pub(super) fn wanted(&self) -> Wanted {
        if !self.is_cluster || self.partial == Partial::Refuse {
            return Wanted::Whole;
        }
        let since = steady_ms().saturating_sub(self.away_ms.load(Ordering::Relaxed));
        let is_remembered = u128::try_from(since).is_ok_and(|since| since < REMEMBERED.as_millis());
        if is_remembered { Wanted::Part } else { Wanted::PartIfNeeded }
    }

    pub(super) fn settings(&self, extent: Extent) -> &'static [(&'static str, &'static str)] {
        match (self.is_cluster, extent) {
            (false, _) => &[],
            (true, Extent::All) => &CLUSTER,
            (true, Extent::ThoseThatAnswer) => &LENIENT,
        }
    }

    /// Whether a failure is one that answers are given without: what the others answer says how ClickHouse is.
    pub(super) fn answers_without(&self, error: &StoreError) -> bool {
        self.is_cluster && self.partial == Partial::Answer && self.is_one_away(error)
    }

    /// Whether a failure says that a server is away, and not that ClickHouse refuses the question; remembers it.
    fn is_one_away(&self, error: &StoreError) -> bool {
        let is_away = match error {
            StoreError::Unreachable(_) => true,
            // ATTEMPT_TO_READ_AFTER_EOF, SOCKET_TIMEOUT, NETWORK_ERROR, ALL_CONNECTION_TRIES_FAILED
            StoreError::Refused { code, .. } => matches!(code, 32 | 209 | 210 | 279),
            StoreError::TimedOut | StoreError::Unintelligible(_) => false,
        };
        if is_away {
            self.away_ms.store(steady_ms(), Ordering::Relaxed);
        }
        is_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_taken_only_where_it_may_be_and_only_after_the_whole_failed() {
        let away = StoreError::Refused { code: 279, message: String::new() };
        let refusing = Shards::of_cluster(Partial::Refuse);
        assert!(refusing.is_one_away(&away));
        assert_eq!((refusing.wanted(), Shards::one().wanted()), (Wanted::Whole, Wanted::Whole));
        let answering = Shards::of_cluster(Partial::Answer);
        assert_eq!(answering.wanted().first(), Extent::All);
        assert!(!answering.is_one_away(&StoreError::Refused { code: 62, message: String::new() }));
        assert_eq!(answering.wanted(), Wanted::PartIfNeeded);
        assert!(answering.is_one_away(&away));
        assert_eq!(answering.wanted(), Wanted::Part);
        answering.away_ms.store(steady_ms() - 2_001, Ordering::Relaxed);
        assert_eq!(answering.wanted(), Wanted::PartIfNeeded);
    }
}
