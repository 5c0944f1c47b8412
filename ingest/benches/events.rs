//! Time and allocations of an event in the ingester: `cargo bench -p tallyhouse-ingest`. The counts of a batch are of all its 100 events.
#![allow(clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark")]

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};

mod hot_path;

use hot_path::{HotPath, Records, body, schema};

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

/// A body of events with twenty properties -> records of the log: without a schema, and with one that is enforced.
#[divan::bench(args = [("unchecked", schema::NONE), ("enforced", schema::DOCUMENT)].map(|(name, document)| Declared { name, document }))]
fn take_twenty_fields(bencher: Bencher<'_, '_>, declared: &Declared) {
    const EVENTS: usize = 100;
    let path = HotPath::declaring(declared.document);
    let body = schema::body(EVENTS);
    bencher.counter(ItemsCount::new(EVENTS)).with_inputs(|| Records::for_events(EVENTS)).bench_local_refs(|records| {
        path.take(&body, records);
    });
}

/// A declaration, by a name for the report.
struct Declared {
    name: &'static str,
    document: &'static str,
}

impl std::fmt::Display for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
