//! Segments of the local log.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../ingest/src/log/local/frame.rs"]
mod frame;
#[path = "../../ingest/tests/frames/walk.rs"]
mod walk;

fuzz_target!(|bytes: &[u8]| {
    walk::walk(bytes, 0);
});
