//! The one place that opens connections to Redis, whatever form Redis has.
//!
//! ```text
//! REDIS_URL -> RedisUrl -> Pool        connections for commands: the master, or all nodes of a cluster
//!                       -> Subscriber  a connection of its own for messages
//! ```
//!
//! * `redis://[user:password@]host[:port][/db]`, `rediss://…` with TLS: one server.
//! * `redis+sentinel://[user:password@]host[:port],…/master[/db]`, `rediss+sentinel://…`: the master of that name, which the
//!   Sentinels are asked for. `?sentinel_user=…&sentinel_password=…` where Sentinels want credentials of their own.
//! * `redis+cluster://[user:password@]host[:port],…`, `rediss+cluster://…`: a Redis Cluster; some of its nodes.
//!
//! A script or a transaction touches keys of one slot only, so names of keys that belong together have the same text in braces. A pipeline
//! that is no transaction may name keys of several slots: it is sent in pieces to a cluster.
//!
//! Failure cases:
//! * the master fails over: Sentinel closes the connections to the old one when it can reach it. A connection to a server that became a
//!   replica answers `READONLY` and is closed; the next one asks the Sentinels. A cluster redirects;
//! * the old master is cut off and takes writes meanwhile: what it took is lost. Whoever relies on counters compares the name of the
//!   server's run (`query-api/src/cache/versions/read.rs`);
//! * a connection takes longer than its caller waits: it is opened beside, and the next caller has it.

pub use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value, aio, cmd, pipe};

mod connection;
mod pool;
mod subscriber;
mod url;

pub use connection::Connection;
pub use pool::{OpenError, Pool, Unavailable};
pub use subscriber::{SubscribeError, Subscriber};
pub use url::{BadRedisUrl, RedisUrl};
