//! Tests against a real ClickHouse, Redis and Kafka, in one binary so that they share them. A file is a topic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod support;

mod access;
mod accuracy;
mod anomalies;
mod backfill;
mod bodies;
mod brokers;
mod cache_fleet;
mod cache_life;
mod cache_proof;
mod cache_rebuild;
mod chaos;
mod commands;
mod dashboard_day;
mod dead_letters;
mod dedup_log;
mod engine;
mod equality;
mod event_types;
mod export;
mod export_times;
mod feed_again;
mod flights;
mod freshness;
mod guard;
mod ingest;
mod ingest_service;
mod journeys;
mod kafka;
mod kafka_faults;
mod kafka_log;
mod kills;
mod live;
mod local_log;
mod meta;
mod migrations;
mod newest_event;
mod odd_bodies;
mod odd_events;
mod other_groups;
mod outage;
mod poison;
mod poison_limits;
mod query;
mod query_admission;
mod query_answers;
mod query_cache;
mod query_service;
mod query_structured;
mod registry;
mod rollups;
mod sql_api;
mod sql_escapes;
mod sql_values;
mod store_away;
mod touched;
mod values;
mod warnings;
