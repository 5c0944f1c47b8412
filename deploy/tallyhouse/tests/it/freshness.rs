//! No answer is older than promised, whatever becomes of Redis. The same, longer: `make freshness`.

use std::time::Duration;

use tallyhouse_loadtest::degrade::Programs;
use tallyhouse_loadtest::degrade::freshness::{self, FreshnessConfig};
use tallyhouse_testkit::programs;

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_older_than_its_class_allows() {
    let config = FreshnessConfig {
        programs: Programs { tallyhouse: programs::tallyhouse(), query_api: programs::query_api() },
        lasts: Duration::from_secs(44),
        phase: Duration::from_secs(9),
        ttl: Duration::from_secs(2),
        // All tests at once.
        slack: Duration::from_secs(2),
        seed: 2_013,
    };
    let report = freshness::run(&config, |line| eprintln!("{line}")).await.unwrap();
    eprintln!("{report}");
    assert!(report.holds(), "{report}");
    let answers: u64 = report.phases.iter().map(|(_, judged)| judged.answers).sum();
    assert!(report.events > 20 && answers > 200, "{report}");
}
