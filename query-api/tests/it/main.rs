//! The read path against a real ClickHouse and Redis, in one binary so that its tests share them. One file per topic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod access;
mod accuracy;
mod anomalies;
mod bodies;
mod cache_fleet;
mod cache_life;
mod cache_proof;
mod cache_rebuild;
mod canary;
mod cluster;
mod equality;
mod event_types;
mod export;
mod export_times;
mod funnels_retention;
mod live;
mod meta;
mod newest_event;
mod other_groups;
mod privacy;
mod query;
mod query_admission;
mod query_answers;
mod query_cache;
mod query_structured;
mod rate_limits;
mod redis_fleets;
mod registry;
mod schemas;
mod sql_api;
mod sql_escapes;
mod sql_values;
mod traces;
mod warm_start;
