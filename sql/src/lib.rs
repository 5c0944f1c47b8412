//! The structure of the database, and the client for it.
//!
//! `migrations/` holds the tables and views; [`runner`] applies them, one process at a time ([`lock`]). [`native`] and [`insert`] write rows,
//! [`error`] classifies failures.
#![warn(missing_docs)]

pub mod all_shards;
pub mod connection;
mod deadline;
pub mod durability;
pub mod erasure;
pub mod error;
mod failover;
mod hexadecimal;
pub mod insert;
pub mod lock;
pub mod migrations;
pub mod native;
mod person_dead_letters;
pub mod person_export;
pub mod preconditions;
mod redacted;
pub mod rehearsal;
pub mod rollups;
pub mod runner;
pub mod shards;
pub mod suppression_acks;
pub mod tiers;
pub mod vitals;

pub use all_shards::{AllShards, ShardsError};
pub use clickhouse;
pub use connection::{Connection, DATABASE};
pub use deadline::within;
pub use error::{Class, Fault, StoreError};
pub use hexadecimal::{hex, unhex};
pub use shards::Shards;
