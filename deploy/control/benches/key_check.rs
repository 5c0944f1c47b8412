//! Time and allocations of the check of a key, in process: `cargo bench -p tallyhouse-control`. Of 10,000 keys, at most 3 us each.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark")]

use divan::{AllocProfiler, Bencher};
use tallyhouse_control::{Control, FixedKey, FixedKeys, key_text};
use tallyhouse_service::access::Scope;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn control() -> (Control, String) {
    let mut keys = FixedKeys::default();
    let mut last = String::new();
    for number in 0..10_000 {
        last = key_text::generate(&[Scope::Ingest]).expose().to_owned();
        keys.add(&last, FixedKey::new("shop", &format!("key_{number}"), &[Scope::Ingest]));
    }
    (Control::fixed(keys), last)
}

#[divan::bench]
fn known(bencher: Bencher<'_, '_>) {
    let (control, key) = control();
    bencher.bench_local(|| control.find(&key).expect("it is known"));
}

#[divan::bench]
fn unknown(bencher: Bencher<'_, '_>) {
    let (control, _) = control();
    let key = key_text::generate(&[Scope::Ingest]).expose().to_owned();
    bencher.bench_local(|| control.find(&key).err());
}

#[divan::bench]
fn mistyped(bencher: Bencher<'_, '_>) {
    let (control, key) = control();
    let key = key.replace(|c: char| c.is_ascii_digit(), "x");
    bencher.bench_local(|| control.find(&key).err());
}
