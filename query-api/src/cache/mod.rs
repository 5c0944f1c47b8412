//! Answers are remembered: in this process, and in Redis when there is one.
//!
//! ```text
//! stamp of the days -> key -> memory -> flight of the process -> Redis -> flight of the fleet -> compute
//! ```
//!
//! * Right: an answer holds the stamp of the data that it was computed from, and is given only to who asks for that
//!   stamp. Whoever stores events raises the versions of their days and hours, so a late event shows at once, and the next ones of a trickle
//!   within half a second: each costs an answer. Who stores also vouches that all of it was told ([`heartbeats`]); while nobody does, versions
//!   are unknown, and answers live by a short time.
//! * Quick: in the last part of its time an answer is given while one refresh runs; beyond it nobody is given it, unless ClickHouse cannot
//!   answer.
//! * One query for a crowd: computations are shared in the process, and over the fleet by a lock with a fencing token.
//! * Tenants apart: the key holds the project. Errors are never remembered.
//! * Redis is a help, never a need: whatever is wrong with it counts as "not there" and costs an answer one short wait. ClickHouse
//!   away means older answers, marked.
//!
//! [`ttl`] is the policy, [`versions`] tells stamps, [`heartbeats`] whether they can be believed, [`redis_time_budget`] is how long an answer waits for Redis, [`lock`] is the flight of the
//! fleet, [`answers`] the way through all layers, [`parts`] a second kind of value for pieces of answers, which
//! [`in_flight`] computes once for all who need them.

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
