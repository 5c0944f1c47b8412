//! Shared by integration tests: one ClickHouse for all tests of a process, Redis and Kafka, both services inside the test
//! process, and what breaks the connections between them.
//!
//! In the shared ClickHouse a test is alone in a project of its own name. Only what kills or misconfigures a ClickHouse
//! starts another.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test"
)]

mod analysts;
mod clickhouse;
mod fixtures;
mod folder;
mod identity_provider;
pub mod ingest_service;
mod kafka;
mod ports;
pub mod programs;
/// Spellings that are no project's name, and some that are. Tests of every place that takes a name go through all of them.
pub mod project_names;
pub mod proxy;
pub mod query_service;
mod redis;
mod redis_fleet;
mod route_table;
mod s3;
pub mod secure;
mod shards;
mod skip;
mod small_disk;
mod wait;

pub use tallyhouse_loadtest::collector;

pub use clickhouse::{
    GRAFANA_PROJECT, SharedClickHouse, ask, engine, engine_in, execute, options, remove_replaced_files_soon, shared,
};
pub use fixtures::{a_day, insert_events, new_project, ten_days_ago, unheld};
pub use folder::{Folder, files_with};
pub use identity_provider::IdentityProvider;
pub use kafka::{brokers, is_kafka_off, kafka_or_skip};
pub use ports::free_ports;
pub use redis::Redis;
pub use redis_fleet::{RedisCluster, RedisSentinels};
pub use route_table::route_table;
pub use s3::S3;
pub use shards::{ANALYSTS, CLUSTER, ShardEngines, recorded_number, two_shards};
pub use skip::skipped;
pub use small_disk::SmallDisk;
pub use wait::eventually;
