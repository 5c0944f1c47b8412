//! The cache of answers: in this process, and in Redis when there is one.
//!
//! ```text
//! version stamp -> key -> memory -> single flight -> Redis -> lock over the fleet -> compute
//! ```
//!
//! * Correct: a cached answer holds the version stamp of the data that it was computed from, and is given only for that stamp.
//!   Ingesters raise the versions of the days and hours that they store events of, so a late event shows at once. Further late events
//!   appear at most every 500 ms, because each costs an answer. Ingesters also prove by heartbeats that they have raised all versions
//!   ([`heartbeats`]). Without that proof versions are unknown, and answers live for a short time.
//! * Fast: in the last part of its time an answer is given while one refresh runs. After its time it is given only while
//!   ClickHouse cannot answer.
//! * One query for a crowd: the process shares computations, and the fleet does by a lock with a fencing token.
//! * Tenants apart: the key holds the project. Errors are never cached.
//! * Redis is optional: any failure of it counts as a miss and costs an answer one short wait. While ClickHouse is away, older
//!   answers are given, and marked as stale.
//!
//! [`ttl`] is the policy. [`versions`] reads version stamps. [`redis_time_budget`] bounds how long an answer waits for Redis.
//! [`lock`] is the lock over the fleet. [`answers`] leads through all layers. [`parts`] caches pieces of answers, and
//! [`in_flight`] computes each of them once.

pub mod all;
pub mod answers;
pub mod cache_request;
mod clear_counts;
pub mod compressed;
mod compute;
mod day_version_table;
pub mod entry;
pub mod fresh;
pub mod heartbeats;
pub mod hot_keys;
pub mod in_flight;
pub mod key;
pub mod lock;
pub mod memory;
pub mod parts;
mod redis_client;
mod redis_memory;
pub mod redis_time_budget;
pub(crate) mod refusals;
pub mod rendered;
pub mod shared;
#[cfg(test)]
mod simulated;
pub mod single_flight;
pub mod stamp;
pub mod status;
pub mod time_span;
pub mod ttl;
pub mod versions;
pub mod warm;

pub use all::Cache;
pub use answers::Answers;
pub use cache_request::CacheRequest;
pub use entry::{CachedAnswer, Entry};
pub use key::{Key, PartKey};
pub use memory::Memory;
pub use parts::Parts;
pub use redis_time_budget::RedisTimeBudget;
pub use rendered::Rendered;
pub use shared::SharedCache;
pub use stamp::{DaysStamp, Generation, VersionStamp};
pub use status::{CacheStatus, StaleReason};
pub use ttl::Life;
pub use versions::Versions;
