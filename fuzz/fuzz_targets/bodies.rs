//! Bodies of requests, and texts of single events (`raw::read`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use tallyhouse_schema::body::Layout;

#[path = "../../schema/tests/hold/mod.rs"]
#[allow(dead_code)]
mod hold;

fuzz_target!(|bytes: &[u8]| {
    hold::body(bytes, Layout::Json, |_| {});
    hold::body(bytes, Layout::Ndjson, |_| {});
    if let Ok(text) = std::str::from_utf8(bytes) {
        hold::event(text, None, |_| {});
    }
});
