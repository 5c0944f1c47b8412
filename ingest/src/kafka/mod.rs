//! Ingestion through Kafka: an event is acknowledged when the log has it (the disk, while Kafka is away), and counted when a consumer has
//! stored it.
//!
//! ```text
//! gateway    event -> record (schema::wire) -> partition of its id -> produce (acks = all, idempotent) -> acknowledged
//! consumer   record -> worker of its partition -> kept | duplicate | replayed | dead letter -> batch
//!            -> commit intent -> insert(token) -> commit progress
//! ```
//!
//! Kafka keeps every acknowledged event at least once. It is counted exactly once because of three things:
//!
//! * **Copies meet.** A record's partition is a function of (project, event id) alone ([`crate::placement`]), so whoever repeats an
//!   event - a client, a gateway, its local log - repeats it into the same partition, in front of the same window of known ids.
//! * **A range is written down before it is inserted.** The *intent* ([`crate::intent`]) is the metadata of an offset commit: "from here
//!   to `last`, without these offsets". It makes the content of a batch a function of the log alone. Whoever comes to a
//!   partition that has one re-reads exactly that range and inserts exactly these rows under the same token, which
//!   ClickHouse counts once however often they arrive. So a batch may end at any moment, also for reasons of time.
//! * **Only the owner writes.** The commit of the intent is fenced by the group: who lost the partition fails there, before
//!   the insert. The intent is committed again before each further attempt.
//!
//! Failure cases, and where they are dealt with:
//!
//! * a consumer dies between intent and insert, or between insert and progress: the intent is replayed (`worker`);
//! * a partition is revoked while an insert runs: the rebalance waits for it, a bounded time; then the worker may commit
//!   nothing more and the next owner replays (`consumer`, `ownership`);
//! * ClickHouse is away: workers keep their batch and try again, their partitions are paused, polling goes on, so that the group
//!   stays as it is (`consumer`);
//! * a record cannot be read: dead letter, durable before the range is committed; the worker goes on (`worker`);
//! * the topic was deleted and made anew, so offsets start over: tokens carry a checksum of the records, so new ones are not
//!   taken for old ones (`worker::batch`);
//! * the broker is away or slow: the gateway's records go to its local log, or are handed back (`gateway`, `fallback`);
//! * it takes nothing for one topic, or refuses a record: that waits beside the log, and the others go on (`held`).
//!
//! What remains: a batch whose insert was applied, but whose progress was never committed, must be replayed before other inserts
//! push its token out of ClickHouse's window (20,000 parts). A partition without an owner for that long, while others are
//! being inserted, would need `tallyhouse rollups verify`; the age of a replayed intent is logged and measured.

pub mod addressed;
mod assignment;
pub mod config;
pub mod consumer;
pub mod delivery;
pub mod delivery_result;
pub mod fallback;
pub mod gateway;
pub mod held;
mod lag;
pub mod ownership;
pub mod parts;
pub mod pins;
pub mod positions;
pub mod probe;
pub mod progress;
mod reachable;
pub mod records;
pub mod run;
pub mod settings;
pub mod topics;
