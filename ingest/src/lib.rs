//! The write path.
//!
//! ```text
//! HTTP -> authenticate -> admit -> decode -> normalise -> guard -+-> directly: dedup -> batch -> insert(token)
//!                                                                '-> Kafka -> lane: dedup -> batch -> intent -> insert(token)
//! ```
//!
//! [`pipeline`] spells what happens to a request, [`way`] where its events go. Directly: [`intake`] is where events of all requests
//! meet, [`inserter`] what happens to a batch. Through Kafka: [`kafka`]. What cannot go on waits on the disk: [`spool`].
#![warn(missing_docs)]

pub mod admit;
pub mod agent;
pub mod batch;
pub mod config;
pub mod dead_letters;
mod decode;
pub mod delivery;
pub mod direct;
pub mod guard;
pub mod http;
pub mod kafka;
pub mod known;
pub mod log;
pub mod marker;
pub mod metrics;
pub mod pipeline;
pub mod poison;
pub mod projects;
mod run;
pub mod spool;
pub mod store;
pub mod touched;
pub mod window;
pub mod worker;

pub use run::{Deps, Ingest, RunError};
