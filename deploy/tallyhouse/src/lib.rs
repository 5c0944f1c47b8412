//! Tallyhouse in one process: both services, and the ClickHouse that is started, supervised and stopped with them.
//!
//! [`up`] is the order of starting and stopping, [`store`] the same for ClickHouse alone. [`engine`] is the ClickHouse,
//! [`credentials`] its users' passwords.

pub mod accounts;
pub mod administration;
pub mod attach;
pub mod backfill;
pub mod backup;
pub mod config;
pub mod credentials;
pub mod data_folder;
pub mod dlq;
pub mod doctor;
pub mod engine;
pub mod erasures;
mod first_start;
pub mod invalidation;
pub mod migrate;
pub mod rollups;
pub mod schemas;
pub mod servers;
pub mod service_unit;
pub mod store;
pub mod tables;
pub mod telemetry;
pub mod up;
