//! Records as they are in Kafka and in the local log (`wire::decode`).
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../schema/tests/hold/mod.rs"]
#[allow(dead_code)]
mod hold;

fuzz_target!(|bytes: &[u8]| hold::record(bytes));
