//! ClickHouse stands still under load. The same scenario, longer: `loadtest outage --seconds 30`.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tallyhouse_loadtest::development::INGEST_KEY;
use tallyhouse_loadtest::outage::{self, Ending, OutageConfig, OutageReport};
use tallyhouse_loadtest::process;
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::Endpoint;

/// More than the ingester may hold in its bounded queues, far less than a queue without a limit would take.
const MEMORY_HEADROOM: u64 = 96 << 20;

async fn play(lasts: Duration, ending: Ending) -> OutageReport {
    let config = OutageConfig { binary: env!("CARGO_BIN_EXE_tallyhouse").into(), lasts, ending, seed: 7 };
    let report = outage::run(&config).await.unwrap();
    eprintln!("{report}");
    assert!(report.verification.is_exact(), "{report}");
    assert_eq!(report.lost_probes, 0, "a success was reported for an event that was not durable: {report}");
    assert_eq!(report.probes.without_retry_after, 0, "{report}");
    assert!(report.probes.other.is_empty(), "{:?}", report.probes.other);
    assert!(report.memory_peak <= report.memory_before + MEMORY_HEADROOM, "{report}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn while_clickhouse_stands_still_events_are_acknowledged_and_durable() {
    let report = play(Duration::from_secs(15), Ending::Resume).await;
    assert!(report.probes.taken.len() > report.probes.handed_back, "the disk takes events meanwhile: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_in_an_outage_survives_a_crash_at_its_end() {
    play(Duration::from_secs(5), Ending::Crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_beside_a_frozen_clickhouse_ends_within_its_drain() {
    let drain = [("INGEST_DRAIN_MS", "8000"), ("QUERY_DRAIN_MS", "8000")];
    let system = System::start_with(Path::new(env!("CARGO_BIN_EXE_tallyhouse")), &drain).await.unwrap();
    let ingest = Endpoint::new(&format!("{}/v1/events", system.ingest_url()), Duration::from_secs(5)).unwrap();
    let ingest = ingest.api_key(INGEST_KEY).unwrap();
    process::signal(system.clickhouse_pid().unwrap(), Signal::STOP).unwrap();
    let taken = ingest.post(r#"{"eventType":"before_the_stop"}"#.into()).await.unwrap();
    assert_eq!(taken.status, 202, "{}", taken.excerpt());
    let began = Instant::now();
    system.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
