//! Batches: filled column by column as events arrive, closed by rows, bytes or age, never changed afterwards.

mod builder;
mod ids;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tallyhouse_service::day_versions::Touched;
use tokio::sync::watch;

pub use builder::{Builder, Encoded, Source};
pub use ids::{EventKey, KeyHasher, KeyMap};
pub(crate) use ids::{Identity, NumberSet};

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Not known yet.
    Pending,
    /// On this machine's disk, synced, and on its way: durable, not shown yet.
    Sealed,
    /// In `events` and in every rollup.
    Stored,
    /// The same but for these rows, which ClickHouse refuses for good, with the number of its error: they are dead letters.
    StoredWithout(Arc<BTreeMap<usize, u32>>),
    /// Not taken, and no attempt was made to store it: sending its events again is safe and needed.
    HandedBack,
}

/// Waits for a batch. Cheap to clone.
pub type Ticket = watch::Receiver<Outcome>;

/// What requests wait for, and what is known of a batch until it is stored.
#[derive(Debug)]
pub struct Promise {
    /// Its place in the order of this process's batches.
    pub sequence: u64,
    /// The ids in it that a later event may repeat.
    pub keys: Vec<EventKey>,
    /// Tells the waiting requests.
    pub outcome: watch::Sender<Outcome>,
}

/// A closed batch: the bytes that every attempt sends, and the token that makes attempts one.
#[derive(Debug)]
pub struct Batch {
    /// What its requests wait for.
    pub promise: Promise,
    /// `instance-ulid`; never used for other bytes.
    pub token: String,
    /// Events in it.
    pub rows: usize,
    /// One Native block.
    pub chunks: Vec<Bytes>,
    /// The days that its events fall on.
    pub days: Vec<Touched>,
}
