//! Time and allocations of an event in the ingester: `cargo bench -p tallyhouse-ingest`. The counts of a batch are of all its 100 events.
#![allow(clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark")]

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};

mod hot_path;

use hot_path::{HotPath, Records, body};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const SIZES: [usize; 2] = [1, 100];

fn main() {
    divan::main();
}

/// A body -> records of the log.
#[divan::bench(args = SIZES)]
fn take(bencher: Bencher<'_, '_>, events: usize) {
    let path = HotPath::default();
    let body = body(0, events);
    path.take(&body, &mut Records::for_events(events));
    bencher.counter(ItemsCount::new(events)).with_inputs(|| Records::for_events(events)).bench_local_refs(|records| {
        path.take(&body, records);
    });
}

/// Records of the log -> columns of a batch.
#[divan::bench(args = SIZES)]
fn store(bencher: Bencher<'_, '_>, events: usize) {
    let path = HotPath::default();
    let mut records = Records::for_events(events);
    path.take(&body(0, events), &mut records);
    bencher.counter(ItemsCount::new(events)).bench_local(|| path.store(&records));
}
