//! Everything is broken in turn under load: gateway, consumers, brokers, ClickHouse, Redis. The same, longer: `make chaos`.

use std::num::NonZeroU64;
use std::time::Duration;

use tallyhouse_loadtest::chaos::fleet::Programs;
use tallyhouse_loadtest::chaos::{self, ChaosConfig, Deployment};

use tallyhouse_testkit::{self as support, programs};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_whatever_breaks() {
    if support::is_kafka_off() {
        eprintln!("SKIPPED nothing_is_lost_or_counted_twice_whatever_breaks: it needs Kafka, and KAFKA_TESTS=off");
        return;
    }
    let config = ChaosConfig {
        programs: Programs {
            tallyhouse: programs::tallyhouse(),
            ingest: programs::ingest(),
            query_api: programs::query_api(),
        },
        deployment: Deployment::Kafka,
        lasts: Duration::from_secs(12),
        seed: 2_013,
        runs: 1,
        rate: 500,
        poison: NonZeroU64::new(1_000),
    };
    let report = chaos::run(&config, |line| eprintln!("{line}")).await.unwrap();
    eprintln!("{report}");
    assert!(report.is_exact(), "{report}");
    assert!(report.runs.iter().all(|run| run.verification.dead_letters > 0), "there was no poison: {report}");
}
