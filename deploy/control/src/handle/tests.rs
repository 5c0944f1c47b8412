use std::sync::atomic::AtomicI64;

use tallyhouse_service::access::Scope;
use tallyhouse_service::health::Status;

use super::*;
use crate::snapshot::FixedKey;

#[test]
fn the_clock_does_not_go_back() {
    let wall = Arc::new(AtomicI64::new(1_000_000));
    let shown = Arc::clone(&wall);
    let control = Control::open(ControlOptions {
        service: "test",
        data: None,
        store: None,
        fixed: FixedKeys::default(),
        clock: Arc::new(move || shown.load(Ordering::Relaxed)),
    });
    assert_eq!(control.now_ms(), 1_000_000);
    wall.store(5_000_000, Ordering::Relaxed);
    assert_eq!(control.now_ms(), 5_000_000);
    wall.store(2_000_000, Ordering::Relaxed);
    assert_eq!(control.now_ms(), 5_000_000);
    wall.store(5_000_001, Ordering::Relaxed);
    assert_eq!(control.now_ms(), 5_000_001);
}

#[test]
fn without_a_key_nobody_is_served() {
    let (none, some) = (Health::default(), Health::default());
    Control::fixed(FixedKeys::default()).report_to(&none);
    assert_eq!(none.report().components["keys"].status, Status::Down);
    let mut keys = FixedKeys::default();
    keys.add("k", FixedKey::new("p", "k", &[Scope::Ingest]));
    Control::fixed(keys).report_to(&some);
    assert!(some.is_ready());
}
