//! The durable log in front of ClickHouse: an event is acknowledged when the log has it, and counted when it was read from there.
//!
//! ```text
//! request -> append -> acknowledged
//!              '-> partition worker: read -> batch -> intent (synced) -> insert(range token) -> commit
//! ```
//!
//! There are two kinds: Apache Kafka ([`crate::kafka`]), and segment files on this machine ([`local`]), which also take what Kafka does
//! not take while it is away. Records, batches, intents and commits are the same for both.
//!
//! An offset is the place of a record in its partition. It is never used for another record once it was acknowledged, or once an
//! intent names it.

pub mod local;
