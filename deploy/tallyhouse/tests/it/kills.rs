//! `kill -9` of the serving process and of ClickHouse at random moments under load. The same scenario, longer:
//! `loadtest kills --times 20`.

use std::num::NonZeroU64;

use tallyhouse_loadtest::kills::{self, KillsConfig};

const KILLS_OF_EACH: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_whatever_is_killed() {
    let config = KillsConfig {
        binary: env!("CARGO_BIN_EXE_tallyhouse").into(),
        times: KILLS_OF_EACH,
        seed: 2_013,
        poison: NonZeroU64::new(1_000),
    };
    let report = kills::run(&config, |line| eprintln!("{line}")).await.unwrap();
    eprintln!("{report}");
    assert_eq!(report.kills, 2 * KILLS_OF_EACH as usize);
    assert!(report.verification.is_exact(), "{}", report.verification);
    assert!(report.verification.dead_letters > 0, "there was no poison: {}", report.verification);
}
