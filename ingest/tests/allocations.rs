//! How often an event of a batch asks for memory, from the body to the columns of the insert.
#![allow(clippy::expect_used, clippy::panic, reason = "a helper that panics fails its test")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "../benches/hot_path/mod.rs"]
mod hot_path;

use hot_path::{HotPath, Records, body, schema};

#[global_allocator]
static ALLOC: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Events of a batch.
const EVENTS: usize = 100;

/// Alone in its file: whatever another thread allocates would be counted.
#[test]
fn an_event_needs_few_allocations() {
    let path = HotPath::default();
    let body = body(0, EVENTS);
    // Once before: what is remembered of user agents and dimension values is not the second event's cost.
    path.take(&body, &mut Records::for_events(EVENTS));
    let mut records = Records::for_events(EVENTS);
    let region = Region::new(ALLOC);
    path.take(&body, &mut records);
    let taken = region.change();
    let builder = path.store(&records);
    let all = region.change();
    assert_eq!(builder.rows(), EVENTS);
    let per_event = |count: usize| count as f64 / EVENTS as f64;
    println!(
        "{:.2} allocations and {:.2} reallocations an event, {:.2} and {:.2} of them until it is in the log",
        per_event(all.allocations),
        per_event(all.reallocations),
        per_event(taken.allocations),
        per_event(taken.reallocations)
    );
    assert!(per_event(all.allocations + all.reallocations) <= 10.0, "{all:?}");
    let of_orders = |document: &str| {
        let (path, body, mut records) =
            (HotPath::declaring(document), schema::body(EVENTS), Records::for_events(EVENTS));
        path.take(&body, &mut Records::for_events(EVENTS));
        let region = Region::new(ALLOC);
        path.take(&body, &mut records);
        region.change().allocations
    };
    let (unchecked, enforced) = (of_orders(schema::NONE), of_orders(schema::DOCUMENT));
    assert!(enforced <= unchecked + EVENTS / 50, "a schema asks for no memory: {unchecked} and {enforced}");
}
