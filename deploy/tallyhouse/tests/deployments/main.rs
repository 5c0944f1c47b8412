//! What `deploy/compose`, `deploy/k8s` and `deploy/systemd` ship: read as their tools read it, compared with the code, and run as far as that goes without
//! containers.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a helper that panics fails its test; the exemption in .clippy.toml covers only the tests themselves"
)]
#![allow(unreachable_pub, reason = "nothing outside a test binary reaches anything")]

mod compose;
mod compose_file;
mod compose_run;
mod compose_tiers;
mod image;
mod machine;
mod manifest;
mod manifests;
mod network;
mod programs;
mod redis_cluster;
mod tools;
