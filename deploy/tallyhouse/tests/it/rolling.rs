//! Gateways, consumers and query APIs are restarted in turn behind nginx, under load. The same, longer and one by one: `make rolling`.

use std::time::Duration;

use tallyhouse_loadtest::chaos::fleet::Programs;
use tallyhouse_loadtest::rolling::{self, Order, RollingConfig};
use tallyhouse_testkit::{is_kafka_off, programs, skipped};

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_event_and_no_question() {
    if is_kafka_off() {
        return skipped("a_rolling_restart_loses_no_event_and_no_question", "it needs Kafka, and KAFKA_TESTS=off");
    }
    let config = RollingConfig {
        programs: Programs {
            tallyhouse: programs::tallyhouse(),
            ingest: programs::ingest(),
            query_api: programs::query_api(),
        },
        order: Order::OneOfEach,
        rounds: 1,
        calm: Duration::from_millis(500),
        // Longer than nginx keeps an idle connection: see its file.
        delay: Duration::from_millis(1_500),
        events: 400,
        questions: 40,
    };
    let report = rolling::run(&config, |line| eprintln!("{line}")).await.unwrap();
    eprintln!("{report}");
    assert!(report.is_exact(), "{report}");
}
