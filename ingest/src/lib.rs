//! The write path.
//!
//! ```text
//! HTTP -> authenticate -> admit -> decode -> normalise -> dedup -> batch -> journal -> insert(token) -> acknowledge
//! ```
//!
//! [`pipeline`] spells what happens to a request, [`inserter`] what happens to a batch, [`intake`] is where the two meet.
//! An acknowledged event is in ClickHouse and in every rollup; [`journal`] tells how that survives a `kill -9`.
#![warn(missing_docs)]

pub mod admit;
pub mod agent;
pub mod batch;
pub mod config;
pub mod dead_letters;
pub mod direct;
pub mod guard;
pub mod http;
pub mod inserter;
pub mod intake;
pub mod kafka;
pub mod known;
pub mod metrics;
pub mod pipeline;
pub mod projects;
pub mod recover;
mod run;
pub mod spool;
pub mod store;
pub mod touched;
pub mod way;
pub mod window;

pub use run::{Deps, Ingest, RunError};
