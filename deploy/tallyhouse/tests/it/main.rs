//! Tests against a real ClickHouse, Redis and Kafka, in one binary so that they share them. A file is a topic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod access;
mod accounts;
mod backfill;
mod backup;
mod cage;
mod chaos;
mod cluster;
mod commands;
mod cross_site;
mod dashboard_day;
mod dedup_log;
mod drill;
mod engine;
mod engine_attacks;
mod faults;
mod feed_again;
mod first_start;
mod flights;
mod freshness;
mod installation;
mod isolation;
mod kills;
mod metrics;
mod native_packets;
mod outage;
mod regions;
mod rolling;
mod run_script;
mod schemas;
mod siege;
mod sql_functions;
mod tls;
mod views;
mod watch;
