//! The write path against a real ClickHouse, Redis and Kafka, in one binary so that its tests share them. A file is a topic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod access;
mod brokers;
mod cardinality;
mod changed_days;
mod cluster;
mod dead_letters;
mod ingest;
mod kafka;
mod kafka_faults;
mod kafka_log;
mod local_log;
mod odd_bodies;
mod odd_events;
mod one_client;
mod poison;
mod poison_limits;
mod rate_limits;
mod schemas;
mod store_away;
mod traces;
mod values;
mod warnings;
