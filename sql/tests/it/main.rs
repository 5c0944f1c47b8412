//! Migrations and rollups in a real ClickHouse, in one binary so that its tests share it. A file is a topic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod erasure;
mod migrations;
mod retention;
mod rollups;
mod tiers;
