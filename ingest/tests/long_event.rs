//! What a small request costs that inflates to one long event: no more memory than an event may have, before it is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that panics fails its test")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tallyhouse_schema::body::{Decoded, Layout, decode, read_all};
use tallyhouse_schema::limits::MAX_EVENT_BYTES;

#[global_allocator]
static ALLOC: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Alone in its file: whatever another thread allocates would be counted.
#[test]
fn an_event_that_is_too_long_is_not_built() {
    let event = format!(r#"{{"eventType":"a","list":[{}1]}}"#, "1,".repeat(2 << 20));
    for body in [event.clone(), format!("[{event}]"), format!(r#"{{"a":1,"events":[{event}]}}"#)] {
        let Ok(Decoded::Clean(text)) = decode(body.as_bytes()) else { panic!("it is UTF-8") };
        for layout in [Layout::Json, Layout::Ndjson] {
            let region = Region::new(ALLOC);
            assert_eq!(read_all(text.as_str(), layout, |_, _| {}), None);
            let allocated = region.change().bytes_allocated;
            assert!(allocated < 100 * MAX_EVENT_BYTES, "{allocated} bytes for {}", body.len());
        }
    }
}
