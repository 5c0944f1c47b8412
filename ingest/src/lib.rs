//! The write path.
//!
//! ```text
//! HTTP -> authenticate -> admit -> decode -> normalise -> limit -+-> dedup -> local log -+-> worker: batch -> intent -> insert(token)
//!                                                                '-> Kafka -------------'    (of Kafka: dedup first)
//! ```
//!
//! [`pipeline`] spells what happens to a request, [`delivery`] where its events go: into the log on this machine ([`direct`],
//! [`log::local`]) or into Kafka ([`kafka`]). [`worker`] stores what a log has, of whichever kind. `run` puts them together;
//! `.ci/layers.txt` says which module may use which.

pub mod ack;
pub mod admit;
pub mod agent;
pub mod answer;
pub mod batch;
pub mod body;
pub mod cardinality;
pub mod changed_days;
mod clickhouse_vitals;
pub mod config;
pub mod dead_letters;
pub mod decode;
pub mod dedup_warm_up;
pub mod delivery;
mod dependencies;
pub mod direct;
pub mod event_key;
pub mod http;
pub mod intent;
pub mod journal;
pub mod kafka;
pub mod limits;
pub mod log;
mod permits;
pub mod pipeline;
pub mod placement;
pub mod poison;
pub mod projects;
pub mod request;
mod run;
pub mod shard_writers;
pub mod store;
mod suppression_acks;
pub mod telemetry;
pub mod unclean_shutdown;
pub mod window;
pub mod worker;

pub use run::{Deps, Ingest, RunError};
